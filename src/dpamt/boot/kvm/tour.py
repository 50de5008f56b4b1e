"""A script that goes everywhere: each exit and TDVMCALL that KVM handles for a TD, right and wrong,
each ioctl of a VMM likewise (``guest/vmm/tour.c``), interrupts, slots, faults on shared memory.

Source of what is due: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c, by the function named beside each call.
"""

from typing import Final

from dpamt.abi.exits import (
    EXIT_REASON_CPUID,
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_IO_INSTRUCTION,
    EXIT_REASON_MSR_READ,
    EXIT_REASON_MSR_WRITE,
    EXIT_REASON_OTHER_SMI,
    TDVMCALL_MAP_GPA,
)
from dpamt.boot.kvm.guest import (
    ACCEPT,
    ACCEPT_2M,
    CALL,
    EXIT,
    EXPECT,
    FATAL,
    HALT,
    REGISTER,
    SHARE,
    TOUCH,
    TOUCH_SHARED,
    TRIPLE_FAULT,
    UNSHARE,
    VMCALL,
    word,
)
from dpamt.boot.kvm.script import Script

PAGES: Final = 2048
_IMAGE: Final = 16
_SHARED: Final = 1 << 35
"""In the value of a register word: the SHARED bit of a GPA."""
_ERROR: Final = 1
"""As pages of EXPECT: bit 63 of a TDVMCALL's status."""
_INVALID, _ALIGN, _UNSUPPORTED = 0, 2, 3
"""Low bits of TDVMCALL_STATUS_INVALID_OPERAND, _ALIGN_ERROR and _SUBFUNC_UNSUPPORTED (Linux
asm/shared/tdx.h)."""
_GET_INFO, _GET_QUOTE, _SETUP_NOTIFY = 0x10000, 0x10002, 0x10004
_APIC_BASE, _FEATURE_CONTROL, _NO_MSR = 0x1B, 0x3A, 0x10
_X2APIC_SPURIOUS, _X2APIC_TIMER = 0x80F, 0x832
_DEVICE: Final = 1 << 30
_VECTOR: Final = 0x40
_INTERRUPT, _NMI, _PREFAULT, _PUNCH, _FORGET, _ATTRIBUTES, _SLOT_DELETE, _SLOT_MAKE = (
    *(7, 8, 1, 2, 6, 3, 4, 5),
)
"""Orders (``enum order`` in ``guest/vmm/vmm.h``)."""


def tour() -> Script:
    """The script; its TDs are built one after the other."""
    lines = ["phase 1", f"td 0 2 {PAGES} {_IMAGE} 1", "build 0"]
    lines += [*_words(0, 0, _calls()), "go", *_words(0, 0, _memory())]
    lines += [*_words(0, 1, [word(ACCEPT, 1024, 64)]), "go"]
    lines += ["phase 2", *_host(), "phase 3"]
    # Each way in which a TD can end.
    lines += [*_words(0, 0, [word(FATAL, 0x42)]), *_words(0, 1, [word(TRIPLE_FAULT)]), "go"]
    lines += ["close 0", f"td 1 1 {PAGES} {_IMAGE}", "build 1"]
    lines += [f"order 1 {_PREFAULT} 0 {_IMAGE} 4"]
    lines += [*_words(1, 0, [word(ACCEPT, _IMAGE, 512)]), "start", "kill 1", "phase 4"]
    return Script("\n".join(lines) + "\n", ("boot", "calls", "host", "ends"), ("tour", "killed"))


def _words(td: int, vcpu: int, words: list[int]) -> list[str]:
    return [f"words {td} {vcpu} {' '.join(map(str, words))}"]


def _call(leaf: int, *registers: int, due: int | None = None) -> list[int]:
    """A TDVMCALL with R12 and on; ``due``: the error that KVM has to answer with."""
    words = [word(REGISTER, value, number) for number, value in enumerate(registers, 12)]
    if due is not None:
        words.append(word(EXPECT, due, _ERROR))
    return [*words, word(CALL, leaf)]


