"""TD_PARAMS, the structure by which TDH.MNG.INIT learns what TD to make, and its limits.

    offset   0 ATTRIBUTES          8 bytes, little endian like the rest
             8 XFAM                8
            16 MAX_VCPUS           2
            18 NUM_L2_VMS          1
            19 MSR_CONFIG_CTLS     1      bit 0 IA32_ARCH_CAPABILITIES is configured
            20 reserved            4
            24 EPTP_CONTROLS       8      2:0 memory type (6), 5:3 EPT levels - 1, the rest 0
            32 CONFIG_FLAGS        8      bit 0 GPAW: guest address width 52, else 48
            40 TSC_FREQUENCY       2      units of 25 MHz
            42 reserved           38
            80 MRCONFIGID         48
           128 MROWNER            48
           176 MROWNERCONFIG      48
           224 IA32_ARCH_CAPABILITIES_CONFIG 8
           232 reserved           24
           256 CPUID_CONFIG      768

Source: Intel TDX Module 1.5 ABI specification, TD_PARAMS; Linux struct td_params,
arch/x86/kvm/vmx/tdx_arch.h (which has no NUM_L2_VMS and keeps bytes 18 to 23 zero).  Limits:
Intel TDX module source (open release), 2.0.08 to 2.0.18.
"""

import struct
from dataclasses import dataclass
from typing import Final

TD_PARAMS_BYTES: Final = 1024
TD_PARAMS_ALIGN: Final = 1024

ATTRIBUTES_DEBUG: Final = 1
ATTRIBUTES_SEPT_VE_DISABLE: Final = 1 << 28
ATTRIBUTES_PERFMON: Final = 1 << 63
ATTRIBUTES_MAY_BE_SET: Final = 0xC000_0000_7801_0041
"""ATTRIBUTES_FIXED0: every other bit must be 0; bits 27 and 62 depend on the platform."""
XFAM_MAY_BE_SET: Final = 0x6_DBE7
"""XFAM_FIXED0; a platform may support less."""
XFAM_MUST_BE_SET: Final = 3
"""XFAM_FIXED1."""
MAX_VCPUS_PER_TD: Final = 1376
"""As of 2.0.16."""

CONFIG_FLAGS_GPAW: Final = 1
CONFIG_FLAGS_NO_RBP_MOD: Final = 1 << 2
CONFIG_FLAGS_MAXPA_VIRT: Final = 1 << 3
CONFIG_FLAGS_MAXGPA_VIRT: Final = 1 << 4
PRIVATE_GPA_BITS: Final = (47, 51)
"""Bits of a private GPA, by CONFIG_FLAGS.GPAW; the next one is the SHARED bit."""
CONFIG_FLAGS_MAY_BE_SET: Final = 0x9F
"""CONFIG_FLAGS_FIXED0 of 2.0.18 with hardware sealing."""

EPTP_MEMORY_TYPE_WB: Final = 6
EPTP_MEMORY_TYPE_MASK: Final = 7
EPTP_LEVELS_SHIFT: Final = 3
EPTP_LEVELS_MASK: Final = 7 << EPTP_LEVELS_SHIFT
"""EPTP_CONTROLS 5:3: number of EPT levels less one, 3 or 4."""
EPTP_4_LEVELS: Final = EPTP_MEMORY_TYPE_WB | 3 << EPTP_LEVELS_SHIFT
EPTP_5_LEVELS: Final = EPTP_MEMORY_TYPE_WB | 4 << EPTP_LEVELS_SHIFT

MSR_CONFIG_CTLS_MAY_BE_SET: Final = 1

TSC_FREQUENCY_MIN: Final = 4
TSC_FREQUENCY_MAX: Final = 400
"""Units of 25 MHz."""
MAX_L2_VMS: Final = 3

TDVPS_MIN_PAGES: Final = 6
TDVPS_MAX_PAGES: Final = 15
TDVPS_PAGES_PER_L2_VM: Final = 3
"""4K pages of a VCPU, its TDVPR included."""

_HEADER: Final = struct.Struct("<QQHBB4sQQH38s")
_CAPABILITIES: Final = struct.Struct("<Q24s")
_CAPABILITIES_OFFSET: Final = 224
_CPUID_OFFSET: Final = 256
TD_PARAMS_CPUID_BYTES: Final = TD_PARAMS_BYTES - _CPUID_OFFSET


@dataclass
class TdParams:
    """One TD_PARAMS; the measurement registers (offsets 80 to 223) are one run of bytes."""

    attributes: int = 0
    xfam: int = 3
    max_vcpus: int = 1
    num_l2_vms: int = 0
    msr_config_ctls: int = 0
    reserved0: bytes = bytes(4)
    eptp_controls: int = EPTP_4_LEVELS
    config_flags: int = 0
    tsc_frequency: int = 40
    reserved1: bytes = bytes(38)
    measurements: bytes = bytes(144)
    arch_capabilities: int = 0
    reserved2: bytes = bytes(24)
    cpuid: bytes = bytes(768)

    def pack(self) -> bytes:
        """The structure as the module reads it: :data:`TD_PARAMS_BYTES` bytes.

        Raises struct.error for a value that does not fit its field.
        """
        header = _HEADER.pack(
            self.attributes,
            self.xfam,
            self.max_vcpus,
            self.num_l2_vms,
            self.msr_config_ctls,
            self.reserved0,
            self.eptp_controls,
            self.config_flags,
            self.tsc_frequency,
            self.reserved1,
        )
        return (
            header
            + self.measurements.ljust(_CAPABILITIES_OFFSET - _HEADER.size, b"\0")
            + _CAPABILITIES.pack(self.arch_capabilities, self.reserved2)
            + self.cpuid.ljust(TD_PARAMS_BYTES - _CPUID_OFFSET, b"\0")
        )

    @classmethod
    def unpack(cls, data: bytes) -> "TdParams":
        """The inverse of :meth:`pack`.  Raises struct.error when ``data`` is too short."""
        params = cls()
        (
            params.attributes,
            params.xfam,
            params.max_vcpus,
            params.num_l2_vms,
            params.msr_config_ctls,
            params.reserved0,
            params.eptp_controls,
            params.config_flags,
            params.tsc_frequency,
            params.reserved1,
        ) = _HEADER.unpack_from(data)
        params.measurements = data[_HEADER.size : _CAPABILITIES_OFFSET]
        (params.arch_capabilities, params.reserved2) = _CAPABILITIES.unpack_from(
            data, _CAPABILITIES_OFFSET
        )
        params.cpuid = data[_CPUID_OFFSET:TD_PARAMS_BYTES]
        return params
