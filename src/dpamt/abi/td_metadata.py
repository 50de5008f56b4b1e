"""Metadata of a TD (MNG.RD) and of a VCPU (VP.RD, VP.WR): ids, sizes and who may read and write.

The field id is laid out as in :mod:`dpamt.abi.metadata`.  Fields of class 0 of a VCPU are those of
its VMCS; their codes are VMCS encodings, of which the odd ones (the "high" halves) are refused.

Listed are the fields that a production host may read or write and that are modelled; others are
answered as unknown ones.
Source: Intel TDX module source (open release), 2.0 line [tdr_tdcs_fields_lookup.c,
td_vmcs_fields_lookup.c, tdvps_fields_lookup.c].
"""

from typing import Final, NamedTuple

from dpamt.abi.metadata import NO_FIELD, lookup_key

_SIZE_SHIFT: Final = 32
_SIZE_MASK: Final = 3


class ScopedField(NamedTuple):
    """A field of a TD or of a VCPU; masks are those of a TD that is not debuggable.

    ``elements`` are read under consecutive codes.
    """

    name: str
    id: int
    write: int = 0
    """Bits that the host may write."""
    read: int = NO_FIELD
    """Bits that it may read."""
    initial: int = 0
    """What a new VCPU has; of fields that may be written."""
    elements: int = 1

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return 1 << (self.id >> _SIZE_SHIFT & _SIZE_MASK)

    @property
    def mask(self) -> int:
        """All bits of an element."""
        return (1 << 8 * self.size) - 1


FATAL: Final = ScopedField("FATAL", 0x80100000_00000001)
NUM_TDCX: Final = ScopedField("NUM_TDCX", 0x80100002_00000002)
CHLDCNT: Final = ScopedField("CHLDCNT", 0x80100003_00000004)
LIFECYCLE_STATE: Final = ScopedField("LIFECYCLE_STATE", 0x80100002_00000005)
HKID: Final = ScopedField("HKID", 0x81100001_00000001)
PKG_CONFIG_BITMAP: Final = ScopedField("PKG_CONFIG_BITMAP", 0x81100003_00000002)
NUM_VCPUS: Final = ScopedField("NUM_VCPUS", 0x90100002_00000001)
NUM_ASSOC_VCPUS: Final = ScopedField("NUM_ASSOC_VCPUS", 0x90100002_00000002)
OP_STATE: Final = ScopedField("OP_STATE", 0x90100002_00000004)
NUM_L2_VMS: Final = ScopedField("NUM_L2_VMS", 0x90100001_00000005)
ATTRIBUTES: Final = ScopedField("ATTRIBUTES", 0x11100003_00000000)
XFAM: Final = ScopedField("XFAM", 0x11100003_00000001)
MAX_VCPUS: Final = ScopedField("MAX_VCPUS", 0x11100002_00000002)
GPAW: Final = ScopedField("GPAW", 0x11100000_00000003)
TSC_OFFSET: Final = ScopedField("TSC_OFFSET", 0x11100003_0000000A)
TSC_MULTIPLIER: Final = ScopedField("TSC_MULTIPLIER", 0x11100003_0000000B)
TSC_FREQUENCY: Final = ScopedField("TSC_FREQUENCY", 0x11100001_0000000C)
NUM_CPUID_VALUES: Final = ScopedField("NUM_CPUID_VALUES", 0x91100001_0000000E)
CONFIG_FLAGS: Final = ScopedField("CONFIG_FLAGS", 0x91100003_00000016)
VIRT_MAXPA: Final = ScopedField("VIRT_MAXPA", 0x91100000_00000018)
CPUID_FIXED0: Final = ScopedField("CPUID_FIXED0_BITMAP", 0x91100003_00000021)
TD_EPOCH: Final = ScopedField("TD_EPOCH", 0x92100003_00000000)
REFCOUNT: Final = ScopedField("REFCOUNT", 0x92100001_00000001, elements=2)
CPUID_VALUES: Final = ScopedField("CPUID_VALUES", 0x94100003_00000000)
"""Its codes name a leaf and a subleaf: :func:`dpamt.abi.cpuid.cpuid_of_code`."""

