"""Faults of a host that ages: one page as KVM does it, and whole ranges at once where that is sure.

The page at a time is `kvm_tdp_mmu_page_fault` (dpamt.host.kvm.mmu).  From the second page of a
range on, a fault whose region has its pair leaves both pools and the allocator as the one before
it did: two pages leave the pool, come back by the allocator's front, and go in again at the next.
So the rest of a folio is one addition, and single pages go by runs.
"""

from array import array

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.plan.ageing.pages import PAMT_CACHE_PAGES, CountedPages, OutOfMemory
from dpamt.plan.ageing.tds import RANGES_PER_1G, Part, Td, Vcpu

_ALL = b"\1" * PAGES_PER_2M


class FaultPath(CountedPages):
    """How memory of a TD comes to be mapped."""

    def fault(self, td: Td, vcpu: int, first: int, count: int, at_2m: bool = False) -> None:
        """The guest accepts pages [first, first + count): those not mapped yet, in rising order.

        ``at_2m``: ranges that lie wholly in it are asked for as 2M pages, and page by page where
        that cannot be.  Raises OutOfMemory where it happens, with the pages before it mapped.
        """
        own = td.vcpus[vcpu]
        page, end = first, first + count
        while page < end:
            index, slot = divmod(page, PAGES_PER_2M)
            most = min(end - page, PAGES_PER_2M - slot)
            if not td.large[index] and (not td.table[index] or index in td.parts):
                whole = most == PAGES_PER_2M
                if whole and td.huge and not td.table[index] and not td.folio[index]:
                    most *= self._fault_whole(td, own, index, end // PAGES_PER_2M, at_2m)
                else:
                    self._fault_pages(td, own, index, slot, slot + most, at_2m and whole)
            elif td.table[index] and not td.folio[index]:
                self._fault_pages(td, own, index, slot, slot + most, False)
            page += most

    def _fault_pages(
        self, td: Td, vcpu: Vcpu, index: int, low: int, high: int, at_2m: bool
    ) -> None:
        """Pages of one range, page by page and then by what is sure to go alike."""
        slot = low
        if at_2m and self._unmapped(td, index, 0):
            self.fault_page(td, vcpu, index, 0, True)
            if td.large[index]:
                return
            slot = 1
        done = 0
        while slot < high:
            part = td.parts.get(index)
            if part is None and td.folio[index] and td.table[index]:
                return  # wholly mapped by now
            if part is not None and part.mapped[slot]:
                slot += 1
                continue
            if done and part is not None:
                if td.folio[index]:
                    if done > 1:
                        self._rest_of_folio(td, index, part, slot, high)
                        return
                else:
                    taken = self._run_of_singles(vcpu, part, slot, high)
                    if taken:
                        slot += taken
                        continue
            self.fault_page(td, vcpu, index, slot, False)
            done += 1
            slot += 1

    def _unmapped(self, td: Td, index: int, slot: int) -> bool:
        part = td.parts.get(index)
        if part is not None:
            return not part.mapped[slot]
        return not td.folio[index]

    def fault_page(self, td: Td, vcpu: Vcpu, index: int, slot: int, at_2m: bool) -> None:
        """One fault on a page that is not mapped.  Raises OutOfMemory."""
        self.top_up(vcpu)
        part = td.parts.get(index)
        region = td.folio[index]
        large = False
        if td.huge and not region and (part is None or not part.held):
            region = self.allocator.folio()
            if region:
                td.folio[index] = region
                part = td.parts[index] = Part(0, PAGES_PER_2M, True)
        if region:
            assert part is not None
            assert part.punched is not None
            large = at_2m and part.held == PAGES_PER_2M
            if part.punched[slot]:
                part.punched[slot] = 0
                part.held += 1
            pfn = region * PAGES_PER_2M + slot
        else:
            pfn, part = self._single(td, index, slot, part)
        self._link_upper(td, vcpu, index)
        if not td.table[index]:
            if large:
                td.large[index] = self.large[region] = 1
                del td.parts[index]
                return
            td.table[index] = self._link(vcpu)
        self.get(pfn, vcpu.pamt_cache)
        part.mapped[slot] = 1
        if region and part.held == PAGES_PER_2M and part.mapped == _ALL:
            del td.parts[index]

    def _single(self, td: Td, index: int, slot: int, part: Part | None) -> tuple[int, Part]:
        """The single page that backs a slot, allocated if need be."""
        if part is None or part.pages is None:
            part = td.parts[index] = Part(0, 0, False)
        assert part.pages is not None
        pfn = part.pages[slot]
        if not pfn:
            pfn = self.allocator.page()
            if not pfn:
                raise OutOfMemory("no page for a TD's memory")
            part.pages[slot] = pfn
            part.held += 1
        return pfn, part

    def _link_upper(self, td: Td, vcpu: Vcpu, index: int) -> None:
        gigabyte = index // RANGES_PER_1G
        if not td.upper_1g[gigabyte]:
            top = gigabyte // RANGES_PER_1G
            if not td.upper_512g[top]:
                td.upper_512g[top] = self._link(vcpu)
            td.upper_1g[gigabyte] = self._link(vcpu)

    def _link(self, vcpu: Vcpu) -> int:
        """SEPT.ADD of a page of the pool."""
        sept = vcpu.sept_cache.pop()
        self.get(sept, vcpu.pamt_cache)
        return sept

    def _rest_of_folio(self, td: Td, index: int, part: Part, low: int, high: int) -> None:
        """The pages of [low, high) that are not mapped, all of a folio whose region has a pair."""
        marks = part.punched
        assert marks is not None
        missing = high - low - sum(part.mapped[low:high])
        self.counts[td.folio[index]] += missing
        part.held += sum(marks[low:high])
        marks[low:high] = bytes(high - low)
        part.mapped[low:high] = _ALL[low:high]
        if part.held == PAGES_PER_2M and part.mapped == _ALL:
            del td.parts[index]

    def _run_of_singles(self, vcpu: Vcpu, part: Part, slot: int, high: int) -> int:
        """Single pages from ``slot`` on whose region has its pair, as far as they rise: how many.

        0 where the next page is not such a one; the pools are filled then, which is its first step.
        A single page that is not mapped is not there at all: the two come and go together.
        """
        pages = part.pages
        if pages is None:
            return 0
        most = part.mapped.find(1, slot, high)
        most = (high if most < 0 else most) - slot
        self.top_up(vcpu)
        run = self.allocator.rising(most, self.counts)
        count = len(run)
        if not count:
            return 0
        pages[slot : slot + count] = array("I", run)
        part.mapped[slot : slot + count] = _ALL[:count]
        part.held += count
        self.counts[run[0] // PAGES_PER_2M] += count
        if self.plain:
            pool = vcpu.pamt_cache
            self.free_pair(pool.pop(), pool.pop())
        return count

    def _fault_whole(self, td: Td, vcpu: Vcpu, index: int, end: int, at_2m: bool) -> int:
        """Whole ranges of [index, end) from ``index`` on, of a TD that gets folios, the first one
        without backing and without table: how many."""
        done = 0
        if td.upper_1g[index // RANGES_PER_1G]:
            count = self._fresh_from(td, index, end)
            if at_2m:
                done = self._fault_2m(td, vcpu, index, count)
            elif self.plain:
                done = self._fault_4k(td, vcpu, index, count)
        if not done:
            self._fault_fresh(td, vcpu, index, at_2m)
        return done or 1

    def _fault_fresh(self, td: Td, vcpu: Vcpu, index: int, at_2m: bool) -> None:
        """One such range.  At 4K: the first fault, the top-up of the second, and what the last one
        leaves."""
        self.top_up(vcpu)
        region = self.allocator.folio()
        if not region:
            self._fault_pages(td, vcpu, index, 0, PAGES_PER_2M, at_2m)
            return
        td.folio[index] = region
        if not td.upper_1g[index // RANGES_PER_1G]:
            self._link_upper(td, vcpu, index)
        if at_2m:
            td.large[index] = self.large[region] = 1
            return
        td.table[index] = self._link(vcpu)
        pool = vcpu.pamt_cache
        self.install_whole(region, (pool.pop(), pool.pop()))
        self.top_up(vcpu)
        self.free_pair(pool.pop(), pool.pop())

    def _fresh_from(self, td: Td, index: int, end: int) -> int:
        """Ranges from ``index`` on without backing or table, below the same S-EPT page."""
        end = min(end, (index // RANGES_PER_1G + 1) * RANGES_PER_1G)
        folio, table, parts = td.folio, td.table, td.parts
        at = index + 1
        while at < end and not (folio[at] or table[at] or at in parts):
            at += 1
        return at - index

    def _fault_2m(self, td: Td, vcpu: Vcpu, first: int, count: int) -> int:
        """Fresh ranges at 2M, below an S-EPT page that is there: how many of them.

        No such fault takes anything from the pools, so nothing happens but folios.
        """
        self.top_up(vcpu)
        folio, large, all_large = td.folio, td.large, self.large
        at = first
        for region, regions in self.allocator.folios(count):
            if regions == 1:
                folio[at] = region
                large[at] = all_large[region] = 1
                at += 1
                continue
            end, end_region = at + regions, region + regions
            folio[at:end] = array("I", range(region, end_region))
            large[at:end] = all_large[region:end_region] = b"\1" * regions
            at = end
        return at - first

    def _fault_4k(self, td: Td, vcpu: Vcpu, first: int, count: int) -> int:
        """Fresh ranges at 4K, below an S-EPT page that is there: how many of them.

        :meth:`_fault_fresh` again and again, written out, for as many as the allocator has pages in
        front; pages are only handed back and forth at the ends of three lists.
        """
        counts, sept, pamt = self.counts, vcpu.sept_cache, vcpu.pamt_cache
        pair_first, pair_second = self.pair_first, self.pair_second
        at = first
        while at < first + count:
            front, runs = self.allocator.take_front(first + count - at)
            if not runs:
                break
            for start, regions in runs:
                for region in range(start, start + regions):
                    while len(sept) < PT64_ROOT_MAX_LEVEL:
                        sept.append(front.pop())
                    while len(pamt) < PAMT_CACHE_PAGES:
                        pamt.append(front.pop())
                    table = sept.pop()
                    own = table // PAGES_PER_2M
                    before = counts[own]
                    counts[own] = before + 1
                    if before:
                        front.append(pamt.pop())
                        front.append(pamt.pop())
                    else:
                        self.install(own, pamt.pop(), pamt.pop())
                    pair_first[region] = pamt.pop()
                    pair_second[region] = pamt.pop()
                    counts[region] = PAGES_PER_2M
                    td.folio[at] = region
                    td.table[at] = table
                    at += 1
                    sept.append(front.pop())
                    pamt += front[:-5:-1]
                    del front[-4:]
                    front.append(pamt.pop())
                    front.append(pamt.pop())
                self.pairs += regions
        return at - first
