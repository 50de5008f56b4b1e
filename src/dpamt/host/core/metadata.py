"""What the kernel learns from the module at boot: the global metadata, one field per SYS.RD.

Source: Linux arch/x86/virt/vmx/tdx/tdx_global_metadata.c.
"""

from dataclasses import dataclass, replace
from typing import Final

from dpamt.abi import metadata as field
from dpamt.abi.leaves import TDH_SYS_RD
from dpamt.abi.metadata import MetadataField
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.seamcall import tdh_sys_rd
from dpamt.host.core.tdx_errno import EIO
from dpamt.platform.machine import Cmr


@dataclass(frozen=True, slots=True)
class TdxSysInfo:
    """struct tdx_sys_info; sizes in bytes."""

    minor: int
    major: int
    update: int
    features0: int
    max_tdmrs: int
    max_reserved_per_tdmr: int
    pamt_4k_entry_size: int
    pamt_2m_entry_size: int
    pamt_1g_entry_size: int
    tdr_base_size: int
    tdcs_base_size: int
    tdvps_base_size: int
    attributes_fixed0: int
    attributes_fixed1: int
    xfam_fixed0: int
    xfam_fixed1: int
    max_vcpus_per_td: int
    num_cpuid_config: int
    pamt_page_bitmap_entry_bits: int
    """0 without Dynamic PAMT."""
    cpuid_config: tuple[tuple[int, int, int], ...]
    """(leaf and subleaf, EAX and EBX, ECX and EDX) of each configurable CPUID leaf."""
    cmrs: tuple[Cmr, ...]
    """Read only by kernels that look for memory holes between CMRs."""

    @property
    def tdcs_pages(self) -> int:
        """4K pages of TDCS."""
        return self.tdcs_base_size >> PAGE_SHIFT

    @property
    def tdcx_pages_per_vcpu(self) -> int:
        """4K pages of a VCPU besides its TDVPR."""
        return (self.tdvps_base_size >> PAGE_SHIFT) - 1

    def supports(self, feature: int) -> bool:
        """Whether TDX_FEATURES0 has the bit of that mask."""
        return self.features0 & feature != 0


_Group = tuple[tuple[str, MetadataField], ...]
"""Fields of :class:`TdxSysInfo`, each with its metadata field, in the order of reading."""

_VERSION: Final[_Group] = (
    ("minor", field.MINOR_VERSION),
    ("major", field.MAJOR_VERSION),
    ("update", field.UPDATE_VERSION),
)
_FEATURES: Final[_Group] = (("features0", field.TDX_FEATURES0),)
_TDMR: Final[_Group] = (
    ("max_tdmrs", field.MAX_TDMRS),
    ("max_reserved_per_tdmr", field.MAX_RESERVED_PER_TDMR),
    ("pamt_4k_entry_size", field.PAMT_4K_ENTRY_SIZE),
    ("pamt_2m_entry_size", field.PAMT_2M_ENTRY_SIZE),
    ("pamt_1g_entry_size", field.PAMT_1G_ENTRY_SIZE),
)
_TDMR_DYNAMIC: Final[_Group] = (("pamt_page_bitmap_entry_bits", field.PAMT_PAGE_BITMAP_ENTRY_BITS),)
"""Read after the others of its group, with Dynamic PAMT."""
_TD: Final[_Group] = (
    ("tdr_base_size", field.TDR_BASE_SIZE),
    ("tdcs_base_size", field.TDCS_BASE_SIZE),
    ("tdvps_base_size", field.TDVPS_BASE_SIZE),
    ("attributes_fixed0", field.ATTRIBUTES_FIXED0),
    ("attributes_fixed1", field.ATTRIBUTES_FIXED1),
    ("xfam_fixed0", field.XFAM_FIXED0),
    ("xfam_fixed1", field.XFAM_FIXED1),
    ("num_cpuid_config", field.NUM_CPUID_CONFIG),
    ("max_vcpus_per_td", field.MAX_VCPUS_PER_TD),
)


class _ReadFailed(Exception):  # noqa: N818  (ends the reading; never leaves this file)
    pass


