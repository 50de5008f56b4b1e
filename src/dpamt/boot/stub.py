"""The code that stands in for a SEAMCALL, and the slots through which a CPU and dpamt talk.

``guest/stub.S`` is its source, assembled once; here the bytes are filled in for a call site.
"""

import struct
from typing import Final

SLOT_BYTES: Final = 256
SLOTS_PHYSICAL: Final = 0x50000
"""Guest-physical address of the slots: in the first MiB, which Linux takes out of use
(reserve_real_mode(), arch/x86/realmode/init.c) and leaves in its direct map."""
MAX_CPUS: Final = 64

# Offsets inside a slot.
SLOT_STATE: Final = 0x00
SLOT_SITE: Final = 0x08
SLOT_REGISTERS: Final = 0x10
SLOT_CARRY: Final = 0x90

IDLE: Final = 0
ASKED: Final = 1
ANSWERED: Final = 2
"""Values of a slot's state."""

SLOT_REGISTER_NAMES: Final = (
    "rax",
    "rcx",
    "rdx",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "rdi",
    "rsi",
    "rbx",
    "rsp",
    "rbp",
)
"""In the order of the slot; RSP as it was at the call, and it and RBP are not taken back."""

BELL_PORT: Final = 0xE9
"""Port of QEMU's isa-debugcon device: a byte written there says that somebody asks."""

_CODE: Final = bytes.fromhex(
    "9cfa5350bb7b0000000f03db81e3ff0f0000c1e30848b800000000000000004801c3584889431048"
    "894b18488953204c8943284c894b304c8953384c895b404c8963484c896b504c8973584c897b6048"
    "897b6848897370488b042448894378488d442410488983800000004889ab88000000c74308000000"
    "00c70301000000e6e9f390833b0275f9488b83900000004883642408fe4809442408488b4310488b"
    "4b18488b53204c8b43284c8b4b304c8b53384c8b5b404c8b63484c8b6b504c8b73584c8b7b60488b"
    "7b68488b7370c70300000000488b5b78488d6424089d0f8200000000e900000000"
)
_SLOTS_AT: Final = 0x17
_SITE_AT: Final = 0x75
_TAKEN_AT: Final = 0xE0
_GO_ON_AT: Final = 0xE5
STUB_BYTES: Final = len(_CODE)


def stub(address: int, slots: int, site: int, taken: int, go_on: int) -> bytes:
    """The stub at ``address`` (all addresses virtual): it asks by ``site``, then goes to ``taken``
    when the answer has the carry flag set, else to ``go_on``."""
    code = bytearray(_CODE)
    struct.pack_into("<Q", code, _SLOTS_AT, slots)
    struct.pack_into("<I", code, _SITE_AT, site)
    struct.pack_into("<i", code, _TAKEN_AT, taken - (address + _TAKEN_AT + 4))
    struct.pack_into("<i", code, _GO_ON_AT, go_on - (address + _GO_ON_AT + 4))
    return bytes(code)


def jump(address: int, target: int) -> bytes:
    """``jmp target`` in 5 bytes at ``address``."""
    return b"\xe9" + struct.pack("<i", target - (address + 5))


def call(address: int, target: int) -> bytes:
    """``call target`` in 5 bytes at ``address``."""
    return b"\xe8" + struct.pack("<i", target - (address + 5))
