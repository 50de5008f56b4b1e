"""The bulk calls of a logical processor: PAGE.ADD, AUG, BLOCK, REMOVE, and a zap's four in turn.

Each takes the run apart into stretches (one 2M region, one S-EPT page), and stops before the first
page that one of the SEAMCALLs would not have passed or that anything is unusual about.  The order
of the calls matters only where the TD's epoch moves between them; :meth:`ModuleBulk.page_zap` says
why that comes out the same.
"""

from collections.abc import Sequence
from typing import Final

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_TRACK,
)
from dpamt.abi.operands import OPERAND_R9
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_2M, PAMT_PAGE_COUNT_MAX
from dpamt.abi.states import (
    OP_STATE_IMPORTING,
    OP_STATE_TLB_TRACKING_REQUIRED,
    SEPT_BLOCKED,
    SEPT_MAPPED,
    SEPT_PENDING,
    SEPT_PENDING_BLOCKED,
)
from dpamt.abi.status import TDX_OPERAND_INVALID
from dpamt.module.bulk.quiet import (
    QuietTd,
    Stretch,
    consecutive,
    free_of_marks,
    quiet_region,
    quiet_td,
    sept_of,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK
from dpamt.module.shared_memory import check_shared_hpa
from dpamt.module.td import Td
from dpamt.sync.runs import is_uniform, uniform

_INDEX_MASK: Final = PAGES_PER_2M - 1
_ONE_FRAME: Final = 1 << FRAME_SHIFT
_BLOCKING: Final = {SEPT_MAPPED: SEPT_BLOCKED, SEPT_PENDING: SEPT_PENDING_BLOCKED}
_BLOCKED: Final = frozenset(_BLOCKING.values())
_ZAP_LEAVES: Final = (TDH_MEM_RANGE_BLOCK, TDH_MEM_PAGE_REMOVE)


class ModuleBulk:
    """The bulk calls of one logical processor (:class:`dpamt.abi.bulk.BulkSeamCalls`)."""

    __slots__ = ("_lp",)

    def __init__(self, lp: LogicalProcessor) -> None:
        self._lp = lp

    def page_add(self, tdr: int, gfn: int, pages: Sequence[int], source: int) -> int:
        """MEM.PAGE.ADD of each page, all with the contents of ``source``."""
        lp = self._lp
        quiet = quiet_td(lp, (TDH_MEM_PAGE_ADD,), tdr, gfn, len(pages))
        if quiet is None:
            return 0
        try:
            address = check_shared_hpa(
                lp, source << PAGE_SHIFT, PAGE_SIZE, PAGE_SIZE, TDX_OPERAND_INVALID | OPERAND_R9
            )
        except Refused:
            return 0
        memory = lp.module.memory
        done = self._use(quiet.td, gfn, pages, SEPT_MAPPED)
        for index in range(done):
            contents = memory.read(address, PAGE_SIZE)
            memory.write(pages[index] << PAGE_SHIFT, contents)
        return done

    def page_aug(self, tdr: int, gfn: int, pages: Sequence[int]) -> int:
        """MEM.PAGE.AUG of each 4K page."""
        quiet = quiet_td(self._lp, (TDH_MEM_PAGE_AUG,), tdr, gfn, len(pages))
        return 0 if quiet is None else self._use(quiet.td, gfn, pages, SEPT_PENDING)

    def _use(self, td: Td, gfn: int, pages: Sequence[int], state: int) -> int:
        """Free pages become the TD's, at free S-EPT entries: how many."""
        done = 0
        while done < len(pages):
            stretch = self._free_stretch(td, gfn + done, pages, done)
            if stretch is None:
                break
            region, index, sept, slot, count = stretch
            region.bepochs.store_run(index, uniform(0, count))
            region.entries.store_run(index, uniform(td.reg_entry, count))
            if self._lp.pamt.dynamic:
                region.count.add(count)
            td.children.add(count)
            first = pages[done] << FRAME_SHIFT | state
            sept.store_run(slot, range(first, first + count * _ONE_FRAME, _ONE_FRAME))
            done += count
        return done

    def _free_stretch(self, td: Td, gfn: int, pages: Sequence[int], start: int) -> Stretch | None:
        lp = self._lp
        region = lp.pamt.find_region(pages[start] >> 9)
        if region is None:
            return None
        sept, slot, count = sept_of(lp, td, gfn, len(pages) - start)
        if not count:
            return None
        index = pages[start] & _INDEX_MASK
        count = consecutive(pages, start, count)
        if not quiet_region(region, index, count) or not free_of_marks(region, index, count):
            return None
        used = region.entries.load_run(index, index + count)
        mapped = sept.load_run(slot, slot + count)
        count = min(_zeros(used), _zeros(mapped))
        page_count = region.count.load()
        if not count or page_count + count > PAMT_PAGE_COUNT_MAX:
            return None
        return Stretch(region, index, sept, slot, count)

    def page_block(self, tdr: int, gfn: int, count: int) -> int:
        """MEM.RANGE.BLOCK of each 4K page."""
        quiet = quiet_td(self._lp, (TDH_MEM_RANGE_BLOCK,), tdr, gfn, count)
        if quiet is None:
            return 0
        epoch = quiet.td.epoch.load()
        done = 0
        while done < count:
            found = self._used_stretch(quiet.td, gfn + done, count - done)
            if found is None or found[1] not in _BLOCKING:
                break
            region, index, sept, slot, pages = found[0]
            first = (region.base | index) << FRAME_SHIFT | _BLOCKING[found[1]]
            sept.store_run(slot, range(first, first + pages * _ONE_FRAME, _ONE_FRAME))
            region.bepochs.store_run(index, uniform(epoch, pages))
            done += pages
        return done

    def page_remove(self, tdr: int, gfn: int, count: int) -> int:
        """MEM.PAGE.REMOVE of each 4K page."""
        quiet = quiet_td(self._lp, (TDH_MEM_PAGE_REMOVE,), tdr, gfn, count)
        if quiet is None or quiet.op_state in OP_STATE_IMPORTING:
            return 0
        done = 0
        while done < count:
            found = self._used_stretch(quiet.td, gfn + done, count - done)
            if found is None or not self._may_go(quiet, *found):
                break
            self._free(quiet.td, found[0])
            done += found[0].pages
        return done

    def _may_go(self, quiet: QuietTd, stretch: Stretch, state: int) -> bool:
        """Whether REMOVE finds these pages blocked and tracked, where the TD's state asks for it"""
        if quiet.op_state not in OP_STATE_TLB_TRACKING_REQUIRED:
            return True
        bepochs = stretch.region.bepochs.load_run(stretch.entry, stretch.entry + stretch.pages)
        epoch = quiet.td.epoch.load()
        return state in _BLOCKED and max(bepochs) < epoch and _nobody_inside(quiet.td)

    def page_zap(self, tdr: int, gfn: int, count: int, track: bool) -> int:
        """For each 4K page RANGE.BLOCK, MEM.TRACK if ``track``, PAGE.REMOVE and PAGE.WBINVD.

        With no VCPU inside, TRACK always succeeds, and what was blocked right before it is tracked:
        page n of the run is blocked in the epoch n after the first one's.
        """
        leaves = (*_ZAP_LEAVES, TDH_MEM_TRACK) if track else _ZAP_LEAVES
        quiet = quiet_td(self._lp, leaves, tdr, gfn, count)
        if quiet is None or quiet.op_state in OP_STATE_IMPORTING:
            return 0
        td = quiet.td
        if not _nobody_inside(td):
            return 0
        if not track and quiet.op_state in OP_STATE_TLB_TRACKING_REQUIRED:
            return 0
        done = 0
        while done < count:
            found = self._used_stretch(td, gfn + done, count - done)
            if found is None or found[1] not in _BLOCKING:
                break
            region, index, _, _, pages = found[0]
            if not free_of_marks(region, index, pages):
                break
            epoch = td.epoch.load()
            if track:
                region.bepochs.store_run(index, range(epoch, epoch + pages))
                td.epoch.store(epoch + pages)
            else:
                region.bepochs.store_run(index, uniform(epoch, pages))
            self._free(td, found[0])
            done += pages
        return done

    def free_entries(self, tdr: int, gfn: int, most: int) -> int:
        """How many S-EPT entries from ``gfn`` on are free, with no lock held, in one S-EPT page."""
        quiet = quiet_td(self._lp, (TDH_MEM_PAGE_AUG,), tdr, gfn, most)
        if quiet is None:
            return 0
        sept, slot, count = sept_of(self._lp, quiet.td, gfn, most)
        return _zeros(sept.load_run(slot, slot + count))

    def page_accept(self, tdr: int, gfn: int, count: int) -> int:
        """The guest's TDG.MEM.PAGE.ACCEPT of each 4K page, of those that are pending."""
        quiet = quiet_td(self._lp, (TDH_MEM_PAGE_AUG,), tdr, gfn, count)
        done = 0
        while quiet is not None and done < count:
            found = self._used_stretch(quiet.td, gfn + done, count - done)
            if found is None or found[1] != SEPT_PENDING:
                break
            region, index, sept, slot, pages = found[0]
            self._lp.module.memory.clear_pages(region.base | index, pages)
            first = (region.base | index) << FRAME_SHIFT | SEPT_MAPPED
            sept.store_run(slot, range(first, first + pages * _ONE_FRAME, _ONE_FRAME))
            done += pages
        return done

    def _used_stretch(self, td: Td, gfn: int, most: int) -> tuple[Stretch, int] | None:
        """Pages of the TD from ``gfn`` on that follow one another and are in one state."""
        lp = self._lp
        sept, slot, count = sept_of(lp, td, gfn, most)
        if not count:
            return None
        words = sept.load_run(slot, slot + count)
        page, state = words[0] >> FRAME_SHIFT, words[0] & STATE_MASK
        region = lp.pamt.find_region(page >> 9)
        if region is None or (state not in _BLOCKING and state not in _BLOCKED):
            return None
        index = page & _INDEX_MASK
        count = min(_even(words), PAGES_PER_2M - index)
        if not quiet_region(region, index, count):
            return None
        entries = region.entries.load_run(index, index + count)
        page_count = region.count.load()
        if not is_uniform(entries, td.reg_entry):
            return None
        if lp.pamt.dynamic and page_count < count:
            return None
        return Stretch(region, index, sept, slot, count), state

    def _free(self, td: Td, stretch: Stretch) -> None:
        """REMOVE of a stretch: its S-EPT entries, the TD's count, its PAMT entries."""
        region, index, sept, slot, pages = stretch
        sept.store_run(slot, uniform(0, pages))
        td.children.add(-pages)
        region.entries.store_run(index, uniform(0, pages))
        if self._lp.pamt.dynamic:
            region.count.add(-pages)


def _zeros(words: Sequence[int]) -> int:
    """How many of the first words are 0."""
    if words.count(0) == len(words):
        return len(words)
    return next(index for index, word in enumerate(words) if word)


def _nobody_inside(td: Td) -> bool:
    even = td.epoch_readers[0].load()
    odd = td.epoch_readers[1].load()
    return not even and not odd


def _even(words: Sequence[int]) -> int:
    """How many S-EPT words from the first on name the next page each, in the same state."""
    if isinstance(words, range) and words.step == _ONE_FRAME:
        return len(words)
    count = 1
    while count < len(words) and words[count] == words[0] + count * _ONE_FRAME:
        count += 1
    return count
