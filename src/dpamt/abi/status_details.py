"""What bits 31:0 of a status tell, by status: an operand id, or something else; no behaviour.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; of TDX_PAGE_ALREADY_ACCEPTED and
TDX_PAGE_SIZE_MISMATCH, answers recorded from release 1.5.25.  Statuses whose low half is an exit
reason, and those that software makes up: Linux arch/x86/kvm/vmx/tdx.c (tdx_to_vmx_exit_reason) and
arch/x86/include/asm/tdx.h.
"""

from typing import Final

from dpamt.abi import status as s

OPERAND: Final = "operand"
"""An operand id (:mod:`dpamt.abi.operands`); every status not listed below."""
OP_STATE: Final = "op_state"
VCPU_STATE: Final = "vcpu_state"
PAIR_PAGE: Final = "pair_page"
"""Index of the page in the pair, 0 or 1."""
TDMR: Final = "tdmr"
"""Byte 0: index of the TDMR."""
TDMR_LEVEL: Final = "tdmr_level"
"""Byte 0: index of the TDMR; byte 1: PAMT level."""
TDMR_OVERLAP: Final = "tdmr_overlap"
"""As TDMR_LEVEL, and byte 2: index of the other TDMR."""
TDMR_AREA: Final = "tdmr_area"
"""Byte 0: index of the TDMR; byte 1: index of the reserved area."""
L2_ENTRY: Final = "l2_entry"
"""31:16 VM, 15:0 level."""
LEVEL: Final = "level"
MSR: Final = "msr"
X2APIC_ID: Final = "x2apic_id"
VMCS_FIELD: Final = "vmcs_field"
"""Encoding of a field of the TD VMCS."""
LIST_INDEX: Final = "list_index"
EXIT_REASON: Final = "exit_reason"
"""What TDH.VP.ENTER returns (:mod:`dpamt.abi.exits`)."""

DETAILS: Final[dict[int, str]] = {
    s.TDX_SUCCESS: EXIT_REASON,
    s.TDX_NON_RECOVERABLE_VCPU: EXIT_REASON,
    s.TDX_NON_RECOVERABLE_TD: EXIT_REASON,
    s.TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE: EXIT_REASON,
    s.TDX_NON_RECOVERABLE_TD_WRONG_APIC_MODE: EXIT_REASON,
    s.TDX_PAMT_PAGE_NOT_EMPTY: PAIR_PAGE,
    s.TDX_INTERRUPTED_PAMT: LIST_INDEX,
    s.TDX_OP_STATE_INCORRECT: OP_STATE,
    s.TDX_X2APIC_ID_NOT_UNIQUE: X2APIC_ID,
    s.TDX_VCPU_STATE_INCORRECT: VCPU_STATE,
    s.TDX_TD_VMCS_FIELD_NOT_INITIALIZED: VMCS_FIELD,
    s.TDX_INCONSISTENT_MSR: MSR,
    s.TDX_INCORRECT_MSR_VALUE: MSR,
    s.TDX_INVALID_TDMR: TDMR,
    s.TDX_NON_ORDERED_TDMR: TDMR,
    s.TDX_TDMR_OUTSIDE_CMRS: TDMR,
    s.TDX_INVALID_PAMT: TDMR_LEVEL,
    s.TDX_PAMT_OUTSIDE_CMRS: TDMR_LEVEL,
    s.TDX_PAMT_OVERLAP: TDMR_OVERLAP,
    s.TDX_INVALID_RESERVED_IN_TDMR: TDMR_AREA,
    s.TDX_NON_ORDERED_RESERVED_IN_TDMR: TDMR_AREA,
    s.TDX_PAGE_ALREADY_ACCEPTED: LEVEL,
    s.TDX_PAGE_SIZE_MISMATCH: LEVEL,
    s.TDX_L2_SEPT_WALK_FAILED: L2_ENTRY,
    s.TDX_L2_SEPT_ENTRY_NOT_FREE: L2_ENTRY,
}
"""Status with bits 31:0 clear, to what they tell."""

SHOWS_SEPT_ENTRY: Final = frozenset(
    {
        s.TDX_EPT_WALK_FAILED,
        s.TDX_EPT_ENTRY_STATE_INCORRECT,
        s.TDX_EPT_ENTRY_NOT_PRESENT,
        s.TDX_EPT_PAGE_NOT_FREE,
        s.TDX_EPT_INVALID_PROMOTE_CONDITIONS,
        s.TDX_GPA_RANGE_ALREADY_BLOCKED,
        s.TDX_GPA_RANGE_NOT_BLOCKED,
        s.TDX_L2_SEPT_WALK_FAILED,
        s.TDX_L2_SEPT_ENTRY_NOT_FREE,
    }
)
"""Statuses that come with an S-EPT entry in RCX and RDX (:mod:`dpamt.abi.sept`).

TDX_OPERAND_BUSY of a locked S-EPT entry does too.
"""

SOFTWARE_ERROR: Final = 1 << 63 | 0xFF << 40
"""Bits of a status that Linux made up, because the SEAMCALL instruction itself failed."""
SOFTWARE_ERRORS: Final[dict[int, str]] = {
    SOFTWARE_ERROR | 0xFFFF_0000: "VMFAILINVALID: no TDX module is loaded, or it has shut down",
    SOFTWARE_ERROR | 13: "#GP: TDX is not enabled by the BIOS",
    SOFTWARE_ERROR | 6: "#UD: the CPU is not in VMX operation",
}
"""Such a status to what the instruction did."""
