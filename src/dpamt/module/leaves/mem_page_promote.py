"""TDH.MEM.PAGE.PROMOTE: merge 512 pages of a TD into one of the next size."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_PROMOTE
from dpamt.abi.operands import OPERAND_RAX, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_PAGES,
    NULL_PA,
    PAGE_SHIFT,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.sept import ENTRIES_PER_SEPT_PAGE
from dpamt.abi.states import OP_STATE_ALLOWED, SEPT_MAPPED, SEPT_PENDING, SEPT_STATE_ALLOWED
from dpamt.abi.status import (
    TDX_EPT_INVALID_PROMOTE_CONDITIONS,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
)
from dpamt.module.checks import (
    check_state,
    lock_in_use,
    lock_tdr,
)
from dpamt.module.l2_sept import l2_pages
from dpamt.module.leaves.mem_sept import free_l2_pages
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK, show_entry
from dpamt.module.sept_checks import (
    check_not_interrupted,
    check_page_info,
    check_sept_state,
    check_tlb,
    lock_sept_entry,
)
from dpamt.sync import EXCLUSIVE, SHARED, EntryPage

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_PAGE_PROMOTE]
_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_PAGE_PROMOTE]


def tdh_mem_page_promote(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR; RCX = the S-EPT page that is left, removal hint in bit 62.

    R12, R13 = the pair that is left, for a 2M page in dynamic mode, in every version.  Version 1:
    R9 to R11 = the L2 VMs' S-EPT pages with their hints, or NULL_PA.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (h.2).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0
    if lp.version:
        args.r9 = args.r10 = args.r11 = NULL_PA
    if lp.version > 1:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
    release = lp.module.release

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    op_state = check_state(lp, td, _OP_STATES)
    level = check_page_info(info, LEVEL_2M, LEVEL_1G)
    gfn = info >> PAGE_SHIFT
    tree = EXCLUSIVE if release.promote_tree_exclusive else SHARED
    sept, index, word = lock_sept_entry(lp, args, td, level, gfn, tree)
    check_sept_state(args, word, level, _SEPT_STATES)
    frame = word >> FRAME_SHIFT
    lock_in_use(lp, frame, LEVEL_4K)
    check_tlb(lp, args, td, word, level, LEVEL_4K, op_state)
    child = lp.tds.sept.find(frame)
    check = _check_mergeable if release.promote_tree_exclusive else _lock_mergeable
    first = check(lp, args, child, word, level)
    aliases = l2_pages(lp, td, level, gfn)
    for at in range(len(aliases)):
        check_not_interrupted(lp, args, td, info, handle)
        lock_in_use(lp, aliases[at][-1], LEVEL_4K)
    l2_vms = td.l2_vms.load()
    if l2_vms or not release.interrupt_needs_l2_vms:
        check_not_interrupted(lp, args, td, info, handle)
    _merge_pamt(lp, args, first >> FRAME_SHIFT, level, td.reg_entry)

    lp.locks.store_and_release(sept, index, first)
    free_l2_pages(lp, args, td, aliases)
    td.children.add(-1)
    child.zero()
    hint = lp.pamt.free_4k(frame)
    args.rcx = frame << PAGE_SHIFT | hint


def _check_mergeable(
    lp: LogicalProcessor, args: TdxModuleArgs, child: EntryPage, word: int, level: int
) -> int:
    """The 512 entries map one aligned large page, all MAPPED or all PENDING: the first of them."""
    entries = child.payloads()
    first = entries[0]
    stride = LEVEL_PAGES[level - 1] << FRAME_SHIFT
    wanted = tuple(range(first, first + stride * ENTRIES_PER_SEPT_PAGE, stride))
    # Whoever holds the tree exclusively meets no lock of an entry, unless one was left behind.
    locked = child.any_exclusive()
    if not _may_be_first(first, level) or entries != wanted or locked:
        show_entry(args, word, level)
        raise Refused(TDX_EPT_INVALID_PROMOTE_CONDITIONS | OPERAND_RCX)
    return first


def _lock_mergeable(
    lp: LogicalProcessor, args: TdxModuleArgs, child: EntryPage, word: int, level: int
) -> int:
    """As :func:`_check_mergeable` where the tree is only shared: entry after entry is locked."""
    stride = LEVEL_PAGES[level - 1] << FRAME_SHIFT
    wanted = first = -1
    for index in range(ENTRIES_PER_SEPT_PAGE):
        entry = lp.locks.exclusive_entry(child, index)
        if entry < 0:
            show_entry(args, word, level)
            raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
        if not index and _may_be_first(entry, level):
            wanted = first = entry
        if entry != wanted:
            show_entry(args, word, level)
            raise Refused(TDX_EPT_INVALID_PROMOTE_CONDITIONS | OPERAND_RCX)
        wanted += stride
    return first


def _may_be_first(entry: int, level: int) -> bool:
    """Whether a large page of ``level`` may begin with this entry."""
    if entry & STATE_MASK not in (SEPT_MAPPED, SEPT_PENDING):
        return False
    return (entry >> FRAME_SHIFT) % LEVEL_PAGES[level] == 0


def _merge_pamt(
    lp: LogicalProcessor, args: TdxModuleArgs, page: int, level: int, entry: int
) -> None:
    """Step 11 and its effect: the PAMT entry of the large page; the pair goes to R12 and R13."""
    pamt = lp.pamt
    busy = pamt.lock_found(page, level, EXCLUSIVE, lp.locks)
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    if level == LEVEL_1G:
        return pamt.merge_1g(page >> 18, entry)
    page0, page1 = pamt.merge_2m(page >> 9, entry)
    if pamt.dynamic:
        args.r12 = page0 << PAGE_SHIFT
        args.r13 = page1 << PAGE_SHIFT
    return None
