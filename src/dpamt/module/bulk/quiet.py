"""What has to be so before a run of pages may be taken at once: the TD's part, and each stretch's.

Everything is refused that one of the calls could trip over: a lock word that is not 0 (host
priority counts), a TD whose state the leaf does not allow, an interrupt that is pending.  What the
leaves check of the TD is checked by their own functions.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from dpamt.abi.operands import OPERAND_RDX
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.abi.states import OP_STATE_ALLOWED, SYS_READY
from dpamt.module.checks import check_state, lock_tdr
from dpamt.module.pamt import PamtRegion
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept_checks import descend, private_eptp
from dpamt.module.td import Td
from dpamt.sync import SHARED, EntryPage

_INDEX_MASK: Final = PAGES_PER_2M - 1


class QuietTd(NamedTuple):
    """A TD that a leaf may work on, with nobody in the way."""

    td: Td
    op_state: int


class Stretch(NamedTuple):
    """Pages that lie one after the other in one 2M region and in one S-EPT page."""

    region: PamtRegion
    entry: int
    """Of the first page in its region."""
    sept: EntryPage
    slot: int
    """Of the first S-EPT entry in its page."""
    pages: int


def quiet_td(
    lp: LogicalProcessor, leaves: tuple[int, ...], tdr: int, gfn: int, count: int
) -> QuietTd | None:
    """The TD, when every one of ``leaves`` gets past it for guest frames [gfn, gfn + count)."""
    module = lp.module
    state = lp.sys_state.load()
    if state != SYS_READY or module.interrupt_pending or count <= 0 or gfn < 0:
        return None
    region = lp.pamt.find_region(tdr >> 9)
    if region is None or not quiet_region(region, tdr & _INDEX_MASK, 1):
        return None
    td = lp.tds.at(tdr)
    if td.op_state.lock_word() or td.tree.lock_word() or td.epoch_lock.lock_word():
        return None
    try:
        lock_tdr(lp, tdr << PAGE_SHIFT, OPERAND_RDX, SHARED)
        op_state = check_state(lp, td, OP_STATE_ALLOWED[leaves[0]])
        private_eptp(td, gfn + count - 1)
    except Refused:
        return None
    finally:
        lp.locks.release_all()
    if any(op_state not in OP_STATE_ALLOWED[leaf] for leaf in leaves):
        return None
    return QuietTd(td, op_state)


def quiet_region(region: PamtRegion, index: int, pages: int) -> bool:
    """Whether the paths to these 4K entries of a region are there, and all their locks free."""
    if region.top.lock_word() or region.first.lock_word():
        return False
    top = region.top.load()
    first = region.first.load()
    return not top and first == region.node and region.entries.unlocked(index, index + pages)


def free_of_marks(region: PamtRegion, index: int, pages: int) -> bool:
    """Whether none of these pages is reserved or a PAMT page."""
    bits = region.bitmap.load()
    return not (bits | region.reserved) >> index & (1 << pages) - 1


def sept_of(lp: LogicalProcessor, td: Td, gfn: int, pages: int) -> tuple[EntryPage, int, int]:
    """(S-EPT page, slot, entries) from ``gfn`` on, up to the page's end; no entries: no such page,
    or one of its locks is not free."""
    eptp = td.eptp.load()
    sept, slot, reached = descend(lp, eptp, LEVEL_4K, gfn)
    count = min(pages, PAGES_PER_2M - slot)
    if reached != LEVEL_4K or not sept.unlocked(slot, slot + count):
        return sept, slot, 0
    return sept, slot, count


def consecutive(pages: Sequence[int], start: int, most: int) -> int:
    """How many of ``pages`` from ``start`` on follow one another inside one 2M region."""
    first = pages[start]
    most = min(most, PAGES_PER_2M - (first & _INDEX_MASK))
    if isinstance(pages, range) and pages.step == 1:
        return most
    count = 1
    while count < most and pages[start + count] == first + count:
        count += 1
    return count
