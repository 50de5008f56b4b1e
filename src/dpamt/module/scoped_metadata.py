"""The values of TD and VCPU metadata, and what comes after a field: MNG.RD, VP.RD and VP.WR.

What VP.WR writes is one word of a VCPU: every writable field at its own place in it, as the
difference to its initial value, so that a new VCPU has 0.

Time is not modelled: a TD's clock begins with it (TSC_OFFSET 0), and the processor's runs at
:data:`NATIVE_TSC_FREQUENCY`.
Source: Intel TDX module source (open release), 2.0 line [metadata_td.c, metadata_vp.c,
metadata_generic.c].
"""

from typing import Final

from dpamt.abi import td_metadata as field
from dpamt.abi.cpuid import (
    CPUID_CODE_RESERVED,
    CPUID_FIXED0_BITMAP,
    CPUID_INDEX,
    CPUID_ROWS,
    NO_SUBLEAF,
    code_of_cpuid,
    cpuid_of_code,
)
from dpamt.abi.metadata import (
    FIELD_CODE_MASK,
    FIELD_LAST_MASK,
    FIELD_RESERVED_MASK,
    NO_FIELD,
    lookup_key,
)
from dpamt.abi.status import TDX_METADATA_FIELD_ID_INCORRECT, TDX_METADATA_FIELD_NOT_READABLE
from dpamt.abi.td_metadata import ScopedField
from dpamt.abi.td_params import CONFIG_FLAGS_GPAW, TD_PARAMS_CPUID_BYTES
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import (
    HEADER_FATAL,
    HEADER_HKID_SHIFT,
    HEADER_LIFECYCLE_MASK,
    HEADER_LIFECYCLE_SHIFT,
    HEADER_PACKAGES_MASK,
    HEADER_PACKAGES_SHIFT,
    HEADER_TDCX_MASK,
    HEADER_TDCX_SHIFT,
    Td,
    Vcpu,
)
from dpamt.module.td_cpuid import TdCpu, read_cpuid, virtual_max_pa
from dpamt.platform.guest import InterruptibleGuest

NATIVE_TSC_FREQUENCY: Final = 80
"""Units of 25 MHz: 2 GHz."""
_MULTIPLIER_ONE: Final = 1 << 48
"""TSC_MULTIPLIER of a TD whose clock runs as the processor's."""

_WRITABLE: Final = tuple(item for item in field.VCPU_FIELDS if item.write)
_SHIFT: Final = {
    item: sum(8 * before.size for before in _WRITABLE[:index])
    for index, item in enumerate(_WRITABLE)
}
"""Writable field to its place in the VCPU's word."""

_DIRECT: Final = {
    field.CHLDCNT: "children",
    field.NUM_VCPUS: "vcpus",
    field.NUM_ASSOC_VCPUS: "associated",
    field.OP_STATE: "op_state",
    field.NUM_L2_VMS: "l2_vms",
    field.ATTRIBUTES: "attributes",
    field.XFAM: "xfam",
    field.MAX_VCPUS: "max_vcpus",
    field.TSC_FREQUENCY: "tsc_frequency",
    field.CONFIG_FLAGS: "config_flags",
    field.TD_EPOCH: "epoch",
}
"""TD field to the word that holds it."""
_IN_HEADER: Final = {
    field.FATAL: (HEADER_FATAL, 0),
    field.NUM_TDCX: (HEADER_TDCX_MASK, HEADER_TDCX_SHIFT),
    field.LIFECYCLE_STATE: (HEADER_LIFECYCLE_MASK, HEADER_LIFECYCLE_SHIFT),
    field.PKG_CONFIG_BITMAP: (HEADER_PACKAGES_MASK, HEADER_PACKAGES_SHIFT),
    field.HKID: (-1 << HEADER_HKID_SHIFT, HEADER_HKID_SHIFT),
}
"""TD field to its bits of the TD's header."""


def is_null_field(field_id: int) -> bool:
    """Whether an id asks for the first field; its context is not looked at."""
    return field_id | field.CONTEXT_MASK == NO_FIELD


def check_field_id(field_id: int) -> None:
    """The id of one element: no reserved bit, no sequence."""
    if field_id & (FIELD_RESERVED_MASK | FIELD_LAST_MASK):
        raise Refused(TDX_METADATA_FIELD_ID_INCORRECT)


def find(known: dict[tuple[int, int], tuple[ScopedField, int]], field_id: int) -> ScopedField:
    """The field that an id names.  Only class and code count."""
    found = known.get(lookup_key(field_id))
    if found is None:
        raise Refused(TDX_METADATA_FIELD_ID_INCORRECT)
    return found[0]


def read_td(lp: LogicalProcessor, td: Td, field_id: int) -> int:
    """The value of a TD's field, for MNG.RD."""
    number, code = lookup_key(field_id)
    if number == field.CPUID_CLASS:
        return _read_cpuid(lp, td, code)
    item = find(field.TD_BY_KEY, field_id)
    value = _read_td_field(lp, td, item, code - (item.id & FIELD_CODE_MASK))
    return value & item.read & item.mask


