"""TDH.MNG.RD and VP.RD: read a metadata field of a TD, or of a VCPU."""

from typing import Final

from dpamt.abi.leaves import TDH_MNG_RD, TDH_VP_RD
from dpamt.abi.metadata import NO_FIELD
from dpamt.abi.operands import OPERAND_RAX, OPERAND_RCX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED
from dpamt.abi.status import TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT, TDX_OPERAND_INVALID
from dpamt.abi.td_metadata import VCPU_BY_KEY
from dpamt.module.checks import (
    associate,
    check_state,
    check_tdvps,
    lock_owner,
    lock_tdr,
    lock_tdvpr,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.scoped_metadata import (
    check_field_id,
    find,
    is_null_field,
    read_td,
    read_vcpu,
    td_field_after,
    vcpu_field_after,
)
from dpamt.sync import SHARED

_MNG_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MNG_RD]
_VP_OP_STATES: Final = OP_STATE_ALLOWED[TDH_VP_RD]


def tdh_mng_rd(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR, RDX = field id; R8 = value, and in version 1 RDX = id of the next field.

    Source: Intel TDX module source (open release), 2.0 line [tdh_mng_rd_wr.c].
    """
    field_id = args.rdx
    if lp.version:
        args.rdx = NO_FIELD
    args.r8 = 0
    if lp.version > 1:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)

    td = lock_tdr(lp, args.rcx, OPERAND_RCX, SHARED)
    check_state(lp, td, _MNG_OP_STATES)
    if lp.version and is_null_field(field_id):
        args.rdx = td_field_after(field_id)
        raise Refused(TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT)
    check_field_id(field_id)
    value = read_td(lp, td, field_id)

    args.r8 = value
    if lp.version:
        args.rdx = td_field_after(field_id)


def tdh_vp_rd(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDVPR, RDX = field id; R8 = value, and in version 1 RDX = id of the next field.

    The VCPU becomes associated with this logical processor when it is with none.
    Source: Intel TDX module source (open release), 2.0 line [tdh_vp_rd_wr.c].
    """
    field_id = args.rdx
    if lp.version:
        args.rdx = NO_FIELD
    args.r8 = 0
    if lp.version > 1:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)

    vcpu, entry = lock_tdvpr(lp, args.rcx, OPERAND_RCX, SHARED)
    td = lock_owner(lp, entry, SHARED)
    check_state(lp, td, _VP_OP_STATES)
    check_tdvps(vcpu, td)
    associate(lp, vcpu, td)
    if lp.version and is_null_field(field_id):
        args.rdx = vcpu_field_after(field_id)
        raise Refused(TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT)
    check_field_id(field_id)
    item = find(VCPU_BY_KEY, field_id)
    value = read_vcpu(lp, vcpu, td, item)

    args.r8 = value & item.read & item.mask
    if lp.version:
        args.rdx = vcpu_field_after(field_id)
