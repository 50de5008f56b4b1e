"""A kernel module (``.ko``) as a file: functions, their bytes and relocations, a copy with changes.

A module is relocated when it is loaded, so a place in it is named by its offset in the file.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError, ModelError

_SHF_EXECINSTR: Final = 4
_STT_FUNC: Final = 2
_SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym: name, info, other, section, value, size."""
_RELOCATION: Final = struct.Struct("<QQq")
"""Elf64_Rela: offset, info, addend."""
_RELOCATED_BYTES: Final = {2: 4, 4: 4, 9: 4, 10: 4, 11: 4, 41: 4, 42: 4}
"""By type: R_X86_64_PC32, PLT32, GOTPCREL, 32, 32S, GOTPCRELX, REX_GOTPCRELX."""
_LONGEST_RELOCATION: Final = 8


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a module: where its bytes begin in the file, and how many there are."""

    name: str
    section: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class FileChange:
    """Bytes of a module that are replaced in a copy; ``offset`` is that in the file."""

    offset: int
    old: bytes
    new: bytes
    where: str
    why: str


class ModuleFile:
    """A ``.ko`` for x86-64.  Raises InputError for a file that is none, or has no symbols."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; expected a kernel module") from None
        self.functions: list[Function] = []
        self._relocated: list[range] = []
        """Bytes of the file that the loader writes over."""
        try:
            self._read()
        except InputError:
            raise
        except Exception as error:
            # pyelftools has no error of its own for most that can be wrong inside a file.
            what = f"{type(error).__name__} {error}".replace("\n", " ")[:80]
            raise InputError(f"{path}: no ELF file ({what}); expected a kernel module") from None

    def _read(self) -> None:
        from elftools.elf.elffile import ELFFile

        elf = ELFFile(BytesIO(self.data))
        if elf.get_machine_arch() != "x64" or elf["e_type"] != "ET_REL":
            raise InputError(f"{self.path}: {elf['e_type']}; expected a kernel module for x86-64")
        sections = list(elf.iter_sections())
        code = {
            index: part for index, part in enumerate(sections) if part["sh_flags"] & _SHF_EXECINSTR
        }
        table: Any = elf.get_section_by_name(".symtab")
        if table is None:
            raise InputError(f"{self.path}: no symbols; expected a module that is not stripped")
        names = elf.get_section(table["sh_link"]).data()
        for name, info, _, section, value, size in _SYMBOL.iter_unpack(table.data()):
            if info & 0xF == _STT_FUNC and section in code and size:
                text = names[name : names.index(b"\0", name)].decode("ascii", "replace")
                part = code[section]
                self.functions.append(Function(text, part.name, part["sh_offset"] + value, size))
        for part in sections:
            if part["sh_type"] == "SHT_RELA" and part["sh_info"] in code:
                start = code[part["sh_info"]]["sh_offset"]
                for offset, info, _ in _RELOCATION.iter_unpack(part.data()):
                    at = start + offset
                    size = _RELOCATED_BYTES.get(info & 0xFFFF_FFFF, _LONGEST_RELOCATION)
                    self._relocated.append(range(at, at + size))
        self._relocated.sort(key=lambda part: part.start)

    def named(self, prefix: str) -> list[Function]:
        """The functions of that name, and those that the compiler made of it (``name.isra.0``)."""
        return [f for f in self.functions if f.name == prefix or f.name.startswith(f"{prefix}.")]

    def code_of(self, function: Function) -> bytes:
        """The bytes of a function, before relocation."""
        return self.data[function.offset : function.offset + function.size]

    def is_relocated(self, start: int, size: int) -> bool:
        """Whether the loader may write into these bytes of the file."""
        return any(part.start < start + size and start < part.stop for part in self._relocated)

    def with_changes(self, changes: Iterable[FileChange]) -> bytes:
        """The file with the changes, proven to differ from the original in nothing else."""
        listed = list(changes)
        new = bytearray(self.data)
        for change in listed:
            new[change.offset : change.offset + len(change.new)] = change.new
        restored = bytearray(new)
        for change in listed:
            restored[change.offset : change.offset + len(change.old)] = change.old
        if len(new) != len(self.data) or bytes(restored) != self.data:
            raise ModelError(f"{self.path}: the copy differs in bytes that no intervention names")
        return bytes(new)
