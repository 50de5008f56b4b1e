"""The Physical Address Metadata Table: 1G, 2M and 4K entries, the bitmap, pairs and page counts.

Every entry is two quadwords (:mod:`dpamt.abi.pages`): the first (type and OWNER, or type and HPA0)
is a payload under a host-priority lock, the second (BEPOCH, or count and HPA1) plain words.  A
walk takes the 1G and the 2M entry shared and the entry it ends at as asked; it ends at a leaf, at
the target size or, in dynamic mode, at a 2M entry without a pair.  A freed entry's first quadword
is cleared: the real module leaves stale OWNER bits in it, which a host must ignore.

    mode      2M entry NDA                 2M entry PAMT       reserved 4K page
    static    non-leaf: look at 4K         never               4K entry of type RSVD
    dynamic   no pair: region free at 4K   non-leaf: pair      bit set in the page bitmap

Pages are named by page frame number (HPA >> 12), 2M regions by HPA >> 21, 1G blocks by HPA >> 30.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [pamt_manager.c, pamt_manager.h].
"""

from typing import Final, NoReturn

from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    PAGE_SHIFT,
    PAGES_PER_2M,
    PAMT_PAGE_COUNT_MAX,
    PT_NDA,
    PT_PAMT,
    PT_RSVD,
    REMOVAL_HINT,
)
from dpamt.module.fatal import ModuleFatal
from dpamt.sync import BUSY, DECLINED, EXCLUSIVE, EntryPath, HostPriorityWord, LockSet, Shared, Word

AT_2M: Final = -2
AT_1G: Final = -3
OUT_OF_RANGE: Final = -4
"""A walk that did not reach its target: it ended at this level, or nothing is initialised there."""

OWNER_SHIFT: Final = 8
TYPE_MASK: Final = 0xFF
"""Payload of an entry: frame number of the owning TDR (of a node: 0) << 8 | page type."""

_INDEX_MASK: Final = PAGES_PER_2M - 1
_NO_USE: Final = frozenset({PT_NDA, PT_RSVD, PT_PAMT})
"""Types that no page has that the module knows to be in use."""


class PamtBlock:
    """A 1G entry."""

    __slots__ = ("bepoch", "first")

    def __init__(self, first: HostPriorityWord, bepoch: Word) -> None:
        self.first = first
        self.bepoch = bepoch


class PamtRegion(EntryPath):
    """A 2M entry: ``count`` is PAGE_COUNT, ``pair0`` and ``pair1`` the pages of HPA0 and HPA1.

    ``top`` is the 1G entry above it, ``entries`` the 4K entries below it (with a pair, or static),
    ``bepochs`` their BEPOCH, ``node`` the type of this entry with which they are reached.
    ``bitmap`` are its 512 page bits, ``reserved`` the reserved pages in static mode, a bit each.
    """

    __slots__ = (
        "base",
        "bepoch",
        "bepochs",
        "bitmap",
        "count",
        "pair0",
        "pair1",
        "reserved",
    )

    def __init__(self, index: int, top: HostPriorityWord, pamt: "Pamt") -> None:
        self.base = index << 9
        """Frame number of its first page."""
        super().__init__(top, pamt.first_2m.at(index), pamt.node_type, pamt.entries_4k.at(index))
        self.count = pamt.count_2m.at(index)
        self.pair0 = pamt.pair0_2m.at(index)
        self.pair1 = pamt.pair1_2m.at(index)
        self.bepoch = pamt.bepoch_2m.at(index)
        self.bitmap = pamt.bitmap.at(index)
        self.bepochs = pamt.bepochs_4k.at(index)
        self.reserved = pamt.reserved_static.get(index, 0)


