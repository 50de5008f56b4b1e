"""Global metadata fields that TDH.SYS.RD reads: their ids, sizes and the id layout.

    field id:  23:0 field code, 33:32 element size (0 = 1 B .. 3 = 8 B), 37:34 last element,
               46:38 last field, 50 inc size, 54:52 context, 61:56 class, 63 ignored

A look-up uses class and field code only.
Source: Intel TDX module source (open release), 2.0.08 to 2.0.18.
What Linux reads: arch/x86/virt/vmx/tdx/tdx_global_metadata.c.
"""

from typing import Final, NamedTuple

from dpamt.abi import td_params
from dpamt.abi.td_params import ATTRIBUTES_MAY_BE_SET, XFAM_MAY_BE_SET, XFAM_MUST_BE_SET


class MetadataField(NamedTuple):
    """A global metadata field: its id and its size in bytes."""

    id: int
    size: int


NUM_PKGS: Final = MetadataField(0x00000002_00000000, 4)
PKG_FMS: Final = MetadataField(0x00000002_00000001, 4)  # 8 fields
VENDOR_ID: Final = MetadataField(0x08000002_00000000, 4)
BUILD_DATE: Final = MetadataField(0x88000002_00000001, 4)  # decimal yyyymmdd
BUILD_NUM: Final = MetadataField(0x88000001_00000002, 2)
MINOR_VERSION: Final = MetadataField(0x08000001_00000003, 2)
MAJOR_VERSION: Final = MetadataField(0x08000001_00000004, 2)
UPDATE_VERSION: Final = MetadataField(0x08000001_00000005, 2)
INTERNAL_VERSION: Final = MetadataField(0x08000001_00000006, 2)
MODULE_HV: Final = MetadataField(0x89000001_00000000, 2)
MIN_UPDATE_HV: Final = MetadataField(0x89000001_00000001, 2)
NO_DOWNGRADE: Final = MetadataField(0x89000000_00000002, 1)
NUM_HANDOFF_PAGES: Final = MetadataField(0x89000001_00000003, 2)
HANDOFF_DATA_VALID: Final = MetadataField(0x89000000_00000004, 1)
HANDOFF_DATA_HV: Final = MetadataField(0x89000001_00000005, 2)
HANDOFF_DATA_SIZE: Final = MetadataField(0x89000002_00000006, 4)
SYS_ATTRIBUTES: Final = MetadataField(0x0A000002_00000000, 4)
NUM_TDX_FEATURES: Final = MetadataField(0x0A000000_00000001, 1)
TDX_FEATURES0: Final = MetadataField(
    0x0A000003_00000008, 8
)  # see features0_bits; bit 36 = DYNAMIC_PAMT
NUM_CMRS: Final = MetadataField(
    0x90000001_00000000, 2
)  # constant table size, unused entries have size 0
CMR_BASE: Final = MetadataField(0x90000003_00000080, 8)  # +i, i=0..31
CMR_SIZE: Final = MetadataField(0x90000003_00000100, 8)  # +i, i=0..31
MAX_TDMRS: Final = MetadataField(0x91000001_00000008, 2)
MAX_RESERVED_PER_TDMR: Final = MetadataField(0x91000001_00000009, 2)
PAMT_4K_ENTRY_SIZE: Final = MetadataField(0x91000001_00000010, 2)
PAMT_2M_ENTRY_SIZE: Final = MetadataField(0x91000001_00000011, 2)
PAMT_1G_ENTRY_SIZE: Final = MetadataField(0x91000001_00000012, 2)
PAMT_PAGE_BITMAP_ENTRY_BITS: Final = MetadataField(0x91000000_00000013, 1)
MIN_DYNAMIC_PAMT_NUM_HKID_BITS: Final = MetadataField(
    0x91000000_00000014, 1
)  # max(0, max_pa - 48); 4 when max_pa = 52
TDR_BASE_SIZE: Final = MetadataField(0x98000001_00000000, 2)
TDCS_BASE_SIZE: Final = MetadataField(0x98000001_00000100, 2)
TDCS_SIZE_PER_L2_VM: Final = MetadataField(0x98000001_00000101, 2)
TDVPS_BASE_SIZE: Final = MetadataField(0x98000001_00000200, 2)
TDVPS_SIZE_PER_L2_VM: Final = MetadataField(0x98000001_00000201, 2)
ATTRIBUTES_FIXED0: Final = MetadataField(0x19000003_00000000, 8)
ATTRIBUTES_FIXED1: Final = MetadataField(0x19000003_00000001, 8)
XFAM_FIXED0: Final = MetadataField(0x19000003_00000002, 8)  # ANDed with platform XCR0/XSS support
XFAM_FIXED1: Final = MetadataField(0x19000003_00000003, 8)
NUM_CPUID_CONFIG: Final = MetadataField(0x99000001_00000004, 2)  # release specific, at most 32
CONFIG_FLAGS_FIXED0: Final = MetadataField(
    0x99000003_00000006, 8
)  # 2.0.18, with hardware sealing; without it 0x1F
CONFIG_FLAGS_FIXED1: Final = MetadataField(0x99000003_00000007, 8)
MAX_VCPUS_PER_TD: Final = MetadataField(0x99000001_00000008, 2)  # 2.0.16; release specific
MIN_VIRT_MAXPA: Final = MetadataField(0x99000000_00000009, 1)
MAX_EVENT_FILTERS: Final = MetadataField(0x99000001_0000000A, 2)
CPUID_CONFIG_LEAVES: Final = MetadataField(
    0x99000003_00000400, 8
)  # +i; leaf in 31:0, subleaf in 63:32
CPUID_CONFIG_VALUES: Final = MetadataField(
    0x99000003_00000500, 8
)  # +2*i+{0,1}; EAX/EBX then ECX/EDX
IA32_ARCH_CAPABILITIES_CONFIG_MASK: Final = MetadataField(0x99000003_00000600, 8)
NUM_ALLOWED_FMS: Final = MetadataField(0x99000001_00000800, 2)
NUM_DISALLOWED_FMS: Final = MetadataField(0x99000001_00000801, 2)
GUEST_GPA_ATTR_MASK: Final = MetadataField(0x9A000003_00000000, 8)
MAX_MIGS: Final = MetadataField(0xA0000001_00000010, 2)
MAX_SERV_TDS: Final = MetadataField(0xA1000001_00000000, 2)
TDX_CONNECT_FEATURES: Final = MetadataField(0x30000003_00000000, 8)