def _read_td_field(lp: LogicalProcessor, td: Td, item: ScopedField, element: int) -> int:
    name = _DIRECT.get(item)
    if name is not None:
        word = getattr(td, name)
        value: int = word.load()
        return value
    bits = _IN_HEADER.get(item)
    if bits is not None:
        header = td.header.load()
        return (header & bits[0]) >> bits[1]
    if item is field.REFCOUNT:
        return td.epoch_readers[element].load()
    if item is field.TSC_MULTIPLIER:
        return tsc_multiplier(td)
    if item is field.GPAW:
        flags = td.config_flags.load()
        return flags & CONFIG_FLAGS_GPAW
    if item is field.VIRT_MAXPA:
        cpu = _cpu_of(td)
        return virtual_max_pa(lp.module.machine, cpu)
    constants = {field.NUM_CPUID_VALUES: len(CPUID_ROWS), field.CPUID_FIXED0: CPUID_FIXED0_BITMAP}
    return constants.get(item, 0)


def tsc_multiplier(td: Td) -> int:
    """Virtual ticks for each tick of the processor, in units of 2^-48."""
    frequency = td.tsc_frequency.load()
    return frequency * _MULTIPLIER_ONE // NATIVE_TSC_FREQUENCY


def _cpu_of(td: Td) -> TdCpu:
    config = td.cpuid.load()
    xfam = td.xfam.load()
    attributes = td.attributes.load()
    flags = td.config_flags.load()
    frequency = td.tsc_frequency.load()
    return TdCpu(
        config.to_bytes(TD_PARAMS_CPUID_BYTES, "little"), xfam, attributes, flags, frequency
    )


def _read_cpuid(lp: LogicalProcessor, td: Td, code: int) -> int:
    if code & CPUID_CODE_RESERVED:
        raise Refused(TDX_METADATA_FIELD_ID_INCORRECT)
    leaf, subleaf, element = cpuid_of_code(code)
    cpu = _cpu_of(td)
    values = read_cpuid(lp.module.machine, cpu, leaf, subleaf)
    if values is None:
        raise Refused(TDX_METADATA_FIELD_NOT_READABLE)
    return values[2 * element + 1] << 32 | values[2 * element]


def read_vcpu(lp: LogicalProcessor, vcpu: Vcpu, td: Td, item: ScopedField) -> int:
    """The value of a VCPU's field, as the VCPU has it: not yet what the host may see of it."""
    if item.write:
        fields = vcpu.fields.load()
        return fields >> _SHIFT[item] & item.mask ^ item.initial
    if item is field.NUM_TDVPS_PAGES:
        return vcpu.pages.load()
    if item is field.ASSOC_LPID:
        associated = vcpu.lp.load()
        return associated - 1
    if item is field.VMCS_HKID:
        header = td.header.load()
        return header >> HEADER_HKID_SHIFT
    if item is field.VMCS_TSC_MULTIPLIER:
        return tsc_multiplier(td)
    if item is field.VCPU_STATE_DETAILS:
        guest = lp.module.guests.get(vcpu.page)
        waits = isinstance(guest, InterruptibleGuest) and guest.interrupt_waits
        return field.VCPU_STATE_INTERRUPT_PENDING if waits else 0
    return 0


def write_vcpu(vcpu: Vcpu, item: ScopedField, value: int) -> None:
    """Give a writable field of a VCPU a new value."""
    fields = vcpu.fields.load()
    shift = _SHIFT[item]
    kept = fields & ~(item.mask << shift)
    vcpu.fields.store(kept | (value ^ item.initial) << shift)


def td_field_after(field_id: int) -> int:
    """Id of the field element after this one, or the first (MNG.RD, version 1)."""
    last = field.CPUID_VALUES.id
    if not is_null_field(field_id):
        number, code = lookup_key(field_id)
        if number == field.CPUID_CLASS:
            return _cpuid_after(code)
        following = _after(field.TD_FIELDS, field_id)
        if following != last:
            return following
        first = CPUID_ROWS[0]
        return last | code_of_cpuid(first.leaf, first.subleaf, 0)
    return field.TD_FIELDS[0].id


def _cpuid_after(code: int) -> int:
    leaf, subleaf, element = cpuid_of_code(code)
    if not element:
        return field.CPUID_VALUES.id | code | 1
    index = CPUID_INDEX.get((leaf, subleaf), CPUID_INDEX.get((leaf, NO_SUBLEAF), -1)) + 1
    if not 0 < index < len(CPUID_ROWS):
        return NO_FIELD
    row = CPUID_ROWS[index]
    return field.CPUID_VALUES.id | code_of_cpuid(row.leaf, row.subleaf, 0)


def vcpu_field_after(field_id: int) -> int:
    """Id of the field after this one, or the first (VP.RD, version 1)."""
    if is_null_field(field_id):
        return field.VCPU_FIELDS[0].id
    return _after(field.VCPU_FIELDS, field_id)


def _after(fields: tuple[ScopedField, ...], field_id: int) -> int:
    """The next element in the order of the table; all ones behind the last."""
    key = lookup_key(field_id)
    for index, item in enumerate(fields):
        number, code = lookup_key(item.id)
        if number == key[0] and code <= key[1] < code + item.elements:
            if key[1] + 1 < code + item.elements:
                return item.id + key[1] + 1 - code
            return fields[index + 1].id if index + 1 < len(fields) else NO_FIELD
    return NO_FIELD
