"""TDH.MR.EXTEND and MR.FINALIZE: a TD is measured; only the checks, no digest is computed."""

from typing import Final

from dpamt.abi.leaves import TDH_MR_EXTEND, TDH_MR_FINALIZE
from dpamt.abi.operands import OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    OP_STATE_RUNNABLE,
    SEPT_READABLE_LEAF,
    SEPT_STATE_ALLOWED,
)
from dpamt.abi.status import TDX_EPT_ENTRY_NOT_PRESENT, TDX_NO_VCPUS, TDX_OPERAND_INVALID
from dpamt.module.checks import (
    check_state_unlocked,
    lock_tdr,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import STATE_MASK, show_entry
from dpamt.module.sept_checks import (
    descend,
    private_eptp,
)
from dpamt.sync import EXCLUSIVE

_EXTEND_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MR_EXTEND]
_EXTEND_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MR_EXTEND]
_FINALIZE_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MR_FINALIZE]
_CHUNK_MASK: Final = 0xFF
"""MR.EXTEND measures 256 bytes at a time."""


def tdh_mr_extend(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA of 256 bytes, RDX = TDR.

    A leaf that the guest cannot read is not present: the walk has failed there.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_mr_extend.c, helpers.c];
    reference (e.17).
    """
    gpa = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, EXCLUSIVE)
    check_state_unlocked(lp, td, _EXTEND_OP_STATES)
    if gpa & _CHUNK_MASK:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    eptp = private_eptp(td, gpa >> PAGE_SHIFT)
    sept, index, level = descend(lp, eptp, LEVEL_4K, gpa >> PAGE_SHIFT)
    word = sept.load(index)
    if word & STATE_MASK not in SEPT_READABLE_LEAF:
        show_entry(args, word, level)
        raise Refused(TDX_EPT_ENTRY_NOT_PRESENT | OPERAND_RCX)
    if word & STATE_MASK not in _EXTEND_SEPT_STATES:
        raise Refused(TDX_EPT_ENTRY_NOT_PRESENT)


def tdh_mr_finalize(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.17).
    """
    td = lock_tdr(lp, args.rcx, OPERAND_RCX, EXCLUSIVE)
    check_state_unlocked(lp, td, _FINALIZE_OP_STATES)
    vcpus = td.vcpus.load()
    if not vcpus:
        raise Refused(TDX_NO_VCPUS)

    td.op_state.store(OP_STATE_RUNNABLE)
