"""The secure EPT entry as a host sees it: what MEM.SEPT.RD and failed walks return in RCX and RDX.

    RCX, the architectural entry without HKID:
      63 SVE | 51:12 HPA (leaf only) | 10 XU | 7 PS | 6 IPAT | 5:3 memory type | 2:0 XWR
    RDX: 2:0 level | 15:8 state (:mod:`dpamt.abi.states`) | 17:16 VM

Source: Intel TDX module source (open release); the values are those recorded from module 1.5.25.
"""

from typing import Final

ENTRIES_PER_SEPT_PAGE: Final = 512
SEPT_INDEX_BITS: Final = 9

ENTRY_SVE: Final = 1 << 63
ENTRY_XU: Final = 1 << 10
ENTRY_RWX: Final = 0x7
ENTRY_LEAF: Final = 0xF0
"""Page size, ignore-PAT and write-back memory type of a leaf."""

DETAILS_LEVEL_MASK: Final = 0x7
DETAILS_STATE_SHIFT: Final = 8
DETAILS_VM_SHIFT: Final = 16
