"""A guest of a few instructions that puts whatever it is told into the mailbox, and rings.

It is a kernel image for QEMU's PVH entry (32-bit protected mode, no paging), with the functions
that dpamt boot looks for beside it: it runs in the real QEMU, through the real session.
"""

import struct
from pathlib import Path

from dpamt.boot.stub import ASKED, BELL_PORT, SLOT_BYTES, SLOT_REGISTERS, SLOT_SITE, SLOTS_PHYSICAL
from tests.boot.small_kernel import SmallKernel

LOADED_AT = 0x1000000
SERIAL_PORT = 0x3F8
_SLOT = struct.Struct("<I")
_PROGRAM_HEADERS_AT = 64


def entry(rax: int, registers: tuple[int, ...], cpu: int = 0, site: int = 0) -> bytes:
    """A question as a stub would ask it: RAX, then RCX, RDX, R8 ... as the slot has them."""
    slot = bytearray(SLOT_BYTES)
    struct.pack_into("<I", slot, 0, ASKED)
    struct.pack_into("<I", slot, SLOT_SITE, site)
    values = (rax, *registers)
    struct.pack_into(f"<{len(values)}Q", slot, SLOT_REGISTERS, *values)
    return raw_entry(bytes(slot), cpu)


def raw_entry(slot: bytes, cpu: int = 0) -> bytes:
    """Any bytes for the slot of a CPU."""
    assert len(slot) == SLOT_BYTES
    return _SLOT.pack(SLOTS_PHYSICAL + cpu * SLOT_BYTES) + slot


def hostile_kernel(
    path: Path,
    log: str,
    entries: list[bytes],
    times: int = 1,
    blobs: tuple[tuple[int, bytes], ...] = (),
) -> Path:
    """Write the image: it copies blobs to their addresses, prints ``log``, asks every entry in
    order, all of them ``times`` times, and resets the machine."""
    text = log.encode() + b"\0"
    data = b"".join(entries)
    copies = b"".join(content for _, content in blobs)
    code_bytes = 512
    text_at = LOADED_AT + code_bytes
    data_at = text_at + len(text)
    copies_at = data_at + len(data)
    code = bytearray()
    source = copies_at
    for target, content in blobs:
        assert len(content) % 4 == 0
        code += b"\xbe" + struct.pack("<I", source)  # mov $source, %esi
        code += b"\xbf" + struct.pack("<I", target)  # mov $target, %edi
        code += b"\xb9" + struct.pack("<I", len(content) // 4)  # mov $dwords, %ecx
        code += b"\xfc\xf3\xa5"  # cld; rep movsl
        source += len(content)
    code += b"\xbe" + struct.pack("<I", text_at)
    code += b"\x66\xba" + struct.pack("<H", SERIAL_PORT)  # mov $port, %dx
    code += b"\xac\x84\xc0\x74\x03\xee\xeb\xf8"  # 1: lodsb; test; jz 2f; out; jmp 1b; 2:
    code += b"\xbd" + struct.pack("<I", times)  # mov $times, %ebp
    outer = len(code)
    code += b"\xbe" + struct.pack("<I", data_at)
    code += b"\xbb" + struct.pack("<I", len(entries))  # mov $entries, %ebx
    inner = len(code)
    code += b"\xad\x89\xc7\x89\xc2"  # lodsl; mov %eax, %edi; mov %eax, %edx
    code += b"\xad"  # lodsl: the state, written last
    code += b"\x83\xc7\x04"  # add $4, %edi
    code += b"\xb9" + struct.pack("<I", SLOT_BYTES // 4 - 1)
    code += b"\xf3\xa5"  # rep movsl
    code += b"\x89\x02"  # mov %eax, (%edx)
    code += b"\xe6" + bytes((BELL_PORT,))  # out %al, $bell
    code += b"\x83\xf8\x01\x75\x07"  # cmp $1, %eax; jne 2f: nothing was asked
    code += b"\x83\x3a\x02\xf3\x90\x75\xf9"  # 1: cmpl $2, (%edx); pause; jne 1b
    code += b"\x4b"  # 2: dec %ebx
    code += b"\x0f\x85" + struct.pack("<i", inner - (len(code) + 6))  # jnz inner
    code += b"\x4d"  # dec %ebp
    code += b"\x0f\x85" + struct.pack("<i", outer - (len(code) + 6))  # jnz outer
    code += b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"  # mov $0xfe, %al; out %al, $0x64; 1: hlt; jmp 1b
    assert len(code) <= code_bytes
    whole = bytes(code).ljust(code_bytes, b"\xf4") + text + data + copies
    whole += bytes(-len(whole) % 4096)  # so that there is room behind the text
    kernel = SmallKernel()
    kernel.functions = {"hostile": whole, **kernel.functions}
    image = bytearray(kernel.build())
    # Loaded low, where the entry of the PVH note is.
    struct.pack_into("<Q", image, _PROGRAM_HEADERS_AT + 24, LOADED_AT)
    struct.pack_into("<Q", image, _PROGRAM_HEADERS_AT + 56 + 48, 4)  # alignment of notes
    path.write_bytes(image)
    return path
