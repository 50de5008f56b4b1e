"""TDH.VP.ENTER: run a VCPU until it leaves."""

from typing import Final

from dpamt.abi.exits import EXIT_REASON_HLT
from dpamt.abi.leaves import TDH_VP_ENTER
from dpamt.abi.operands import OPERAND_RCX, OPERAND_TD_EPOCH
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED
from dpamt.abi.status import TDX_OPERAND_BUSY
from dpamt.module.checks import associate, check_state, check_tdvps, lock_owner, lock_tdvpr
from dpamt.module.guest import Guest, TdExit
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import Td, Vcpu
from dpamt.sync import SHARED

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_VP_ENTER]


def tdh_vp_enter(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDVPR; RAX = exit reason, the other registers as :mod:`dpamt.abi.exits` says.

    The VCPU becomes associated with this logical processor when it is with none.  TDR, OP_STATE
    and TDVPR stay locked shared while the guest runs, and its epoch's REFCOUNT raised.  The
    program runs to its exit inside this call; a VCPU without one halts at once.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (j.2, j.4).
    """
    vcpu, entry = lock_tdvpr(lp, args.rcx, OPERAND_RCX, SHARED)
    td = lock_owner(lp, entry, SHARED)
    check_state(lp, td, _OP_STATES)
    check_tdvps(vcpu, td)
    associate(lp, vcpu, td)
    epoch = _enter_epoch(td)

    try:
        reason = _run(lp, args, vcpu, td)
    except Exception as stopped:
        td.epoch_readers[epoch & 1].add(-1)
        raise stopped
    td.epoch_readers[epoch & 1].add(-1)
    raise Refused(reason)


def _enter_epoch(td: Td) -> int:
    """Sample TD_EPOCH and count this VCPU in it, with no TRACK in between."""
    busy = td.epoch_lock.try_shared()
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_TD_EPOCH)
    epoch = td.epoch.load()
    td.epoch_readers[epoch & 1].add(1)
    td.epoch_lock.release_shared()
    return epoch


def _run(lp: LogicalProcessor, args: TdxModuleArgs, vcpu: Vcpu, td: Td) -> int:
    """Let the guest run: the exit reason.  Inputs and outputs of a TDVMCALL are in ``args``."""
    program = lp.module.guests.get(vcpu.page)
    args.rcx = args.rdx = args.r8 = args.r9 = 0
    guest = Guest(lp, td)
    try:
        guest.take_interrupt()
        if program is None:
            return EXIT_REASON_HLT
        return program.run(guest.tdcall, guest.access, args)
    except TdExit as left:
        args.rcx = left.qualification
        args.rdx = left.extended
        args.r8 = left.gpa
        args.r9 = left.interruption
        return left.reason