FIELD_ARRAYS: Final[dict[MetadataField, int]] = {
    PKG_FMS: 8,
    CMR_BASE: 32,
    CMR_SIZE: 32,
    CPUID_CONFIG_LEAVES: 32,
    CPUID_CONFIG_VALUES: 64,
}
"""Fields that stand for a run of ids: the first one, and how many there are at most."""

FIELD_CODE_MASK: Final = 0xFFFFFF
FIELD_CLASS_SHIFT: Final = 56
FIELD_CLASS_MASK: Final = 0x3F

FIELDS: Final[dict[str, MetadataField]] = {
    name: field for name, field in globals().items() if isinstance(field, MetadataField)
}
"""Field name to field."""

TDX_FEATURES0_BITS: Final[dict[str, int]] = {
    "TD_MIGRATION": 0,
    "TD_PRESERVING": 1,
    "SERVICE_TD": 2,
    "TDG_VP_RDWR": 3,
    "RELAXED_MEM_MNG_CONCURRENCY": 4,
    "CPUID_VIRT_GUEST_CTRL": 5,
    "TDX_IO": 6,
    "TD_PARTITIONING": 7,
    "LOCAL_ATTESTATION": 8,
    "TD_ENTRY_ENHANCEMENTS": 9,
    "HOST_PRIORITY_LOCKS": 10,
    "CONFIG_IA32_ARCH_CAP": 11,
    "HW_SEALING": 12,
    "PENDING_EPT_VIOLATION_V2": 16,
    "FMS_CONFIG": 17,
    "NO_RBP_MOD": 18,
    "L2_TLB_INVD_OPT": 19,
    "TOPOLOGY_ENUM": 20,
    "PARTITIONED_TD_MIGRATION": 21,
    "EVENT_FILTERING": 24,
    "ICSSD": 25,
    "FIXED_CTR12_PROF": 26,
    "MAXPA_VIRT": 27,
    "APX": 28,
    "CPUID2_VIRT": 29,
    "VE_REDUCTION": 30,
    "ENHANCED_EVENT_FILTERING": 31,
    "TDX_CONNECT_PARTITIONING": 32,
    "MAXGPA_VIRT": 33,
    "DYNAMIC_PAMT": 36,
    "FATAL_DIAGNOSTICS": 37,
    "PAGE_RELEASE": 38,
    "NRX": 39,
    "ENHANCED_INTR_STATE": 40,
    "NON_BLOCKING_EXPORT": 41,
    "PERF_MASK": 42,
    "SCAN_EXPORT_RESTORE": 43,
    "IMPORT_PAGE_STATUS": 44,
    "ENHANCED_INTR_VIRTUALIZATION": 45,
    "VE_INFO_INTR_STATE": 46,
    "UPDATE_COMPATIBILITY": 47,
    "SERVTD_REBIND": 48,
    "TDID_VMID_REPORTING": 49,
    "ENHANCED_DEMOTE_INTERRUPTIBILITY": 51,
    "DEBUG_RO_TD_MIGRATION": 52,
    "SYS_DISABLE": 53,
    "LIST_ERROR_COUNT": 54,
    "SEALKEY_128": 56,
    "SEALKEY_256": 57,
}
"""Name of each TDX_FEATURES0 bit."""