class Pamt:
    """The table of one machine.  ``dynamic`` is fixed by SYS.CONFIG."""

    def __init__(self, shared: Shared) -> None:
        self.first_1g = shared.host_priority_words("module.pamt.1g")
        self.bepoch_1g = shared.words("module.pamt.1g.bepoch")
        self.first_2m = shared.host_priority_words("module.pamt.2m")
        self.count_2m = shared.words("module.pamt.2m.count")
        self.pair0_2m = shared.words("module.pamt.2m.hpa0")
        self.pair1_2m = shared.words("module.pamt.2m.hpa1")
        self.bepoch_2m = shared.words("module.pamt.2m.bepoch")
        self.entries_4k = shared.entry_pages("module.pamt.4k")
        self.bepochs_4k = shared.entry_pages("module.pamt.4k.bepoch")
        self.bitmap = shared.words("module.pamt.bitmap")
        self.dynamic = False
        self.node_type = 0
        """Type of a 2M entry below which there are 4K entries."""
        self._blocks: dict[int, PamtBlock] = {}
        self.regions: dict[int, PamtRegion] = {}
        """The regions that anything has asked for yet; see :meth:`find_region`."""
        self.reserved_static: dict[int, int] = {}
        """Reserved pages in static mode: region to bits."""

    def configure(self, dynamic: bool) -> None:
        """Fix the mode, at SYS.CONFIG."""
        self.dynamic = dynamic
        self.node_type = PT_PAMT if dynamic else 0

    def open_block(self, block: int) -> None:
        """Make a 1G block usable, when SYS.TDMR.INIT has completed it."""
        self._blocks[block] = PamtBlock(self.first_1g.at(block), self.bepoch_1g.at(block))

    def find_region(self, index: int) -> PamtRegion | None:
        """The 2M entry of a region, None outside initialised blocks; finding it is no step."""
        region = self.regions.get(index)
        if region is None:
            block = self._blocks.get(index >> 9)
            if block is None:
                return None
            region = self.regions[index] = PamtRegion(index, block.first, self)
        return region

    def region(self, index: int) -> PamtRegion:
        """The 2M entry of a region known to lie in an initialised block."""
        region = self.find_region(index)
        if region is None:
            raise KeyError(index)
        return region

    def block(self, index: int) -> PamtBlock:
        """The 1G entry of an initialised block."""
        return self._blocks[index]

    def in_range(self, page: int) -> bool:
        """Whether the page lies in an initialised block of a TDMR."""
        return page >> 18 in self._blocks

    # Walks.

    def walk(self, page: int, how: int, target: int, locks: LockSet) -> int:
        """Lock the path to ``page``: 1G and 2M entries shared, the one reached as ``how`` says.

        Returns the payload of the entry at level ``target``, or AT_2M or AT_1G when the tree ends
        above it (that entry is then the locked one), or BUSY or OUT_OF_RANGE.
        """
        region = self.find_region(page >> 9)
        if region is None:
            return OUT_OF_RANGE
        if target != LEVEL_4K:
            return self._walk_by_steps(region, page, how, target, locks)
        index = page & _INDEX_MASK
        leaf = locks.path(region, index, how)
        if leaf == DECLINED:
            leaf = self.walk_4k(region, index, how, locks)
        if not leaf and region.reserved >> (page & _INDEX_MASK) & 1:
            return PT_RSVD
        return leaf

    def walk_4k(self, region: PamtRegion, index: int, how: int, locks: LockSet) -> int:
        """As :meth:`walk` to 4K page ``index`` of a region, step by step; RSVD shows as NDA."""
        return self._walk_by_steps(region, index, how, LEVEL_4K, locks)

    def _walk_by_steps(
        self, region: PamtRegion, page: int, how: int, target: int, locks: LockSet
    ) -> int:
        entry = locks.shared(region.top)
        if entry < 0:
            return BUSY
        if entry or target == LEVEL_1G:
            if how == EXCLUSIVE:
                promoted = locks.promote(region.top)
                if not promoted:
                    return BUSY
            return entry if target == LEVEL_1G else AT_1G
        entry = locks.shared(region.first)
        if entry < 0:
            return BUSY
        if target == LEVEL_2M or entry != self.node_type:
            if how == EXCLUSIVE:
                promoted = locks.promote(region.first)
                if not promoted:
                    return BUSY
            return entry if target == LEVEL_2M else AT_2M
        if how == EXCLUSIVE:
            return locks.exclusive_entry(region.entries, page & _INDEX_MASK)
        return locks.shared_entry(region.entries, page & _INDEX_MASK)

    def reached(self, page: int, walked: int) -> tuple[int, int]:
        """(level, payload) of the entry that a walk aimed at 4K ended at and holds locked.

        ``walked`` is what the walk returned, not BUSY and not OUT_OF_RANGE.
        """
        if walked == AT_2M:
            entry = self.region(page >> 9).first.load()
            return LEVEL_2M, entry
        if walked == AT_1G:
            entry = self._blocks[page >> 18].first.load()
            return LEVEL_1G, entry
        return LEVEL_4K, walked

    def find(self, page: int) -> tuple[int, int]:
        """Implicit look-up of a page the module knows to be in use: (level, payload), no lock.

        Raises ModuleFatal where the tree has no such page: the real module shuts down.
        """
        entry = self._blocks[page >> 18].first.load()
        if entry:
            return LEVEL_1G, entry
        region = self.region(page >> 9)
        entry = region.first.load()
        if entry != self.node_type:
            if not entry:
                raise ModuleFatal("a page in use has no PAMT page pair", hpa=page << PAGE_SHIFT)
            return LEVEL_2M, entry
        entry = region.entries.load(page & _INDEX_MASK)
        kind = entry & TYPE_MASK
        if kind in _NO_USE:
            if not kind:
                raise ModuleFatal("a page in use has a free PAMT entry", hpa=page << PAGE_SHIFT)
            raise ModuleFatal(
                "a page in use has a PAMT entry of no page", hpa=page << PAGE_SHIFT, type=kind
            )
        return LEVEL_4K, entry

    def lock_found(self, page: int, level: int, how: int, locks: LockSet) -> int:
        """Lock the entry of ``page`` at ``level`` and nothing above it: its payload, or BUSY."""
        if level == LEVEL_4K:
            entries = self.region(page >> 9).entries
            if how == EXCLUSIVE:
                return locks.exclusive_entry(entries, page & _INDEX_MASK)
            return locks.shared_entry(entries, page & _INDEX_MASK)
        if level == LEVEL_2M:
            entry = self.region(page >> 9).first
        else:
            entry = self._blocks[page >> 18].first
        if how == EXCLUSIVE:
            return locks.exclusive(entry)
        return locks.shared(entry)

    # Use and release of pages.

    def use_4k(self, page: int, entry: int) -> None:
        """Make a free 4K page, locked exclusively, ``entry`` (type and OWNER) and count it.

        BEPOCH stays what the page's last use has left.
        """
        region = self.regions[page >> 9]
        region.entries.store(page & _INDEX_MASK, entry)
        if self.dynamic:
            count = region.count.add(1)
            if count > PAMT_PAGE_COUNT_MAX:
                _refuse_count(page, count)

    def use_tracked_4k(self, page: int, entry: int) -> None:
        """As :meth:`use_4k` for a page that the S-EPT will point to: BEPOCH begins at 0."""
        self.use_tracked_entry(self.regions[page >> 9], page & _INDEX_MASK, entry)

    def use_tracked_entry(self, region: PamtRegion, index: int, entry: int) -> None:
        """As :meth:`use_tracked_4k`, the page named by its region and index."""
        region.bepochs.clear(index)
        region.entries.store(index, entry)
        if self.dynamic:
            count = region.count.add(1)
            if count > PAMT_PAGE_COUNT_MAX:
                _refuse_count(region.base | index, count)

    def free_4k(self, page: int) -> int:
        """Make a 4K page free, its BEPOCH left as it is; returns the removal hint (bit 62) or 0.

        The type goes first and the count second: a PAMT.REMOVE between the two is fatal.
        """
        self.clear_4k(page)
        return self.uncount_4k(page)

    def clear_4k(self, page: int) -> None:
        """The first half of :meth:`free_4k`: the type."""
        self.regions[page >> 9].entries.store(page & _INDEX_MASK, 0)

    def uncount_4k(self, page: int) -> int:
        """The second half of :meth:`free_4k`: the count, and the removal hint or 0."""
        if not self.dynamic:
            return 0
        count = self.regions[page >> 9].count.add(-1)
        if count < 0:
            raise ModuleFatal("PAGE_COUNT below 0", region=page >> 9 << 21)
        return 0 if count else REMOVAL_HINT

    def set_large(self, page: int, level: int, entry: int) -> None:
        """Write a 2M or 1G entry (type and OWNER), BEPOCH 0; with 0 free it, BEPOCH as it was."""
        if entry:
            self.set_bepoch(page, level, 0)
        self._write_large(page, level, entry)

    def _write_large(self, page: int, level: int, entry: int) -> None:
        if level == LEVEL_2M:
            self.region(page >> 9).first.store(entry)
        else:
            self._blocks[page >> 18].first.store(entry)

    def bepoch(self, page: int, level: int) -> int:
        """BEPOCH of the leaf entry at ``level``."""
        if level == LEVEL_4K:
            return self.regions[page >> 9].bepochs.load(page & _INDEX_MASK)
        if level == LEVEL_2M:
            return self.region(page >> 9).bepoch.load()
        return self._blocks[page >> 18].bepoch.load()

    def set_bepoch(self, page: int, level: int, epoch: int) -> None:
        """Write BEPOCH of the leaf entry at ``level``."""
        if level == LEVEL_4K:
            self.regions[page >> 9].bepochs.store(page & _INDEX_MASK, epoch)
        elif level == LEVEL_2M:
            self.region(page >> 9).bepoch.store(epoch)
        else:
            self._blocks[page >> 18].bepoch.store(epoch)

    # Pages of another size in the place of one.

    def any_use_of(self, region: int) -> bool:
        """Whether any 4K page of a region without a pair is in use, reserved or a PAMT page."""
        words = self.region(region)
        if self.dynamic:
            bits = words.bitmap.load()
            return bits != 0
        used = words.entries.any_non_zero(0, PAGES_PER_2M)
        return used or words.reserved != 0

    def split_2m(self, region: int, pair: tuple[int, int]) -> None:
        """Make a 2M leaf 512 4K entries of the same type and owner, BEPOCH 0."""
        words = self.region(region)
        entry = words.first.load()
        if self.dynamic:
            self.install_pair(region, pair, entry, PAMT_PAGE_COUNT_MAX)
        else:
            # Entry after entry: another CPU may have the lock of one, which stays.
            index = 0
            while index < PAGES_PER_2M:
                words.entries.store(index, entry)
                index += 1
            words.bepochs.fill(0)
            words.first.store(0)

    def merge_2m(self, region: int, entry: int) -> tuple[int, int]:
        """Make 512 4K pages one 2M leaf; returns the pair in dynamic mode.

        BEPOCH becomes 0 in dynamic mode.  In static mode it is what the last leaf there has left.
        """
        words = self.region(region)
        if self.dynamic:
            words.bepoch.store(0)
            return self.remove_pair(region, entry)
        words.first.store(entry)
        words.entries.zero()
        return 0, 0

    def split_1g(self, block: int) -> None:
        """Make a 1G leaf 512 2M leaves of the same type and owner, BEPOCH 0."""
        entry = self._blocks[block].first.load()
        for region in range(block << 9, block + 1 << 9):
            self.set_large(region << 9, LEVEL_2M, entry)
        self.set_large(block << 18, LEVEL_1G, 0)

    def merge_1g(self, block: int, entry: int) -> None:
        """Make 512 2M leaves one 1G leaf; BEPOCH as in :meth:`merge_2m`."""
        if self.dynamic:
            self.set_bepoch(block << 18, LEVEL_1G, 0)
        self._write_large(block << 18, LEVEL_1G, entry)
        for region in range(block << 9, block + 1 << 9):
            self.set_large(region << 9, LEVEL_2M, 0)

    # Reserved pages, the bitmap and pairs.

    def reserve(self, first: int, pages: int) -> None:
        """Mark reserved pages while SYS.TDMR.INIT passes over them: RSVD, or bitmap bits."""
        end = first + pages
        while first < end:
            region = first >> 9
            run = min(end, (region + 1) << 9) - first
            mask = ((1 << run) - 1) << (first & _INDEX_MASK)
            if self.dynamic:
                self.bitmap.at(region).set_bits(mask)
            else:
                self.reserved_static[region] = self.reserved_static.get(region, 0) | mask
            first += run

    def bitmap_bit(self, page: int) -> int:
        """The page's bit in the page bitmap: reserved, or in use as a PAMT page."""
        bits = self.region(page >> 9).bitmap.load()
        return bits >> (page & _INDEX_MASK) & 1

    def take_pair_page(self, page: int) -> bool:
        """Set the page's bitmap bit; False when it was set already."""
        bit = 1 << (page & _INDEX_MASK)
        before = self.region(page >> 9).bitmap.set_bits(bit)
        return not before & bit

    def return_pair_page(self, page: int) -> None:
        """Clear the page's bitmap bit."""
        self.region(page >> 9).bitmap.clear_bits(1 << (page & _INDEX_MASK))

    def install_pair(self, region: int, pair: tuple[int, int], entry: int, count: int) -> None:
        """Make a 2M entry a node: all 4K entries ``entry``, PAGE_COUNT ``count``."""
        words = self.region(region)
        words.entries.fill(entry)
        words.bepochs.fill(0)
        words.count.store(count)
        words.pair0.store(pair[0])
        words.pair1.store(pair[1])
        words.bepoch.store(0)
        words.first.store(PT_PAMT)

    def remove_pair(self, region: int, entry: int) -> tuple[int, int]:
        """Make a node the leaf ``entry`` (0: free); returns the pair, its bitmap bits cleared."""
        words = self.region(region)
        page0 = words.pair0.load()
        page1 = words.pair1.load()
        self.return_pair_page(page0)
        self.return_pair_page(page1)
        words.first.store(entry)
        words.count.store(0)
        words.pair0.store(0)
        words.pair1.store(0)
        words.entries.fill(0)
        words.bepochs.fill(0)
        return page0, page1


def _refuse_count(page: int, count: int) -> NoReturn:
    raise ModuleFatal("PAGE_COUNT above 512", region=page >> 9 << 21, count=count)
