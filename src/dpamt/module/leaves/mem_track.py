"""TDH.MEM.TRACK: begin a new TLB epoch."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_TRACK
from dpamt.abi.operands import OPERAND_RCX, OPERAND_TD_EPOCH
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_PREVIOUS_TLB_EPOCH_BUSY
from dpamt.module.checks import check_state, lock_tdr
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.sync import SHARED

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_TRACK]


def tdh_mem_track(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.16).
    """
    td = lock_tdr(lp, args.rcx, OPERAND_RCX, SHARED)
    check_state(lp, td, _OP_STATES)
    busy = lp.locks.exclusive(td.epoch_lock)
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_TD_EPOCH)
    epoch = td.epoch.load()
    readers = td.epoch_readers[1 - (epoch & 1)].load()
    if readers:
        raise Refused(TDX_PREVIOUS_TLB_EPOCH_BUSY)

    td.epoch.store(epoch + 1)
