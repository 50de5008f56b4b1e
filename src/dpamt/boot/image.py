"""A kernel's vmlinux: its symbols, its bytes by virtual address, a copy with some of them changed.

Nothing is known of the kernel but what the ELF file says; pyelftools (extra ``boot``) reads it.
"""

import struct
from bisect import bisect_right
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError

_PVH_NOTE: Final = 18
"""XEN_ELFNOTE_PHYS32_ENTRY: the entry that QEMU starts a vmlinux at (Linux
include/xen/interface/elfnote.h)."""
_SHF_EXECINSTR: Final = 4
_SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym: name, info, other, section, value, size."""
_SYMBOL_TYPE: Final = 0xF
_SYMBOL_TYPES: Final = (0, 1, 2)
"""STT_NOTYPE, STT_OBJECT, STT_FUNC."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or object of the kernel: virtual address and size in bytes (0: not said)."""

    name: str
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class _Segment:
    address: int
    offset: int
    file_bytes: int


class KernelImage:
    """A vmlinux for x86-64.

    Raises InputError for a file that is not one, or that has no symbols.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; expected a vmlinux") from None
        self._segments: list[_Segment] = []
        self._code: list[range] = []
        self._symbols: dict[str, Symbol] = {}
        self.has_pvh_entry = False
        self.build_id = ""
        """In hexadecimal; empty where the linker left none."""
        elf = self._elf()
        try:
            self._read(elf)
        except InputError:
            raise
        except Exception as error:
            # pyelftools has no error of its own for most that can be wrong inside a file.
            what = f"{type(error).__name__} {error}".replace("\n", " ")[:80]
            raise InputError(f"{path}: a damaged ELF file ({what}); expected a vmlinux") from None
        functions = sorted(
            {symbol.address: symbol for symbol in self._symbols.values()}.values(),
            key=lambda symbol: symbol.address,
        )
        self._addresses = [symbol.address for symbol in functions]
        self._functions = functions

    def _read(self, elf: Any) -> None:
        for part in elf.iter_segments():
            if part["p_type"] == "PT_LOAD":
                segment = _Segment(part["p_vaddr"], part["p_offset"], part["p_filesz"])
                self._segments.append(segment)
            elif part["p_type"] == "PT_NOTE":
                notes = list(part.iter_notes())
                ids = [note["n_desc"] for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"]
                self.build_id = ids[0] if ids else self.build_id
                self.has_pvh_entry |= any(
                    note["n_type"] == _PVH_NOTE and note["n_name"] == "Xen" for note in notes
                )
        table = None
        # By section: the code of __init functions lies in a segment of data.
        for part in elf.iter_sections():
            if part["sh_flags"] & _SHF_EXECINSTR:
                self._code.append(range(part["sh_addr"], part["sh_addr"] + part["sh_size"]))
            if part["sh_type"] == "SHT_SYMTAB":
                table = part
        if table is None:
            raise InputError(f"{self.path}: no symbols; expected a vmlinux that is not stripped")
        # Read here: sixty thousand symbols take pyelftools several seconds.
        names = elf.get_section(table["sh_link"]).data()
        for name, info, _, _, value, size in _SYMBOL.iter_unpack(table.data()):
            if name and info & _SYMBOL_TYPE in _SYMBOL_TYPES:
                text = names[name : names.index(b"\0", name)].decode("ascii", "replace")
                self._symbols.setdefault(text, Symbol(text, value, size))

    def _elf(self) -> Any:
        try:
            from elftools.common.exceptions import ELFError
            from elftools.construct import ConstructError
            from elftools.elf.elffile import ELFFile
        except ImportError:
            raise InputError(
                "dpamt boot needs pyelftools; expected: pip install 'dpamt[boot]'"
            ) from None
        try:
            elf = ELFFile(BytesIO(self.data))
        except (ELFError, ConstructError):
            raise InputError(
                f"{self.path}: not an ELF file; expected a vmlinux (a bzImage goes to --kernel)"
            ) from None
        if elf.get_machine_arch() != "x64" or elf["e_type"] != "ET_EXEC":
            raise InputError(
                f"{self.path}: an ELF file for {elf.get_machine_arch()}, {elf['e_type']}; expected "
                "a vmlinux for x86-64 (not a bzImage, which goes to --kernel)"
            )
        return elf

    def symbol(self, name: str) -> Symbol | None:
        """The symbol of that name."""
        return self._symbols.get(name)

    def symbol_at(self, address: int) -> str:
        """``function+0x12`` for an address; the number where nothing is known."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0:
            return f"{address:#x}"
        symbol = self._functions[at]
        offset = address - symbol.address
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def is_text(self, address: int) -> bool:
        """Whether an address lies in code."""
        return any(address in part for part in self._code)

    def offset_of(self, address: int) -> int:
        """Where the byte of a virtual address lies in the file; InputError when it is in none."""
        for part in self._segments:
            if part.address <= address < part.address + part.file_bytes:
                return part.offset + address - part.address
        raise InputError(f"{self.path}: no byte for address {address:#x}; expected it in the file")

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from a virtual address on."""
        offset = self.offset_of(address)
        return self.data[offset : offset + size]

    def code_of(self, symbol: Symbol) -> bytes:
        """The bytes of a function."""
        return self.read(symbol.address, symbol.size)

    def slack_after_text(self) -> tuple[int, int]:
        """(address, bytes) of the unused rest of the last page of code, behind ``_etext``."""
        end = self.symbol("_etext")
        if end is None:
            raise InputError(f"{self.path}: no symbol '_etext'; expected a Linux kernel")
        start = end.address + (-end.address) % 16
        limit = end.address + (-end.address) % 4096
        size = 0
        while start + size < limit and self.read(start + size, 1) in (b"\0", b"\xcc", b"\x90"):
            size += 1
        return start, size

    def with_changes(self, changes: dict[int, bytes]) -> bytes:
        """The file with bytes at virtual addresses replaced; all else as it was."""
        data = bytearray(self.data)
        for address, new in changes.items():
            offset = self.offset_of(address)
            data[offset : offset + len(new)] = new
        return bytes(data)
