"""What CPUID tells a TD: checked by MNG.INIT from TD_PARAMS, read again by MNG.RD.

The processor is a modelled one: it has what the module demands of a processor and every feature
that TD_PARAMS may allow, no hyper-threading, and as many cores in a package as the machine's
topology says.  What a leaf tells of a real processor beyond that (cache and TLB geometry, sizes of
extended state, names) is 0 here unless TD_PARAMS configures it.

Source: Intel TDX module source (open release), 2.0 line [tdh_mng_init.c, helpers.c,
metadata_td.c].
"""

import struct
from typing import Final, NamedTuple, NoReturn

from dpamt.abi.cpuid import (
    CPUID_ADDRESS_WIDTHS,
    CPUID_CONFIG,
    CPUID_FEATURES,
    CPUID_INDEX,
    CPUID_LBR,
    CPUID_MONITOR,
    CPUID_PERFMON,
    CPUID_PERFMON_EXTENDED,
    CPUID_PROCESSOR_TRACE,
    CPUID_ROWS,
    CPUID_TILES,
    CPUID_TOPOLOGY,
    CPUID_TSC,
    CPUID_VERSION,
    CPUID_X2APIC_TOPOLOGY,
    CPUID_XFAM,
    CPUID_XSTATE,
    LEVEL_TYPE_CORE,
    LEVEL_TYPE_SHIFT,
    LEVEL_TYPE_SMT,
    NO_SUBLEAF,
    TOPOLOGY_LEVELS,
    CpuidRow,
    CpuidValues,
    is_cpuid_fixed0,
)
from dpamt.abi.operands import OPERAND_CPUID_CONFIG, OPERAND_RDX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED, TDX_OPERAND_INVALID
from dpamt.abi.td_params import (
    ATTRIBUTES_PERFMON,
    CONFIG_FLAGS_GPAW,
    CONFIG_FLAGS_MAXGPA_VIRT,
    CONFIG_FLAGS_MAXPA_VIRT,
)
from dpamt.module.refused import Refused
from dpamt.platform.machine import Machine

PROCESSOR_VERSION: Final = 0x000806F8
"""Family, model and stepping of the modelled processor, CPUID 1 EAX: Sapphire Rapids."""
MAX_PA_BITS: Final = (48, 52)
"""Most bits of a TD's physical addresses, by CONFIG_FLAGS.GPAW."""

_FOUR: Final = struct.Struct("<4I")
_CONFIG_BYTES: Final = _FOUR.size * len(CPUID_CONFIG)
_CONFIG_INDEX: Final = {(row.leaf, row.subleaf): n for n, row in enumerate(CPUID_CONFIG)}
_NOTHING: Final[CpuidValues] = (0, 0, 0, 0)
_HLE: Final = 1 << 4
_RTM: Final = 1 << 11
_LA57: Final = 1 << 16
_MONITOR: Final = 1 << 3
_PERFMON_EXTENDED: Final = 1 << 8
_WIDTH_MASK: Final = 0xFF
_WHOLE_LEAF_XFAM: Final = {
    CPUID_PROCESSOR_TRACE: 1 << 8,
    CPUID_LBR: 1 << 15,
    CPUID_TILES: 3 << 17,
}
"""Leaves that a TD has only with these XFAM bits."""


class TdCpu(NamedTuple):
    """What CPUID of a TD depends on; ``config`` is the CPUID part of its TD_PARAMS."""

    config: bytes
    xfam: int
    attributes: int
    config_flags: int
    tsc_frequency: int


def check_cpuid(machine: Machine, td: TdCpu, args: TdxModuleArgs) -> None:
    """Refuse a configuration that the module refuses, in its order; RCX names the row at fault."""
    for row in CPUID_ROWS:
        configured = _configured(row, td.config)
        for wanted, config, allow in zip(configured, row.config, row.allow, strict=True):
            if wanted & ~(config | allow):
                _refuse(row, args)
        if row.leaf == CPUID_VERSION and configured[0] not in (0, PROCESSOR_VERSION):
            _refuse(row, args)
        values = _values(machine, td, row)
        if (row.leaf, row.subleaf) == (CPUID_FEATURES, 0):
            if (values[1] & _HLE != 0) != (values[1] & _RTM != 0):
                _refuse(row, args)
        elif row.leaf == CPUID_ADDRESS_WIDTHS:
            _check_widths(machine, td, configured[0] & _WIDTH_MASK)
    _check_topology(machine, td)
    if any(td.config[_CONFIG_BYTES:]):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)


