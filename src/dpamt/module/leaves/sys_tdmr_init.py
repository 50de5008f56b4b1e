"""TDH.SYS.TDMR.INIT: initialise the metadata of a TDMR, one step a call."""

from dpamt.abi.operands import OPERAND_RCX
from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_1G, SIZE_1G
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_TDMR_ALREADY_INITIALIZED,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.tdmrs import Tdmr


def tdh_sys_tdmr_init(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDMR base; RDX = next address to initialise, rounded down to 1G.

    A 1G block becomes usable when it is complete.  An address that is not aligned, beyond 2^52 or
    with KeyID bits is not the base of a TDMR either.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.1).
    """
    module = lp.module
    args.rdx = 0

    tdmr = module.tdmrs.at(args.rcx)
    if tdmr is None:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    busy = lp.locks.exclusive(tdmr.lock)
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    done = tdmr.done.load()
    if done == tdmr.pages:
        raise Refused(TDX_TDMR_ALREADY_INITIALIZED)
    done += module.tdmr_init_pages()
    if done % PAGES_PER_1G == 0:
        _complete_block(lp, tdmr, tdmr.first + done - PAGES_PER_1G)
    tdmr.done.store(done)
    args.rdx = (tdmr.first + done << PAGE_SHIFT) & -SIZE_1G


def _complete_block(lp: LogicalProcessor, tdmr: Tdmr, first: int) -> None:
    """Mark the reserved pages of the 1G block that begins at page ``first``, and open it."""
    pamt = lp.module.pamt
    end = first + PAGES_PER_1G
    index = 0
    while index < len(tdmr.reserved):
        start, pages = tdmr.reserved[index]
        low = max(start, first)
        high = min(start + pages, end)
        if low < high:
            pamt.reserve(low, high - low)
        index += 1
    pamt.open_block(first // PAGES_PER_1G)
