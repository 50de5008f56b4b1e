"""TDH.MEM.RANGE.BLOCK and UNBLOCK: take a page from the guest, and give it back."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_RANGE_BLOCK, TDH_MEM_RANGE_UNBLOCK
from dpamt.abi.operands import OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    OP_STATE_TLB_TRACKING_REQUIRED,
    SEPT_BLOCK,
    SEPT_NL_BLOCKED,
    SEPT_NL_MAPPED,
    SEPT_STATE_ALLOWED,
    SEPT_UNBLOCK,
)
from dpamt.abi.status import TDX_GPA_RANGE_ALREADY_BLOCKED
from dpamt.module.checks import (
    check_state,
    find_in_use,
    lock_tdr,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK, show_entry
from dpamt.module.sept_checks import (
    check_page_info,
    check_sept_state,
    check_tlb,
    highest_level,
    lock_sept_entry,
)
from dpamt.sync import EXCLUSIVE, SHARED

_BLOCK_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_RANGE_BLOCK]
_BLOCK_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_RANGE_BLOCK]
_UNBLOCK_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_RANGE_UNBLOCK]
_UNBLOCK_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_RANGE_UNBLOCK]


def tdh_mem_range_block(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR.

    BEPOCH of a leaf is at its own level, that of an S-EPT page in the page's 4K entry.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.14).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    check_state(lp, td, _BLOCK_OP_STATES)
    highest = highest_level(td)
    level = check_page_info(info, LEVEL_4K, highest)
    sept, index, word = lock_sept_entry(lp, args, td, level, info >> PAGE_SHIFT, EXCLUSIVE)
    state = word & STATE_MASK
    if state in SEPT_UNBLOCK:
        show_entry(args, word, level)
        raise Refused(TDX_GPA_RANGE_ALREADY_BLOCKED | OPERAND_RCX)
    check_sept_state(args, word, level, _BLOCK_SEPT_STATES)
    page = word >> FRAME_SHIFT
    metadata_level = LEVEL_4K if state == SEPT_NL_MAPPED else level
    find_in_use(lp, page, metadata_level)

    lp.locks.store_and_release(sept, index, word ^ state | SEPT_BLOCK[state])
    epoch = td.epoch.load()
    lp.pamt.set_bepoch(page, metadata_level, epoch)


def tdh_mem_range_unblock(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.15).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    op_state = check_state(lp, td, _UNBLOCK_OP_STATES)
    highest = highest_level(td)
    level = check_page_info(info, LEVEL_4K, highest)
    sept, index, word = lock_sept_entry(lp, args, td, level, info >> PAGE_SHIFT, EXCLUSIVE)
    check_sept_state(args, word, level, _UNBLOCK_SEPT_STATES)
    state = word & STATE_MASK
    metadata_level = LEVEL_4K if state == SEPT_NL_BLOCKED else level
    if op_state in OP_STATE_TLB_TRACKING_REQUIRED:
        find_in_use(lp, word >> FRAME_SHIFT, metadata_level)
    check_tlb(lp, args, td, word, level, metadata_level, op_state)

    lp.locks.store_and_release(sept, index, word ^ state | SEPT_UNBLOCK[state])