def get_tdx_sys_info(kernel: Kernel, cpu: Cpu) -> int:
    """Read every field into ``kernel.sysinfo``; 0, or -EIO with the failure logged.

    The version is printed as soon as it is read, and also when that failed: with zeros then.
    """
    values = {"pamt_page_bitmap_entry_bits": 0}
    cmrs: tuple[Cmr, ...] = ()
    try:
        get_tdx_sys_info_version(kernel, cpu, values)
        _read_group(kernel, cpu, _FEATURES, values)
        _read_group(kernel, cpu, _TDMR, values)
        if kernel.design.dynamic_pamt and values["features0"] & field.TDX_FEATURES0_DYNAMIC_PAMT:
            _read_group(kernel, cpu, _TDMR_DYNAMIC, values)
        _read_group(kernel, cpu, _TD, values)
        cpuid = _read_cpuid_config(kernel, cpu, values["num_cpuid_config"])
        if kernel.behaviour.tdmr_holes == "cmrs":
            cmrs = _read_cmrs(kernel, cpu)
    except _ReadFailed:
        return -EIO
    kernel.sysinfo = TdxSysInfo(**values, cpuid_config=cpuid, cmrs=cmrs)
    return 0


def get_tdx_sys_info_version(kernel: Kernel, cpu: Cpu, values: dict[str, int]) -> None:
    """The three numbers of the version, and the line that shows them; raises _ReadFailed."""
    values.update(dict.fromkeys(("minor", "major", "update"), 0))
    try:
        _read_group(kernel, cpu, _VERSION, values)
    finally:
        major, minor, update = values["major"], values["minor"], values["update"]
        kernel.log.info(f"Module version: {major}.{minor}.{update:02}")


def read_version(kernel: Kernel, cpu: Cpu) -> int:
    """Read the version again, into ``kernel.sysinfo``; 0 or -EIO.  Nothing is printed."""
    values: dict[str, int] = {}
    assert kernel.sysinfo is not None
    try:
        _read_group(kernel, cpu, _VERSION, values)
    except _ReadFailed:
        return -EIO
    version = values["minor"], values["major"], values["update"]
    kernel.sysinfo = replace(kernel.sysinfo, minor=version[0], major=version[1], update=version[2])
    return 0


def read_module_hv(kernel: Kernel, cpu: Cpu) -> int:
    """Version of the handoff data that this module writes, or -EIO with the failure logged."""
    try:
        return _read(kernel, cpu, field.MODULE_HV, 0)
    except _ReadFailed:
        return -EIO


def _read_group(kernel: Kernel, cpu: Cpu, group: _Group, values: dict[str, int]) -> None:
    for index in range(len(group)):
        name, item = group[index]
        value = _read(kernel, cpu, item, 0)
        values[name] = value


def _read(kernel: Kernel, cpu: Cpu, item: MetadataField, index: int) -> int:
    """One field, of an array the one at ``index``; raises _ReadFailed after logging."""
    status, args = tdh_sys_rd(cpu, item.id + index)
    if not status:
        return args.r8
    log = kernel.log
    log.info(f"SEAMCALL ({TDH_SYS_RD:#018x}) failed: {status:#018x}")
    log.info(f"RCX {args.rcx:#018x} RDX {args.rdx:#018x} R08 {args.r8:#018x}")
    log.info(f"R09 {args.r9:#018x} R10 {args.r10:#018x} R11 {args.r11:#018x}")
    raise _ReadFailed


def _read_cpuid_config(kernel: Kernel, cpu: Cpu, count: int) -> tuple[tuple[int, int, int], ...]:
    """The CPUID leaves that a TD's owner may configure: all leaves first, then all values."""
    leaves: list[int] = []
    for index in range(count):
        leaf = _read(kernel, cpu, field.CPUID_CONFIG_LEAVES, index)
        leaves.append(leaf)
    entries: list[tuple[int, int, int]] = []
    for index in range(count):
        eax_ebx = _read(kernel, cpu, field.CPUID_CONFIG_VALUES, 2 * index)
        ecx_edx = _read(kernel, cpu, field.CPUID_CONFIG_VALUES, 2 * index + 1)
        entries.append((leaves[index], eax_ebx, ecx_edx))
    return tuple(entries)


def _read_cmrs(kernel: Kernel, cpu: Cpu) -> tuple[Cmr, ...]:
    """The CMRs that are not null, ascending."""
    cmrs: list[Cmr] = []
    count = _read(kernel, cpu, field.NUM_CMRS, 0)
    for index in range(count):
        base = _read(kernel, cpu, field.CMR_BASE, index)
        size = _read(kernel, cpu, field.CMR_SIZE, index)
        if size:
            cmrs.append(Cmr(base, size))
    return tuple(cmrs)