def _calls() -> list[int]:
    return [
        *_call(EXIT_REASON_CPUID, 1, 0),  # tdx_emulate_cpuid
        *_call(EXIT_REASON_IO_INSTRUCTION, 4, 1, 0x510, 7),  # tdx_emulate_io: out
        *_call(EXIT_REASON_IO_INSTRUCTION, 1, 0, 0x510),  # in
        *_call(EXIT_REASON_IO_INSTRUCTION, 3, 0, 0x510, due=_INVALID),
        *_call(EXIT_REASON_MSR_READ, _APIC_BASE),  # tdx_get_msr
        *_call(EXIT_REASON_MSR_READ, _FEATURE_CONTROL),
        *_call(EXIT_REASON_MSR_READ, _NO_MSR, due=_INVALID),
        *_call(EXIT_REASON_MSR_WRITE, _X2APIC_TIMER, 0x10000),  # tdx_set_msr
        *_call(EXIT_REASON_MSR_WRITE, _X2APIC_SPURIOUS, 0x1FF),  # on: interrupts may come
        *_call(EXIT_REASON_MSR_WRITE, _FEATURE_CONTROL, 1, due=_INVALID),
        *_call(EXIT_REASON_MSR_WRITE, _NO_MSR, 1, due=_INVALID),
        *_call(EXIT_REASON_EPT_VIOLATION, 8, 1, _DEVICE | _SHARED, 9),  # tdx_emulate_mmio: write
        *_call(EXIT_REASON_EPT_VIOLATION, 4, 0, _DEVICE | _SHARED),  # read
        *_call(EXIT_REASON_EPT_VIOLATION, 3, 0, _DEVICE | _SHARED, due=_INVALID),
        *_call(EXIT_REASON_EPT_VIOLATION, 4, 2, _DEVICE | _SHARED, due=_INVALID),
        *_call(EXIT_REASON_EPT_VIOLATION, 4, 0, _DEVICE, due=_INVALID),
        *_call(_GET_INFO, 0),  # tdx_get_td_vm_call_info
        *_call(_GET_INFO, 1),
        *_call(_GET_INFO, 2, due=_INVALID),
        *_call(_GET_QUOTE, 0x1000 | _SHARED, 0x1000),  # tdx_get_quote
        *_call(_GET_QUOTE, 0x1000, 0x1000, due=_INVALID),
        *_call(_SETUP_NOTIFY, _VECTOR),  # tdx_setup_event_notify_interrupt
        *_call(_SETUP_NOTIFY, 5, due=_INVALID),
        *_call(0x1FFFF, due=_UNSUPPORTED),  # handle_tdvmcall
        *_call(TDVMCALL_MAP_GPA, 0x100800, 0x1000, due=_ALIGN),  # tdx_map_gpa
        *_call(TDVMCALL_MAP_GPA, 0x100000, 0, due=_INVALID),
        word(REGISTER, 0x400000, 12),  # tdx_emulate_vmcall: KVM_HC_MAP_GPA_RANGE, encrypted
        word(REGISTER, 1, 13),
        word(REGISTER, 16, 14),
        word(VMCALL, 12),
        word(EXIT, EXIT_REASON_OTHER_SMI),
        word(EXIT, EXIT_REASON_EXTERNAL_INTERRUPT),
    ]


def _memory() -> list[int]:
    """Faults and conversions, one of them in several pieces (TDX_MAP_GPA_MAX_LEN)."""
    return [
        word(ACCEPT_2M, 512, 512),
        word(ACCEPT, _IMAGE, 64),
        word(TOUCH, _IMAGE, 64),
        word(SHARE, 512, 512),
        word(SHARE, 100, 800),
        word(TOUCH_SHARED, 512, 8),
        word(UNSHARE, 100, 924),
        word(ACCEPT, 512, 16),
    ]


def _host() -> list[str]:
    """What comes from the VMM: interrupts, NMI, pre-faults, holes, slots that go and come."""
    return [
        *_words(0, 0, [word(HALT)]),
        "start",
        "pause 50",
        f"order 0 {_INTERRUPT} 0 {_VECTOR} 0",
        f"order 0 {_NMI} 1 0 0",
        *_words(0, 1, [word(ACCEPT, 1100, 4)]),
        "go",
        f"order 0 {_PREFAULT} 1 1200 16",
        f"order 0 {_PUNCH} 1024 32 0",
        *_words(0, 1, [word(ACCEPT, 1024, 8)]),
        "go",
        f"order 0 {_FORGET} 512 8 0",
        f"order 0 {_ATTRIBUTES} 1024 4 0",
        f"order 0 {_ATTRIBUTES} 1024 4 1",
        f"order 0 {_SLOT_DELETE} 0 0 0",
        f"order 0 {_SLOT_MAKE} 0 0 0",
        *_words(0, 1, [word(ACCEPT, 1024, 8)]),
        "go",
    ]
