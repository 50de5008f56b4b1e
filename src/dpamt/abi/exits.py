"""TD exits: what TDH.VP.ENTER returns when a guest leaves, and the guest's own calls.

    RAX 31:0 exit reason (status TDX_SUCCESS above it)
    EPT violation: RCX exit qualification, RDX extended exit qualification, R8 GPA of the access
    TDCALL (a TDVMCALL): R10 0, R11 TDVMCALL leaf, R12 and R13 its operands

    extended exit qualification: 3:0 type; of type ACCEPT: 34:32 level that the guest asked for,
                                 37:35 level of the S-EPT entry met, 45:38 its state, 46 is a leaf

Source: Intel TDX Module 1.5 ABI specification, TDH.VP.ENTER output operands and extended exit
qualification; Intel GHCI 1.5 (MapGPA); Linux arch/x86/include/uapi/asm/vmx.h, asm/shared/tdx.h.
"""

from typing import Final

EXIT_REASON_MASK: Final = 0xFFFF
EXIT_REASON_EXTERNAL_INTERRUPT: Final = 1
EXIT_REASON_HLT: Final = 12
EXIT_REASON_EPT_VIOLATION: Final = 48
EXIT_REASON_TDCALL: Final = 77

EPT_VIOLATION_READ: Final = 1
EPT_VIOLATION_WRITE: Final = 2

EXTENDED_TYPE_MASK: Final = 0xF
EXTENDED_TYPE_NONE: Final = 0
EXTENDED_TYPE_ACCEPT: Final = 1
EXTENDED_TYPE_PENDING: Final = 6
"""The guest touched a page that it has not accepted (ATTRIBUTES.SEPT_VE_DISABLE set)."""
EXTENDED_REQUESTED_LEVEL_SHIFT: Final = 32
EXTENDED_MET_LEVEL_SHIFT: Final = 35
EXTENDED_LEVEL_MASK: Final = 7
EXTENDED_MET_STATE_SHIFT: Final = 38
EXTENDED_MET_LEAF_SHIFT: Final = 46

TDG_MEM_PAGE_ACCEPT: Final = 6
"""TDCALL leaf: RCX = GPA | level."""

TDVMCALL_MAP_GPA: Final = 0x10001
"""R12 = GPA (its SHARED bit says to what), R13 = bytes."""
