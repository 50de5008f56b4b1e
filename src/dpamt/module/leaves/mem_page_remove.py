"""TDH.MEM.PAGE.REMOVE: take a page out of a TD."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_REMOVE
from dpamt.abi.operands import OPERAND_RDX
from dpamt.abi.pages import LEVEL_1G, LEVEL_4K, LEVEL_PAGES, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    OP_STATE_IMPORTING,
    SEPT_FREE,
    SEPT_REMOVED,
    SEPT_STATE_ALLOWED,
)
from dpamt.module.checks import (
    check_state,
    lock_in_use,
    lock_tdr,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.sept import FRAME_SHIFT
from dpamt.module.sept_checks import (
    check_page_info,
    check_sept_state,
    check_tlb,
    lock_sept_entry,
)
from dpamt.sync import SHARED

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_PAGE_REMOVE]
_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_PAGE_REMOVE]


def tdh_mem_page_remove(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR; RCX = the page, with the removal hint in bit 62.

    The S-EPT entry is free for others as soon as it is written, before the page's PAMT entry is.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_mem_page_remove.c];
    reference (e.13).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    op_state = check_state(lp, td, _OP_STATES)
    level = check_page_info(info, LEVEL_4K, LEVEL_1G)
    sept, index, word = lock_sept_entry(lp, args, td, level, info >> PAGE_SHIFT, SHARED)
    check_sept_state(args, word, level, _SEPT_STATES)
    page = word >> FRAME_SHIFT
    lock_in_use(lp, page, level)
    check_tlb(lp, args, td, word, level, level, op_state)

    state = SEPT_REMOVED if op_state in OP_STATE_IMPORTING else SEPT_FREE
    lp.locks.store_and_release(sept, index, state)
    td.children.add(-LEVEL_PAGES[level])
    if level == LEVEL_4K:
        hint = lp.pamt.free_4k(page)
    else:
        hint = 0
        lp.pamt.set_large(page, level, 0)
    args.rcx = page << PAGE_SHIFT | hint
