"""TDH.MEM.PAGE.AUG: add a page that the guest must accept."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_AUG
from dpamt.abi.operands import OPERAND_R8, OPERAND_RDX
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED, SEPT_PENDING, SEPT_STATE_ALLOWED
from dpamt.module.checks import (
    check_state,
    lock_new_2m_page,
    lock_new_entry,
    lock_tdr,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK
from dpamt.module.sept_checks import (
    check_page_info,
    lock_sept_entry,
    refuse_sept_state,
)
from dpamt.sync import SHARED

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_PAGE_AUG]
_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_PAGE_AUG]


def tdh_mem_page_aug(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level (4K, 2M), RDX = TDR, R8 = page.

    The S-EPT entry is free for others as soon as it is written, before the page's PAMT entry is.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_mem_page_aug.c]; reference
    (e.12).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    check_state(lp, td, _OP_STATES)
    level = check_page_info(info, LEVEL_4K, LEVEL_2M)
    sept, index, word = lock_sept_entry(lp, args, td, level, info >> PAGE_SHIFT, SHARED)
    if word & STATE_MASK not in _SEPT_STATES:
        refuse_sept_state(args, word, level)
    if level == LEVEL_4K:
        region, entry = lock_new_entry(lp, args.r8, OPERAND_R8)
        word = (region.base | entry) << FRAME_SHIFT | SEPT_PENDING
        lp.locks.store_and_release(sept, index, word)
        td.children.add(1)
        lp.pamt.use_tracked_entry(region, entry, td.reg_entry)
    else:
        page = lock_new_2m_page(lp, args.r8, OPERAND_R8)
        lp.locks.store_and_release(sept, index, page << FRAME_SHIFT | SEPT_PENDING)
        td.children.add(PAGES_PER_2M)
        lp.pamt.set_large(page, LEVEL_2M, td.reg_entry)
