"""The host that ages: TDs are created and destroyed, split and punched; faults are in faults.py.

Each operation is that of KVM (dpamt.host.kvm) with nothing but what moves pages and counts.
"""

from array import array

import numpy as np

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.plan.ageing.faults import FaultPath
from dpamt.plan.ageing.pages import OutOfMemory
from dpamt.plan.ageing.tds import Part, Td, Vcpu
from dpamt.plan.ageing.zap import puts_of, runs_of, singles_of, stretches


class AgeingHost(FaultPath):
    """A booted host without TDs (:func:`dpamt.plan.ageing.boot.boot_ageing`), and then with them.

    Pages are counted from 0 in a TD; sizes are 4K pages unless they are named otherwise.
    """

    def create(self, memory: int, vcpus: int, huge: bool, image: int = 0) -> Td:
        """A TD of ``memory`` bytes (whole 2 MiB) that may run, ``image`` pages of it added.

        Raises OutOfMemory, with all given back.
        """
        control: list[int] = []
        made: list[Vcpu] = []
        td = Td(memory, huge, control, made)
        try:
            self._take_control_pages(control, 1 + self.sysinfo.tdcs_pages)
            params = self.allocator.page()
            if not params:
                raise OutOfMemory("no page for TD_PARAMS")
            self.allocator.free(params)
            for _ in range(vcpus):
                pages: list[int] = []
                made.append(Vcpu(pages))
                self._take_control_pages(pages, 1 + self.sysinfo.tdcx_pages_per_vcpu)
            if image:
                self._add_image(td, image)
        except OutOfMemory:
            self.destroy(td)
            raise
        return td

    def _take_control_pages(self, pages: list[int], count: int) -> None:
        for _ in range(count):
            pfn = self.control_page()
            if not pfn:
                raise OutOfMemory("no page for the control structures of a TD")
            try:
                self.get_alone(pfn)
            except OutOfMemory:
                self.free_control_page(pfn)
                raise
            pages.append(pfn)

    def _add_image(self, td: Td, pages: int) -> None:
        source = self.allocator.page()
        if not source:
            raise OutOfMemory("no page for the source of a TD's image")
        try:
            self.fault(td, 0, 0, pages)
        finally:
            self.allocator.free(source)

    def _free_control_pages(self, pages: list[int]) -> None:
        """Each is put and freed, its region's pair before it where it is the last."""
        counts = self.counts
        if not self.plain:
            for pfn in pages:
                self.put(pfn)
                self.free_control_page(pfn)
            return
        leaving: list[int] = []
        for pfn in pages:
            region = pfn // PAGES_PER_2M
            left = counts[region] - 1
            counts[region] = left
            if not left:
                self.pairs -= 1
                leaving += (self.pair_first[region], self.pair_second[region])
            leaving.append(pfn)
        self.allocator.free_many(leaving)

    def destroy(self, td: Td) -> None:
        """The last reference is gone: guest pages, S-EPT pages, VCPUs, control pages."""
        self._zap(td, 0, td.ranges)
        self._release_backing(td)
        for tables in (td.table, td.upper_1g, td.upper_512g):
            self._free_control_pages([pfn for pfn in tables if pfn])
        for vcpu in td.vcpus:
            self.free_pool(vcpu)
            self._free_control_pages(vcpu.control[1:] + vcpu.control[:1])
        self._free_control_pages(td.control[1:] + td.control[:1])

    def punch(self, td: Td, first: int, count: int) -> None:
        """Pages go out of the TD and back to the allocator: a balloon, or a conversion to shared.

        2M pages across an end are split first.  Raises OutOfMemory when a split gets no page.
        """
        end = first + count
        for edge in (first, end):
            if edge % PAGES_PER_2M:
                self.split(td, edge // PAGES_PER_2M)
        index = first // PAGES_PER_2M
        while index * PAGES_PER_2M < end:
            low = max(first - index * PAGES_PER_2M, 0)
            high = min(end - index * PAGES_PER_2M, PAGES_PER_2M)
            if high - low < PAGES_PER_2M:
                self._zap_slots(td, index, low, high)
                index += 1
                continue
            whole = index + 1
            while (whole + 1) * PAGES_PER_2M <= end:
                whole += 1
            self._zap(td, index, whole)
            index = whole
        self._punch_backing(td, first, end)

    def _punch_backing(self, td: Td, first: int, end: int) -> None:
        for index in range(first // PAGES_PER_2M, -(-end // PAGES_PER_2M)):
            low = max(first - index * PAGES_PER_2M, 0)
            high = min(end - index * PAGES_PER_2M, PAGES_PER_2M)
            if td.folio[index]:
                self._punch_folio(td, index, low, high)
            elif index in td.parts:
                self._punch_singles(td, index, low, high)

    def _punch_folio(self, td: Td, index: int, low: int, high: int) -> None:
        part = td.parts.get(index)
        if high - low == PAGES_PER_2M:
            left = 0
        else:
            if part is None:
                part = td.parts[index] = Part(1, PAGES_PER_2M, True)
                part.mapped[low:high] = bytes(high - low)
            marks = part.punched
            assert marks is not None
            part.held -= high - low - sum(marks[low:high])
            marks[low:high] = b"\1" * (high - low)
            left = part.held
        if not left:
            td.parts.pop(index, None)
            region, td.folio[index] = td.folio[index], 0
            self.allocator.free_folios(region)

    def _punch_singles(self, td: Td, index: int, low: int, high: int) -> None:
        part = td.parts[index]
        assert part.pages is not None
        leaving = singles_of([part], low, high)
        part.pages[low:high] = array("I", bytes(4 * (high - low)))
        part.held -= len(leaving)
        if not part.held:
            del td.parts[index]
        self.allocator.free_many(leaving)

    def split(self, td: Td, index: int) -> None:
        """DEMOTE of a 2M page, where the range is one: its region gets a pair and counts 512."""
        if not td.large[index]:
            return
        sept, pool = self.split_pages()
        self.get(sept, pool)
        region = td.folio[index]
        self.large[region] = td.large[index] = 0
        self.install_whole(region, (pool.pop(), pool.pop()))
        while pool:
            self.free_pair(pool.pop(), pool.pop())
        td.table[index] = sept

    def _zap(self, td: Td, first: int, end: int) -> None:
        """All mapped pages of whole ranges [first, end): puts in their order.

        Their backing must go next: it is not noted that folios are not mapped any more.
        """
        for start, stop, parts in stretches(td, first, end):
            if parts:
                self._zap_parts(td, start, stop)
            else:
                self._zap_folios(td, start, stop)

    def _zap_parts(self, td: Td, first: int, end: int) -> None:
        singles: list[Part] = []
        for index in range(first, end):
            if td.folio[index]:
                self._put_singles(singles)
                self._zap_slots(td, index, 0, PAGES_PER_2M)
            else:
                singles.append(td.parts[index])
        self._put_singles(singles)

    def _put_singles(self, parts: list[Part]) -> None:
        for region, pages in puts_of(parts):
            self.put_pages(region, pages)
        for part in parts:
            part.mapped = bytearray(PAGES_PER_2M)
        parts.clear()

    def _zap_folios(self, td: Td, first: int, end: int) -> None:
        """Ranges wholly mapped, at 4K or 2M, or empty."""
        if end - first == 1:
            self._zap_folio(td, first)
            return
        large = np.frombuffer(td.large, np.uint8)[first:end]
        folios = np.frombuffer(td.folio, np.uint32)[first:end]
        np.frombuffer(self.large, np.uint8)[folios[large != 0]] = 0
        regions = folios[(large == 0) & (folios != 0)]
        large[:] = 0
        if not len(regions):
            return
        if not self.plain:
            for region in regions.tolist():
                self.put_pages(region, PAGES_PER_2M)
            return
        np.frombuffer(self.counts, np.uint16)[regions] = 0
        self.pairs -= len(regions)
        pairs = np.empty(2 * len(regions), np.uint32)
        pairs[0::2] = np.frombuffer(self.pair_first, np.uint32)[regions]
        pairs[1::2] = np.frombuffer(self.pair_second, np.uint32)[regions]
        self.allocator.free_many(pairs)

    def _zap_folio(self, td: Td, index: int) -> None:
        """One such range."""
        region = td.folio[index]
        if td.large[index]:
            self.large[region] = td.large[index] = 0
        elif region:
            self.put_pages(region, PAGES_PER_2M)

    def _zap_slots(self, td: Td, index: int, low: int, high: int) -> None:
        region = td.folio[index]
        part = td.parts.get(index)
        if part is None:
            if not region:
                return
            part = td.parts[index] = Part(1, PAGES_PER_2M, True)
        if region:
            mapped = sum(part.mapped[low:high])
            if mapped:
                self.put_pages(region, mapped)
        else:
            for put_region, pages in puts_of([part], low, high):
                self.put_pages(put_region, pages)
        part.mapped[low:high] = bytes(high - low)

    def _release_backing(self, td: Td) -> None:
        """guest_memfd goes: folios and single pages in the order of the file."""
        for start, stop, parts in stretches(td, 0, td.ranges):
            singles: list[Part] = []
            if not parts:
                for region, count in runs_of(np.frombuffer(td.folio, np.uint32)[start:stop]):
                    self.allocator.free_folios(region, count)
                continue
            for index in range(start, stop):
                region = td.folio[index]
                if region:
                    self._free_singles(singles)
                    self.allocator.free_folios(region)
                else:
                    singles.append(td.parts[index])
            self._free_singles(singles)
        td.parts.clear()

    def _free_singles(self, parts: list[Part]) -> None:
        if parts:
            self.allocator.free_many(singles_of(parts))
            parts.clear()

    def pages_used(self) -> int:
        """4K pages that TDs use, 2M pages not counted."""
        return sum(self.counts)

    @staticmethod
    def bytes_of(pages: int) -> int:
        """Bytes of this number of 4K pages."""
        return pages << PAGE_SHIFT
