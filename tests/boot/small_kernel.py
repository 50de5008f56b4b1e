"""A kernel for tests: a small ELF file with what dpamt boot looks for in one."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

BASE = 0xFFFF_FFFF_8100_0000
SEAMCALL = bytes.fromhex("660f01cf")
WRAPPER = bytes.fromhex("4889f8") + SEAMCALL + bytes.fromhex("7201c3c3")
"""mov %rdi,%rax; seamcall; jc +1; ret; ret"""
DETECT = bytes.fromhex("b98700000055530f3231edc3")
"""mov $0x87,%ecx; push %rbp; push %rbx; rdmsr; xor %ebp,%ebp; ret"""
VMX = bytes.fromhex("f30f1efa4883ec10c3")
"""endbr64; sub $16,%rsp; ret"""


@dataclass
class SmallKernel:
    """Functions by name, in order; changed by tests before :meth:`write`."""

    functions: dict[str, bytes] = field(
        default_factory=lambda: {
            "__seamcall": WRAPPER,
            "__seamcall_ret": WRAPPER,
            "__seamcall_saved_ret": WRAPPER,
            "tdx_init": DETECT,
            "x86_vmx_enable_virtualization_cpu": VMX,
            "x86_vmx_disable_virtualization_cpu": VMX,
        }
    )
    pvh: bool = True
    slack: int = 2048
    stripped: bool = False
    machine: int = 62

    def addresses(self) -> dict[str, int]:
        found, at = {}, BASE
        for name, code in self.functions.items():
            found[name] = at
            at += len(code) + -len(code) % 16
        found["_etext"] = at
        return found

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path

    def build(self) -> bytes:
        addresses = self.addresses()
        text = bytearray()
        for code in self.functions.values():
            text += code + b"\xcc" * (-len(code) % 16)
        used = len(text)
        text += bytes(self.slack)
        if self.slack:
            text += b"\x55"  # something else begins here
        note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x1000000) if self.pvh else b""
        strings = bytearray(b"\0")
        symbols = bytearray(bytes(24))
        for name, address in addresses.items():
            size = len(self.functions.get(name, b""))
            kind = 2 if name in self.functions else 0
            symbols += struct.pack("<IBBHQQ", len(strings), 0x10 | kind, 0, 1, address, size)
            strings += name.encode() + b"\0"
        names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
        header, segment = 64, 56
        text_at = header + 2 * segment
        note_at = text_at + len(text)
        symbols_at = note_at + len(note)
        strings_at = symbols_at + len(symbols)
        names_at = strings_at + len(strings)
        sections_at = names_at + len(names)
        sections = [bytes(64)]
        sections.append(_section(1, 1, 6, BASE, text_at, used, 0, 0, 0))
        if not self.stripped:
            sections.append(_section(7, 2, 0, 0, symbols_at, len(symbols), 3, 1, 24))
        else:
            sections.append(_section(7, 1, 0, 0, symbols_at, len(symbols), 0, 0, 0))
        sections.append(_section(15, 3, 0, 0, strings_at, len(strings), 0, 0, 0))
        sections.append(_section(23, 3, 0, 0, names_at, len(names), 0, 0, 0))
        elf = struct.pack(
            "<16sHHIQQQIHHHHHH",
            b"\x7fELF\x02\x01\x01",
            *(2, self.machine, 1, BASE, header, sections_at),
            *(0, header, segment, 2, 64, len(sections), 4),
        )
        load = _segment(1, 5, text_at, BASE, len(text))
        notes = _segment(4, 4, note_at, 0, len(note))
        return bytes(
            elf + load + notes + text + note + symbols + strings + names + b"".join(sections)
        )


def _segment(kind: int, flags: int, offset: int, address: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, size, size, 16)


def _section(
    name: int,
    kind: int,
    flags: int,
    address: int,
    offset: int,
    size: int,
    link: int,
    info: int,
    entry: int,
) -> bytes:
    return struct.pack(
        "<IIQQQQIIQQ", name, kind, flags, address, offset, size, link, info, 1, entry
    )
