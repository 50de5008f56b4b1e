"""What the fuzzer looks at after every call: what the call has changed, and that it may be so.

The laws of the tree (counts, bitmap, pairs, owners, one use for a page) are about a region and the
regions of its pair; so what has not changed since it was last found right is right.  The watch
keeps a copy of the PAMT, finds what differs, and derives those parts anew from the raw arrays, not
from :mod:`dpamt.module.view`, which :meth:`TreeWatch.against` compares with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.operands import OPERAND_RCX
from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    PAGE_SHIFT,
    PAGES_PER_1G,
    PAGES_PER_2M,
    PT_EPT,
    PT_PAMT,
    PT_REG,
    PT_RSVD,
    PT_TDR,
    RDMD_NON_LEAF,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import SYS_READY
from dpamt.module.module import TdxModule
from dpamt.module.processor import LogicalProcessor
from dpamt.module.view import ModuleView
from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.host_priority import EX, HP, HostPriorityWords
from dpamt.sync.shared_exclusive import SharedExclusiveLocks
from tests.module.rig import FIRST, RESERVED, SIZE

Registers = tuple[int, ...]
_RESERVED_REGION = RESERVED >> 21
_RESERVED_BITS = 0b1111
_TDMR = range(FIRST >> PAGE_SHIFT, FIRST + SIZE >> PAGE_SHIFT)
RDMD_PAGES = 6
"""Of the pages that one call has changed in one region, RDMD is asked about so many."""


@dataclass
class _Region:
    """A 2M region, as derived from the arrays."""

    node: int = 0
    count: int = 0
    bits: int = 0
    entries: Sequence[int] = ()
    used: int = 0
    """A bit for each 4K entry that is not free."""
    owners: dict[int, int] = field(default_factory=dict)
    """TDR frame to the 4K pages of the region that it owns, beside itself."""
    tdrs: list[int] = field(default_factory=list)

    @property
    def large(self) -> int:
        """The entry of a 2M page, or 0."""
        return self.node if self.node & 0xFF != PT_PAMT else 0


class TreeWatch:
    """A copy of a module's PAMT, and what is wrong with what differs from it."""

    def __init__(self, module: TdxModule) -> None:
        self.module = module
        self._lp = LogicalProcessor(module, 0, 0)
        """One that nobody else uses: it looks while a call on any other is in progress."""
        self.regions: dict[int, _Region] = {}
        self._huge: dict[int, int] = {}
        self._words: tuple[dict[int, int], ...] = ({}, {}, {}, {}, {})
        self._entries: dict[int, Sequence[int]] = {}
        self._owned: dict[int, int] = {}
        self._tdrs: list[int] = []
        self._holders: dict[int, int] = {}
        """Page to the number of places in pairs that name it."""
        self._take_over()
        self._count_owners()

    def look(self, call: int, given: Registers, status: int, answer: Registers) -> list[str]:
        """A sentence for everything wrong in what the call, just made, has changed."""
        old_pairs = self._pairs()
        pages = self._take_over()
        found = self._pair_law(old_pairs, call, given, status, answer)
        for region in pages:
            found += self._region_law(region)
        if pages:
            self._count_owners()
        found += self._owner_law()
        if pages and self.module.sys_state.load() == SYS_READY:
            for region, changed in pages.items():
                found += self.rdmd(region, changed[:RDMD_PAGES])
        return found

    def _pairs(self) -> dict[int, tuple[int, int]]:
        node, _, first, second, _ = self._words
        return {
            region: (first.get(region, 0), second.get(region, 0))
            for region, entry in node.items()
            if entry & 0xFF == PT_PAMT
        }

    # What differs.

    def _take_over(self) -> dict[int, list[int]]:
        """Make the copy what the module is; the regions to look at, and their changed pages."""
        pamt = self.module.pamt
        node = {index: word.load() for index, word in pamt.first_2m.non_zero()}
        words = (
            {index: entry for index, entry in node.items() if entry},
            dict(pamt.count_2m.non_zero()),
            dict(pamt.pair0_2m.non_zero()),
            dict(pamt.pair1_2m.non_zero()),
            dict(pamt.bitmap.non_zero()),
        )
        changed: dict[int, list[int]] = {}
        for old, new in zip(self._words, words, strict=True):
            if old != new:
                for region in old.keys() | new.keys():
                    if old.get(region, 0) != new.get(region, 0):
                        changed[region] = []
        for region, entries in self._changed_entries():
            before = self._entries.get(region) or (0,) * PAGES_PER_2M
            changed[region] = [n for n in range(PAGES_PER_2M) if before[n] != entries[n]]
            self._entries[region] = entries
        huge = {block: word.load() for block, word in pamt.first_1g.non_zero() if word.load()}
        if huge != self._huge:
            blocks = {
                b for b in huge.keys() | self._huge.keys() if huge.get(b) != self._huge.get(b)
            }
            for region in self.regions:
                if region >> 9 in blocks:
                    changed.setdefault(region, [])
            self._huge = huge
        if words[2] != self._words[2] or words[3] != self._words[3]:
            self._count_holders(words, changed)
        self._words = words
        for region in changed:
            self.regions[region] = self._derive(region)
        return changed

    def _changed_entries(self) -> Iterator[tuple[int, Sequence[int]]]:
        """Regions whose 4K entries differ from the copy."""
        array = self.module.pamt.entries_4k
        for region in array.pages():
            entries = array.find(region)._payloads
            known = self._entries.get(region)
            if known is not entries and (known is None or known != entries):
                yield region, entries.copy() if isinstance(entries, list) else entries

    def _count_holders(
        self, words: tuple[dict[int, int], ...], changed: dict[int, list[int]]
    ) -> None:
        holders: dict[int, int] = {}
        for array in words[2:4]:
            for region, page in array.items():
                if words[0].get(region, 0) & 0xFF == PT_PAMT:
                    holders[page] = holders.get(page, 0) + 1
        for page in holders.keys() | self._holders.keys():
            if holders.get(page) != self._holders.get(page):
                changed.setdefault(page >> 9, [])
        self._holders = holders

    def _derive(self, region: int) -> _Region:
        node, count, _, _, bits = (array.get(region, 0) for array in self._words)
        found = _Region(node, count, bits, self._entries.get(region, ()))
        for index, entry in enumerate(found.entries):
            if entry:
                found.used |= 1 << index
                if entry & 0xFF == PT_TDR:
                    found.tdrs.append(region << 9 | index)
                else:
                    owner = entry >> 8
                    found.owners[owner] = found.owners.get(owner, 0) + 1
        return found

    # Laws.

    def reserved(self, region: int) -> int:
        """The reserved pages of a region, as the rig has laid them out."""
        known = region == _RESERVED_REGION and self.module.pamt.in_range(region << 9)
        return _RESERVED_BITS if known else 0

    def _region_law(self, index: int) -> Iterator[str]:
        region, pamt = self.regions[index], self.module.pamt
        reserved, name = self.reserved(index), f"region {index << 21:#x}"
        pair = region.node & 0xFF == PT_PAMT
        held = 0
        for page in self._holders:
            if page >> 9 == index:
                held |= 1 << (page & 511)
                if self._holders[page] > 1:
                    yield f"page {page << 12:#x} is in more than one place in pairs"
                if page not in _TDMR:
                    yield f"page {page << 12:#x} of a pair lies outside the TDMR"
        if region.count != (region.used.bit_count() if pair else 0):
            yield f"{name}: PAGE_COUNT {region.count} with {region.used.bit_count()} pages in use"
        if pair and region.node != PT_PAMT:
            yield f"{name}: a node has an owner, {region.node:#x}"
        if (pamt.dynamic and region.used and not pair) or (pair and not pamt.dynamic):
            yield f"{name}: 4K pages are in use and the entry is {region.node:#x}"
        wanted = (held | reserved) if pamt.dynamic else 0
        if region.bits != wanted:
            wrong = region.bits ^ wanted
            yield f"{name}: bitmap and pairs and reserved pages differ in {wrong:#x}"
        if region.used & (held | reserved):
            yield f"{name}: pages in use are also PAMT pages or reserved"
        huge = self._huge.get(index >> 9, 0)
        if (region.large or huge) and (region.used or held or reserved or (huge and region.node)):
            yield f"{name}: a large page has smaller ones in use"

    def _count_owners(self) -> None:
        owned: dict[int, int] = {}
        tdrs: list[int] = []
        for region in self.regions.values():
            tdrs += region.tdrs
            for owner, pages in region.owners.items():
                owned[owner] = owned.get(owner, 0) + pages
            if region.large:
                owner = region.large >> 8
                owned[owner] = owned.get(owner, 0) + PAGES_PER_2M
        for entry in self._huge.values():
            owned[entry >> 8] = owned.get(entry >> 8, 0) + PAGES_PER_1G
        self._owned, self._tdrs = owned, tdrs

    def _owner_law(self) -> Iterator[str]:
        for owner in self._owned.keys() - self._tdrs:
            yield f"pages belong to {owner << 12:#x}, which is no TDR"
        for page in self._tdrs:
            children = self.module.tds.at(page).children.load()
            if children != self._owned.get(page, 0):
                yield f"TD at {page << 12:#x}: CHLDCNT {children}, owns {self._owned.get(page, 0)}"

    def _pair_law(
        self,
        before: dict[int, tuple[int, int]],
        call: int,
        given: Registers,
        status: int,
        answer: Registers,
    ) -> list[str]:
        """A call adds the pair that it was given, takes out the pair that it tells, or neither."""
        after = self._pairs()
        if before == after:
            return []
        added = {r: pair for r, pair in after.items() if before.get(r) != pair}
        removed = {r: pair for r, pair in before.items() if after.get(r) != pair}
        if status:
            return [f"a refused call changes pairs: {added} added, {removed} removed"]
        first, second = {
            leaf.TDH_PHYMEM_PAMT_ADD: (given[1], given[2]),
            leaf.TDH_MEM_PAGE_DEMOTE: (given[6], given[7]),
            leaf.TDH_PHYMEM_PAMT_REMOVE: (answer[1], answer[2]),
            leaf.TDH_MEM_PAGE_PROMOTE: (answer[6], answer[7]),
        }.get(call, (0, 0))
        pair = [(first >> PAGE_SHIFT, second >> PAGE_SHIFT)]
        adds = call in (leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_MEM_PAGE_DEMOTE)
        wanted = (pair, []) if adds else ([], pair)
        if (list(added.values()), list(removed.values())) != wanted:
            return [f"pairs {added} added, {removed} removed, and the call says {pair}"]
        return []

    # RDMD.

    def shown(self, page: int) -> Registers:
        """RCX, RDX and R8 of RDMD of a 4K page."""
        region, pamt = self.regions.get(page >> 9) or _Region(), self.module.pamt
        huge, index = self._huge.get(page >> 18, 0), page & 511
        if huge or region.large:
            entry = huge or region.large
            return entry & 0xFF, entry >> 8 << PAGE_SHIFT, LEVEL_1G if huge else LEVEL_2M
        entry = region.entries[index] if region.entries else 0
        if entry:
            return entry & 0xFF, entry >> 8 << PAGE_SHIFT, LEVEL_4K
        if region.bits >> index & 1:
            return PT_PAMT, 0, LEVEL_4K
        if not pamt.dynamic:
            return PT_RSVD if self.reserved(page >> 9) >> index & 1 else 0, 0, LEVEL_4K
        return 0, 0, LEVEL_4K if region.node else LEVEL_2M

    def rdmd(self, region: int, indices: Sequence[int]) -> list[str]:
        """RDMD of pages of a region, and of the region, says what the arrays say.

        Who holds a lock is heard as BUSY; lock words are put back as they were.
        """
        pamt = self.module.pamt
        if not pamt.in_range(region << 9):
            return []
        found = []
        for index in indices:
            page = region << 9 | index
            found += self._rdmd(region, index, page << PAGE_SHIFT, (*self.shown(page), 0, 0))
        if pamt.dynamic:
            known = self.regions.get(region) or _Region()
            shown = self.shown(region << 9)
            pair = (0, 0)
            if known.node & 0xFF == PT_PAMT:
                shown = (PT_PAMT | RDMD_NON_LEAF, 0, LEVEL_2M)
                pair = self._pairs()[region]
            elif not (known.large or self._huge.get(region >> 9)):
                shown = (0, 0, LEVEL_2M)
            frames = (pair[0] << PAGE_SHIFT, pair[1] << PAGE_SHIFT)
            found += self._rdmd(region, 0, region << 21 | LEVEL_2M, (*shown, *frames))
        return found

    def _rdmd(self, region: int, index: int, info: int, shown: Registers) -> list[str]:
        """One of them; of R9, BEPOCH, only where there is none."""
        pamt = self.module.pamt
        words = pamt.first_1g.at(region >> 9), pamt.first_2m.at(region)
        page = pamt.entries_4k.at(region)
        locks = page.own_locks()
        before = [word.capture() for word in words], locks[index]
        args = TdxModuleArgs.of(rcx=info)
        status = self._lp.seamcall(leaf.TDH_PHYMEM_PAGE_RDMD, args)
        for word, value in zip(words, before[0], strict=True):
            word.restore(value)
        locks[index] = before[1]
        held = before[1] & EX or any(value & EX for value in before[0])
        if status == s.TDX_OPERAND_BUSY | OPERAND_RCX and held:
            return []
        epoch = args.r9 if shown[0] in (PT_REG, PT_EPT) else 0
        wanted = (*shown[:3], epoch, *shown[3:])
        if status or args.as_tuple()[:6] != wanted:
            return [f"RDMD of {info:#x}: {status:#x} {args.as_tuple()[:6]}, expected {wanted}"]
        return []

    # Others' look at the same.

    def against(self, view: ModuleView) -> list[str]:
        """The view that audits and reports use says the same as the watch."""
        used: dict[int, tuple[int, int]] = {}
        large: dict[int, tuple[int, int]] = {}
        for index, region in sorted(self.regions.items()):
            if region.used:
                for at, entry in enumerate(region.entries):
                    if entry:
                        used[index << 9 | at] = entry & 0xFF, entry >> 8
            if region.large:
                large[index << 9] = region.large & 0xFF, region.large >> 8
        huge = {block << 18: (entry & 0xFF, entry >> 8) for block, entry in self._huge.items()}
        pairs = {r: (*pair, self.regions[r].count) for r, pair in self._pairs().items()}
        same = {
            "pages in use": view.used_pages() == used,
            "2M pages": view.large_pages(LEVEL_2M) == large,
            "1G pages": view.large_pages(LEVEL_1G) == huge,
            "pairs": view.pairs() == pairs,
            "bitmap": view.bitmap() == self._words[4],
        }
        return [f"the view tells other {name}" for name, agrees in same.items() if not agrees]


def held_locks(module: TdxModule) -> dict[tuple[str, int], int]:
    """Every lock word of a module in which there is more than host priority, by array and index."""
    held: dict[tuple[str, int], int] = {}
    for name, array in module.shared._arrays.items():
        if isinstance(array, EntryPages):
            for page in array.pages():
                for index, word in array.find(page).locked().items():
                    held[name, page << 9 | index] = word
        elif isinstance(array, HostPriorityWords):
            for index, lock in array.non_zero():
                held[name, index] = lock.lock_word()
        elif isinstance(array, SharedExclusiveLocks):
            for index, word in array.capture():
                held[name, index] = word
    return {where: word for where, word in held.items() if word & ~HP}