TD_FIELDS: Final[tuple[ScopedField, ...]] = tuple(
    field for field in globals().values() if isinstance(field, ScopedField)
)
"""In the order of the module's table: by class, then by code."""

_PAGE_BITS: Final = 0x000F_FFFF_FFFF_F000

POSTED_INTERRUPT_VECTOR: Final = ScopedField(
    "posted-interrupt notification vector", 0x00240001_00000002, write=0xFFFF, initial=0xFFFF
)
VMCS_TSC_OFFSET: Final = ScopedField("TSC offset", 0x00240003_00002010)
POSTED_INTERRUPT_DESCRIPTOR: Final = ScopedField(
    "posted-interrupt descriptor address",
    0x00240003_00002016,
    write=NO_FIELD & ~0x3F,
    initial=NO_FIELD,
)
VMCS_TSC_MULTIPLIER: Final = ScopedField("TSC multiplier", 0x00240003_00002032)
SHARED_EPT_POINTER: Final = ScopedField(
    "shared EPT pointer",
    0x00240003_0000203C,
    write=_PAGE_BITS,
    read=_PAGE_BITS,
    initial=NO_FIELD,
)
PIN_BASED_CONTROLS: Final = ScopedField(
    "pin-based execution controls", 0x00240002_00004000, write=0x80, read=0x80
)
SECONDARY_CONTROLS: Final = ScopedField(
    "secondary execution controls", 0x00240002_0000401E, write=0xC000_0000, read=0xC000_0000
)
NOTIFY_WINDOW: Final = ScopedField("notify window", 0x00240002_00004024, write=0xFFFF_FFFF)
VMCS_HKID: Final = ScopedField("TD HKID", 0x00240002_00004026)
VCPU_STATE_DETAILS: Final = ScopedField("VCPU_STATE_DETAILS", 0x91200003_00000100)
NUM_TDVPS_PAGES: Final = ScopedField("NUM_TDVPS_PAGES", 0xA0200000_00000003)
ASSOC_LPID: Final = ScopedField("ASSOC_LPID", 0xA0200002_00000004)
PEND_NMI: Final = ScopedField("PEND_NMI", 0x20200000_0000000B, write=0xFF)

VCPU_FIELDS: Final[tuple[ScopedField, ...]] = tuple(
    field
    for field in globals().values()
    if isinstance(field, ScopedField) and field not in TD_FIELDS
)
"""The VMCS first, as the module's tables have it."""

POSTED_INTERRUPTS: Final = 0x80
"""Pin-based execution controls: process posted interrupts."""
MAX_VECTOR: Final = 255
POSTED_INTERRUPT_DESCRIPTOR_BYTES: Final = 64
VCPU_STATE_INTERRUPT_PENDING: Final = 1
"""VCPU_STATE_DETAILS: a virtual interrupt waits that the VCPU's priority lets through."""

CONTEXT_MASK: Final = 7 << 52
"""Context of a field id: ignored where the leaf says which it is."""


def by_key(fields: tuple[ScopedField, ...]) -> dict[tuple[int, int], tuple[ScopedField, int]]:
    """(Class, code) to field and element, for every element but those of CPUID_VALUES."""
    found = {}
    for field in fields:
        number, code = lookup_key(field.id)
        for element in range(field.elements):
            found[number, code + element] = field, element
    return found


TD_BY_KEY: Final = by_key(TD_FIELDS)
VCPU_BY_KEY: Final = by_key(VCPU_FIELDS)
VMCS_CLASS: Final = 0
"""Class of the fields of a VCPU's VMCS."""
CPUID_CLASS: Final = lookup_key(CPUID_VALUES.id)[0]