def _refuse(row: CpuidRow, args: TdxModuleArgs) -> NoReturn:
    args.rcx = row.id
    raise Refused(TDX_OPERAND_INVALID | OPERAND_CPUID_CONFIG)


def _check_widths(machine: Machine, td: TdCpu, wanted: int) -> None:
    """A MAXPA of the TD's own: at most the processor's and what its GPAW can hold.

    The module has a lower limit too (MIN_VIRT_MAXPA), whose value has not been seen.
    """
    if td.config_flags & CONFIG_FLAGS_MAXGPA_VIRT or not td.config_flags & CONFIG_FLAGS_MAXPA_VIRT:
        return
    if wanted > min(machine.max_pa_bits, MAX_PA_BITS[td.config_flags & CONFIG_FLAGS_GPAW]):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_CPUID_CONFIG)


def _check_topology(machine: Machine, td: TdCpu) -> None:
    """CPUID 0x1F: level types rise, a core level is among them; all 0 means the processor's."""
    levels = _topology(machine, td)
    own = _own_topology(td)
    kind = 0
    cores = False
    for subleaf, (_, _, ecx, _) in enumerate(levels):
        before, kind = kind, ecx >> LEVEL_TYPE_SHIFT & 0xFF
        if not any(own[0]) and any(own[subleaf]):
            raise Refused(TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED)
        if kind:
            rises = before < kind < TOPOLOGY_LEVELS
            if not rises or ecx & 0xFF != subleaf or (kind == LEVEL_TYPE_SMT and subleaf):
                raise Refused(TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED)
            cores |= kind == LEVEL_TYPE_CORE
        elif not subleaf or not cores:
            raise Refused(TDX_CPUID_LEAF_1F_FORMAT_UNRECOGNIZED)


def read_cpuid(machine: Machine, td: TdCpu, leaf: int, subleaf: int) -> CpuidValues | None:
    """What MNG.RD reads of a leaf; None where a TD has no such leaf and subleaf.

    A leaf that is 0 for every TD reads as 0 with any subleaf.
    """
    index = CPUID_INDEX.get((leaf, subleaf))
    if is_cpuid_fixed0(leaf):
        return _NOTHING
    if index is None:
        return None
    if leaf == CPUID_TOPOLOGY:
        return _topology(machine, td)[subleaf]
    if leaf == CPUID_X2APIC_TOPOLOGY:
        return _x2apic_topology(machine, td)[subleaf]
    return _values(machine, td, CPUID_ROWS[index])


def _configured(row: CpuidRow, config: bytes) -> CpuidValues:
    place = _CONFIG_INDEX.get((row.leaf, row.subleaf))
    if place is None:
        return _NOTHING
    eax, ebx, ecx, edx = _FOUR.unpack_from(config, place * _FOUR.size)
    return eax, ebx, ecx, edx


def _values(machine: Machine, td: TdCpu, row: CpuidRow) -> CpuidValues:
    """The four registers, as MNG.INIT computes them; topology and what it depends on aside."""
    configured = _configured(row, td.config)
    found = [
        (native | allow) & ~fixed0 & ~config & (wanted | ~allow) | fixed1 | wanted & config
        for native, allow, fixed0, fixed1, config, wanted in zip(
            row.demanded, row.allow, row.fixed0, row.fixed1, row.config, configured, strict=True
        )
    ]
    for bit, masks in CPUID_XFAM.get((row.leaf, row.subleaf), {}).items():
        if not td.xfam >> bit & 1:
            found = [value & ~mask for value, mask in zip(found, masks, strict=True)]
    if not _has(machine, td, row):
        return _NOTHING
    if row.leaf == CPUID_VERSION:
        found[0] = found[0] or PROCESSOR_VERSION
    elif row.leaf == CPUID_TSC:
        found[1] = td.tsc_frequency
    elif row.leaf == CPUID_ADDRESS_WIDTHS:
        found[0] = _widths(machine, td, found[0] & _WIDTH_MASK)
    eax, ebx, ecx, edx = found
    return eax, ebx, ecx, edx


