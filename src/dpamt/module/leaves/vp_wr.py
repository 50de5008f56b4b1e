"""TDH.VP.WR: write a metadata field of a VCPU."""

from typing import Final

from dpamt.abi import td_metadata as field
from dpamt.abi.leaves import TDH_VP_WR
from dpamt.abi.metadata import NO_FIELD
from dpamt.abi.operands import OPERAND_RCX
from dpamt.abi.pages import PAGE_SIZE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED
from dpamt.abi.status import (
    TDX_METADATA_FIELD_NOT_WRITABLE,
    TDX_METADATA_FIELD_VALUE_NOT_VALID,
    TDX_TD_VMCS_FIELD_NOT_INITIALIZED,
)
from dpamt.abi.td_metadata import VCPU_BY_KEY, ScopedField
from dpamt.module.checks import associate, check_state, check_tdvps, lock_owner, lock_tdvpr
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.scoped_metadata import check_field_id, find, read_vcpu, write_vcpu
from dpamt.module.shared_memory import check_shared_hpa
from dpamt.module.td import Td, Vcpu
from dpamt.sync import SHARED

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_VP_WR]

_HPA_BYTES: Final = {
    field.POSTED_INTERRUPT_DESCRIPTOR: field.POSTED_INTERRUPT_DESCRIPTOR_BYTES,
    field.SHARED_EPT_POINTER: PAGE_SIZE,
}
"""Fields that hold a shared HPA, to the bytes that it must have, and its alignment."""
_POSTED: Final = (field.POSTED_INTERRUPT_VECTOR, field.POSTED_INTERRUPT_DESCRIPTOR)
"""What must be set before posted interrupts are turned on, in the order of the checks."""
_CODE_MASK: Final = 0xFFFF_FFFF


def tdh_vp_wr(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDVPR, RDX = field id, R8 = value, R9 = mask; R8 = what the host could read before.

    The VCPU becomes associated with this logical processor when it is with none.  Bits of the mask
    that the host may not write must be given as they can be read.
    Source: Intel TDX module source (open release), 2.0 line [tdh_vp_rd_wr.c, metadata_vp.c].
    """
    field_id, value, mask = args.rdx, args.r8, args.r9
    args.r8 = 0

    vcpu, entry = lock_tdvpr(lp, args.rcx, OPERAND_RCX, SHARED)
    td = lock_owner(lp, entry, SHARED)
    check_state(lp, td, _OP_STATES)
    check_tdvps(vcpu, td)
    associate(lp, vcpu, td)
    check_field_id(field_id)
    item = find(VCPU_BY_KEY, field_id)
    before = read_vcpu(lp, vcpu, td, item)
    new = _combined(item, before, value, mask)
    _check_value(lp, vcpu, td, item, new)

    write_vcpu(vcpu, item, new)
    args.r8 = before & item.read & item.mask


def _combined(item: ScopedField, before: int, value: int, mask: int) -> int:
    """The field's new value, of its old one and the bits that are written.

    An address that was never set counts as 0 in the bits that nobody may write.
    """
    writable = item.write & mask
    if not writable:
        raise Refused(TDX_METADATA_FIELD_NOT_WRITABLE)
    base = 0 if writable == item.mask else before
    if item in _HPA_BYTES and base == NO_FIELD:
        base &= item.write
    forbidden = mask & ~item.write
    if base & item.read & forbidden != value & forbidden:
        raise Refused(TDX_METADATA_FIELD_VALUE_NOT_VALID)
    return base & ~writable | value & writable


def _check_value(lp: LogicalProcessor, vcpu: Vcpu, td: Td, item: ScopedField, new: int) -> None:
    """What a field asks of its value besides its mask."""
    size = _HPA_BYTES.get(item)
    if size is not None and new != NO_FIELD:
        check_shared_hpa(lp, new, size, size, TDX_METADATA_FIELD_VALUE_NOT_VALID)
    if item is field.POSTED_INTERRUPT_VECTOR and new > field.MAX_VECTOR:
        raise Refused(TDX_METADATA_FIELD_VALUE_NOT_VALID)
    if item is field.PIN_BASED_CONTROLS and new & field.POSTED_INTERRUPTS:
        for index in range(len(_POSTED)):
            known = read_vcpu(lp, vcpu, td, _POSTED[index])
            if known == _POSTED[index].initial:
                code = _POSTED[index].id & _CODE_MASK
                raise Refused(TDX_TD_VMCS_FIELD_NOT_INITIALIZED | code)
