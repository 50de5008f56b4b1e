"""TDH.MEM.PAGE.RELOCATE: move a 4K page of a TD to another place in physical memory."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_RELOCATE
from dpamt.abi.operands import OPERAND_R8, OPERAND_RDX
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGE_SIZE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    SEPT_PENDING,
    SEPT_STATE_ALLOWED,
    SEPT_UNBLOCK,
)
from dpamt.abi.status import TDX_OPERAND_INVALID
from dpamt.module.checks import (
    check_state,
    lock_in_use,
    lock_new_page,
    lock_tdr,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK
from dpamt.module.sept_checks import (
    check_page_info,
    check_sept_state,
    check_tlb,
    lock_sept_entry,
)
from dpamt.sync import SHARED

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_PAGE_RELOCATE]
_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_PAGE_RELOCATE]


def tdh_mem_page_relocate(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA (4K), RDX = TDR, R8 = new page; RCX = the old page, removal hint in bit 62.

    The old page is free first, and last of all its region's count goes down, so that a move within
    a region leaves no hint.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (h.3).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    op_state = check_state(lp, td, _OP_STATES)
    level = check_page_info(info, LEVEL_4K, LEVEL_4K)
    sept, index, word = lock_sept_entry(lp, args, td, level, info >> PAGE_SHIFT, SHARED)
    check_sept_state(args, word, level, _SEPT_STATES)
    old = word >> FRAME_SHIFT
    if args.r8 == old << PAGE_SHIFT:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_R8)
    lock_in_use(lp, old, level)
    check_tlb(lp, args, td, word, level, level, op_state)
    page = lock_new_page(lp, args.r8, OPERAND_R8)

    state = SEPT_UNBLOCK.get(word & STATE_MASK, word & STATE_MASK)
    if state != SEPT_PENDING:
        memory = lp.module.memory
        memory.write(page << PAGE_SHIFT, memory.read(old << PAGE_SHIFT, PAGE_SIZE))
    lp.pamt.clear_4k(old)
    lp.pamt.use_tracked_4k(page, td.reg_entry)
    lp.locks.store_and_release(sept, index, page << FRAME_SHIFT | state)
    hint = lp.pamt.uncount_4k(old)
    args.rcx = old << PAGE_SHIFT | hint