TDX_FEATURES0_TD_PRESERVING: Final = 1 << TDX_FEATURES0_BITS["TD_PRESERVING"]
TDX_FEATURES0_NO_RBP_MOD: Final = 1 << TDX_FEATURES0_BITS["NO_RBP_MOD"]
TDX_FEATURES0_TOPOLOGY_ENUM: Final = 1 << TDX_FEATURES0_BITS["TOPOLOGY_ENUM"]
TDX_FEATURES0_SYS_DISABLE: Final = 1 << TDX_FEATURES0_BITS["SYS_DISABLE"]
TDX_FEATURES0_DYNAMIC_PAMT: Final = 1 << TDX_FEATURES0_BITS["DYNAMIC_PAMT"]
TDX_FEATURES0_ENHANCED_DEMOTE_INTERRUPTIBILITY: Final = (
    1 << TDX_FEATURES0_BITS["ENHANCED_DEMOTE_INTERRUPTIBILITY"]
)


def lookup_key(field_id: int) -> tuple[int, int]:
    """(class, field code) of a field id: all that the module's look-up uses."""
    return field_id >> FIELD_CLASS_SHIFT & FIELD_CLASS_MASK, field_id & FIELD_CODE_MASK


FIELD_RESERVED_MASK: Final = 0x40838000_FF000000
"""Bits of a field id that must be zero: 31:24, 49:47, 55 and 62."""
FIELD_LAST_MASK: Final = 0x00007FFC_00000000
"""Last element and last field of a sequence; SYS.RD reads single elements only."""
NO_FIELD: Final = 0xFFFF_FFFF_FFFF_FFFF
"""As an input: name the first field; as an output: there is none after this one."""

FIXED_VALUES: Final[dict[MetadataField, int]] = {
    VENDOR_ID: 0x8086,
    INTERNAL_VERSION: 0,
    NO_DOWNGRADE: 1,
    HANDOFF_DATA_VALID: 0,
    SYS_ATTRIBUTES: 0,
    NUM_TDX_FEATURES: 1,
    ATTRIBUTES_FIXED0: ATTRIBUTES_MAY_BE_SET,
    ATTRIBUTES_FIXED1: 0,
    XFAM_FIXED0: XFAM_MAY_BE_SET,
    XFAM_FIXED1: XFAM_MUST_BE_SET,
    CONFIG_FLAGS_FIXED0: 0x1F,
    CONFIG_FLAGS_FIXED1: 0,
    MAX_VCPUS_PER_TD: td_params.MAX_VCPUS_PER_TD,
    MAX_EVENT_FILTERS: 512,
    GUEST_GPA_ATTR_MASK: 0,
    MAX_MIGS: 512,
    MAX_SERV_TDS: 1,
}
"""Fields whose value is the same everywhere, or the typical one.

ATTRIBUTES_FIXED0 bits 27 and 62 and XFAM_FIXED0 depend on the processor; CONFIG_FLAGS_FIXED0 is
that of a module without hardware sealing; MAX_VCPUS_PER_TD is that of 2.0.16.
"""
