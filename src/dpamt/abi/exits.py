"""TD exits: what TDH.VP.ENTER returns when a guest leaves, and the guest's own calls.

    RAX 31:0 exit reason (status TDX_SUCCESS above it)
    external interrupt: R9 interruption information: 7:0 vector, 10:8 type (0), 31 valid
    EPT violation: RCX exit qualification, RDX extended exit qualification, R8 GPA of the access
    TDCALL (a TDVMCALL): R10 0, R11 TDVMCALL leaf, R12 and R13 its operands

    extended exit qualification: 3:0 type; of type ACCEPT: 34:32 level that the guest asked for,
                                 37:35 level of the S-EPT entry met, 45:38 its state, 46 is a leaf

Source: Intel TDX Module 1.5 ABI specification, TDH.VP.ENTER output operands and extended exit
qualification; Intel GHCI 1.5 (MapGPA); Linux arch/x86/include/uapi/asm/vmx.h, asm/shared/tdx.h.
"""

from typing import Final

EXIT_REASON_MASK: Final = 0xFFFF
EXIT_REASON_EXCEPTION_NMI: Final = 0
EXIT_REASON_EXTERNAL_INTERRUPT: Final = 1
EXIT_REASON_TRIPLE_FAULT: Final = 2
EXIT_REASON_INIT_SIGNAL: Final = 3
EXIT_REASON_SIPI_SIGNAL: Final = 4
EXIT_REASON_OTHER_SMI: Final = 6
EXIT_REASON_INTERRUPT_WINDOW: Final = 7
EXIT_REASON_NMI_WINDOW: Final = 8
EXIT_REASON_TASK_SWITCH: Final = 9
EXIT_REASON_CPUID: Final = 10
EXIT_REASON_HLT: Final = 12
EXIT_REASON_INVD: Final = 13
EXIT_REASON_INVLPG: Final = 14
EXIT_REASON_RDPMC: Final = 15
EXIT_REASON_RDTSC: Final = 16
EXIT_REASON_VMCALL: Final = 18
EXIT_REASON_VMCLEAR: Final = 19
EXIT_REASON_VMLAUNCH: Final = 20
EXIT_REASON_VMPTRLD: Final = 21
EXIT_REASON_VMPTRST: Final = 22
EXIT_REASON_VMREAD: Final = 23
EXIT_REASON_VMRESUME: Final = 24
EXIT_REASON_VMWRITE: Final = 25
EXIT_REASON_VMOFF: Final = 26
EXIT_REASON_VMON: Final = 27
EXIT_REASON_CR_ACCESS: Final = 28
EXIT_REASON_DR_ACCESS: Final = 29
EXIT_REASON_IO_INSTRUCTION: Final = 30
EXIT_REASON_MSR_READ: Final = 31
EXIT_REASON_MSR_WRITE: Final = 32
EXIT_REASON_INVALID_STATE: Final = 33
EXIT_REASON_MSR_LOAD_FAIL: Final = 34
EXIT_REASON_MWAIT_INSTRUCTION: Final = 36
EXIT_REASON_MONITOR_TRAP_FLAG: Final = 37
EXIT_REASON_MONITOR_INSTRUCTION: Final = 39
EXIT_REASON_PAUSE_INSTRUCTION: Final = 40
EXIT_REASON_MCE_DURING_VMENTRY: Final = 41
EXIT_REASON_TPR_BELOW_THRESHOLD: Final = 43
EXIT_REASON_APIC_ACCESS: Final = 44
EXIT_REASON_EOI_INDUCED: Final = 45
EXIT_REASON_GDTR_IDTR: Final = 46
EXIT_REASON_LDTR_TR: Final = 47
EXIT_REASON_EPT_VIOLATION: Final = 48
EXIT_REASON_EPT_MISCONFIG: Final = 49
EXIT_REASON_INVEPT: Final = 50
EXIT_REASON_RDTSCP: Final = 51
EXIT_REASON_PREEMPTION_TIMER: Final = 52
EXIT_REASON_INVVPID: Final = 53
EXIT_REASON_WBINVD: Final = 54
EXIT_REASON_XSETBV: Final = 55
EXIT_REASON_APIC_WRITE: Final = 56
EXIT_REASON_RDRAND: Final = 57
EXIT_REASON_INVPCID: Final = 58
EXIT_REASON_VMFUNC: Final = 59
EXIT_REASON_ENCLS: Final = 60
EXIT_REASON_RDSEED: Final = 61
EXIT_REASON_PML_FULL: Final = 62
EXIT_REASON_XSAVES: Final = 63
EXIT_REASON_XRSTORS: Final = 64
EXIT_REASON_UMWAIT: Final = 67
EXIT_REASON_TPAUSE: Final = 68
EXIT_REASON_BUS_LOCK: Final = 74
EXIT_REASON_NOTIFY: Final = 75
EXIT_REASON_SEAMCALL: Final = 76
EXIT_REASON_TDCALL: Final = 77
EXIT_REASON_MSR_READ_IMM: Final = 84
EXIT_REASON_MSR_WRITE_IMM: Final = 85

EXIT_UNDEFINED: Final = 0xDEAD
"""What KVM makes of a VP.ENTER that never ran the VCPU (EXIT_REASON_UNDEFINED)."""

EXIT_REASON_NAMES: Final[dict[int, str]] = {
    value: name.removeprefix("EXIT_REASON_")
    for name, value in globals().items()
    if name.startswith("EXIT_REASON_") and not name.endswith("_MASK")
}
"""Basic exit reason to its name."""

INTERRUPTION_VALID: Final = 1 << 31
"""R9 of an exit by an interrupt: there is a vector in 7:0."""

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

TDVMCALL_GET_TD_VM_CALL_INFO: Final = 0x10000
TDVMCALL_MAP_GPA: Final = 0x10001
"""R12 = GPA (its SHARED bit says to what), R13 = bytes."""
TDVMCALL_GET_QUOTE: Final = 0x10002
"""R12 = GPA of a shared buffer."""
TDVMCALL_REPORT_FATAL_ERROR: Final = 0x10003
TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT: Final = 0x10004
"""R12 = vector."""
TDVMCALL_STATUS_INVALID_OPERAND: Final = 1 << 63
TDVMCALL_STATUS_ALIGN_ERROR: Final = 1 << 63 | 2
TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED: Final = 1 << 63 | 3