def _has(machine: Machine, td: TdCpu, row: CpuidRow) -> bool:
    """Whether a TD of this configuration has the leaf at all: else it reads as 0."""
    perfmon = td.attributes & ATTRIBUTES_PERFMON != 0
    if row.leaf == CPUID_PERFMON:
        return perfmon
    if row.leaf == CPUID_PERFMON_EXTENDED:
        extended = _row(CPUID_FEATURES, 1)
        return perfmon and _values(machine, td, extended)[0] & _PERFMON_EXTENDED != 0
    if row.leaf == CPUID_MONITOR:
        version = _row(CPUID_VERSION, NO_SUBLEAF)
        return _values(machine, td, version)[2] & _MONITOR != 0
    if row.leaf == CPUID_XSTATE and row.subleaf > 1:
        return td.xfam >> row.subleaf & 1 != 0
    needed = _WHOLE_LEAF_XFAM.get(row.leaf, 0)
    return td.xfam & needed == needed


def _row(leaf: int, subleaf: int) -> CpuidRow:
    return CPUID_ROWS[CPUID_INDEX[leaf, subleaf]]


def _widths(machine: Machine, td: TdCpu, wanted: int) -> int:
    """CPUID 0x80000008 EAX: 7:0 physical, 15:8 linear, 23:16 guest-physical address bits."""
    features = _values(machine, td, _row(CPUID_FEATURES, 0))
    linear = 57 if features[2] & _LA57 else 48
    most = min(machine.max_pa_bits, MAX_PA_BITS[td.config_flags & CONFIG_FLAGS_GPAW])
    if td.config_flags & CONFIG_FLAGS_MAXGPA_VIRT:
        return most << 16 | linear << 8 | machine.max_pa_bits
    physical = machine.max_pa_bits
    if td.config_flags & CONFIG_FLAGS_MAXPA_VIRT:
        physical = wanted or most
    return linear << 8 | physical


def virtual_max_pa(machine: Machine, td: TdCpu) -> int:
    """TDCS.VIRT_MAXPA: the guest-physical bits, or the physical bits where these are not given."""
    eax = _values(machine, td, _row(CPUID_ADDRESS_WIDTHS, NO_SUBLEAF))[0]
    return eax >> 16 & _WIDTH_MASK or eax & _WIDTH_MASK


def _own_topology(td: TdCpu) -> list[CpuidValues]:
    """CPUID 0x1F as TD_PARAMS configures it."""
    rows = [_row(CPUID_TOPOLOGY, level) for level in range(TOPOLOGY_LEVELS)]
    return [_configured(row, td.config) for row in rows]


def _topology(machine: Machine, td: TdCpu) -> list[CpuidValues]:
    """CPUID 0x1F: what TD_PARAMS says, or the processor's where its first subleaf is 0."""
    own = _own_topology(td)
    if any(own[0]):
        return own
    cores = max(1, machine.topology.cpus // machine.topology.packages)
    smt = (0, 1, LEVEL_TYPE_SMT << LEVEL_TYPE_SHIFT, 0)
    core = ((cores - 1).bit_length(), cores, LEVEL_TYPE_CORE << LEVEL_TYPE_SHIFT | 1, 0)
    return [smt, core, *((0, 0, level, 0) for level in range(2, TOPOLOGY_LEVELS))]


def _x2apic_topology(machine: Machine, td: TdCpu) -> list[CpuidValues]:
    """CPUID 0xB, which the module derives: SMT level, then the widest level as that of cores."""
    levels = [level for level in _topology(machine, td) if level[2] >> LEVEL_TYPE_SHIFT & 0xFF]
    found = [level for level in levels[:1] if level[2] >> LEVEL_TYPE_SHIFT == LEVEL_TYPE_SMT]
    eax, ebx, _, edx = levels[-1]
    found.append((eax, ebx, LEVEL_TYPE_CORE << LEVEL_TYPE_SHIFT | len(found), edx))
    return [*found, *[_NOTHING] * (3 - len(found))]
