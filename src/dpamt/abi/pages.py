"""Page sizes, page types, PAMT entries and the operand formats that name a page.

Leaf PAMT entry (every level), two quadwords::

     63                     24 23      16 15       0     63                      0
    +-------------------------+----------+----------+   +-------------------------+
    |  OWNER = TDR HPA >> 12  | page type|   lock   |   |         BEPOCH          |
    +-------------------------+----------+----------+   +-------------------------+

Non-leaf PAMT entry (Dynamic PAMT, 2M level, page type PT_PAMT)::

     63             28 27   21 20     16 15       0     63             28 27  10 9      0
    +-----------------+-------+---------+----------+   +-----------------+------+--------+
    | PAGE_HPA0 >> 12 |   0   |page type|   lock   |   | PAGE_HPA1 >> 12 |  0   | COUNT  |
    +-----------------+-------+---------+----------+   +-----------------+------+--------+

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [pamt_manager.h].
"""

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT

LEVEL_4K: Final = 0
LEVEL_2M: Final = 1
LEVEL_1G: Final = 2
LEVEL_PML4E: Final = 3
LEVEL_PML5E: Final = 4
LEVEL_SHIFTS: Final = (12, 21, 30, 39, 48)
"""Address bits below an entry of each level: 4K, 2M, 1G, PML4E, PML5E."""
LEVEL_NAMES: Final = ("4K", "2M", "1G", "PML4E", "PML5E")

SIZE_4K: Final = 1 << 12
SIZE_2M: Final = 1 << 21
SIZE_1G: Final = 1 << 30
PAGES_PER_2M: Final = 512
PAGES_PER_1G: Final = 512 * 512
LEVEL_PAGES: Final = (1, PAGES_PER_2M, PAGES_PER_1G)
"""4K pages in a page of each level."""

PT_NDA: Final = 0
PT_RSVD: Final = 1
PT_REG: Final = 3
PT_TDR: Final = 4
PT_TDCX: Final = 5
PT_TDVPR: Final = 6
PT_EPT: Final = 8
PT_DEVIFCS_R: Final = 9
PT_DEVIFCS_NR: Final = 10
PT_IOMMU_MT: Final = 11
PT_MMIO_MT: Final = 12
PT_DEVIF_MT: Final = 13
PT_PAMT: Final = 15

PAGE_TYPE_NAMES: Final[dict[int, str]] = {
    value: name.removeprefix("PT_") for name, value in globals().items() if name.startswith("PT_")
}
"""Page type to its name.  NDA is the free page."""

PAMT_ENTRY_SIZE: Final = 16
"""Bytes of a PAMT entry at every level."""
PAMT_PAIR_PAGES: Final = 2
"""4K pages that hold the 512 4K entries of one 2M region."""
PAMT_ENTRIES_PER_PAIR_PAGE: Final = 256
PAMT_PAGE_COUNT_MAX: Final = 512
PAMT_BITMAP_ENTRY_BITS: Final = 1

PAMT_TYPE_SHIFT: Final = 16
PAMT_LEAF_TYPE_MASK: Final = 0xFF << PAMT_TYPE_SHIFT
PAMT_OWNER_SHIFT: Final = 24
PAMT_NON_LEAF_HPA_SHIFT: Final = 28
PAMT_NON_LEAF_HPA_BITS: Final = 36
PAMT_COUNT_MASK: Final = 0x3FF

REMOVAL_HINT: Final = 1 << 62
"""Set in an output register when a removal brought the region's PAGE_COUNT to 0."""
RDMD_NON_LEAF: Final = 1 << 63

NULL_PA: Final = 0xFFFF_FFFF_FFFF_FFFF
MAX_PA_LIMIT: Final = 1 << 52
"""What "below MAX_PA" is compared with: a constant, not the platform's width."""
MAX_DYNAMIC_PAMT_HKID_START_BIT: Final = 48

INFO_LEVEL_MASK: Final = 0x7
INFO_RESERVED_MASK: Final = 0xFFF0_0000_0000_0FF8
INFO_ADDRESS_MASK: Final = 0x000F_FFFF_FFFF_F000
"""Page info and page size info: level 2:0, address 51:12, the rest must be zero."""

HANDLE_FLAG: Final = 1
HANDLE_RESERVED_MASK: Final = 0xFFF0_0000_0000_0FFE
"""TD handle and flags (SEPT.ADD, PAGE.DEMOTE): flag bit 0, TDR 51:12, the rest must be zero."""
