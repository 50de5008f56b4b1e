"""TDMR_INFO, the structure by which SYS.CONFIG learns of a TD memory region.

    offset  0 TDMR_BASE      8 TDMR_SIZE          (1G aligned)
           16 PAMT_1G_BASE  24 PAMT_1G_SIZE       (4K aligned)
           32 PAMT_2M_BASE  40 PAMT_2M_SIZE
           48 PAMT_4K_BASE  56 PAMT_4K_SIZE       (Dynamic PAMT: PAMT_PAGE_BITMAP)
      64+16*j RESERVED_AREA[j].OFFSET, 72+16*j .SIZE, j = 0..15; size 0 ends the list

Source: Intel TDX module source (open release) [tdx_api_defs.h]; Linux struct tdmr_info,
arch/x86/virt/vmx/tdx/tdx.h.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

MAX_TDMRS: Final = 64
MAX_RESERVED_PER_TDMR: Final = 16
MAX_CMRS: Final = 32
TDMR_INFO_BYTES: Final = 64 + 16 * MAX_RESERVED_PER_TDMR
TDMR_INFO_ALIGN: Final = 512
TDMR_POINTER_ARRAY_ALIGN: Final = 512

SYS_CONFIG_HKID_MASK: Final = 0xFFFF
SYS_CONFIG_DYNAMIC_PAMT: Final = 1 << 16
"""SYS.CONFIG R8: module HKID 15:0, bit 16 asks for Dynamic PAMT."""

_HEADER: Final = struct.Struct("<8Q")


@dataclass
class TdmrInfo:
    """One TDMR_INFO; addresses and sizes in bytes, reserved areas as (offset, size)."""

    base: int
    size: int
    pamt_1g_base: int = 0
    pamt_1g_size: int = 0
    pamt_2m_base: int = 0
    pamt_2m_size: int = 0
    pamt_4k_base: int = 0
    pamt_4k_size: int = 0
    reserved: list[tuple[int, int]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """First byte after the TDMR."""
        return self.base + self.size

    def pack(self) -> bytes:
        """The structure as the module reads it: :data:`TDMR_INFO_BYTES` bytes, little endian.

        Raises ValueError for more reserved areas than the structure holds.
        """
        if len(self.reserved) > MAX_RESERVED_PER_TDMR:
            raise ValueError(
                f"{len(self.reserved)} reserved areas, at most {MAX_RESERVED_PER_TDMR}"
            )
        header = _HEADER.pack(
            self.base,
            self.size,
            self.pamt_1g_base,
            self.pamt_1g_size,
            self.pamt_2m_base,
            self.pamt_2m_size,
            self.pamt_4k_base,
            self.pamt_4k_size,
        )
        areas = b"".join(struct.pack("<2Q", offset, size) for offset, size in self.reserved)
        return (header + areas).ljust(TDMR_INFO_BYTES, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> "TdmrInfo":
        """The inverse of :meth:`pack`; keeps all 16 reserved areas, null ones included."""
        tdmr = cls(*_HEADER.unpack_from(data))
        for index in range(MAX_RESERVED_PER_TDMR):
            offset, size = struct.unpack_from("<2Q", data, 64 + 16 * index)
            tdmr.reserved.append((offset, size))
        return tdmr
