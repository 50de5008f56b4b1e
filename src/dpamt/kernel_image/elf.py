"""An ELF file for x86-64: sections at their addresses, symbols, relocations, who built it.

A vmlinux and a linked freestanding file are taken as they lie.  An object (``.o``, ``.ko``) is laid
out section by section from :data:`OBJECT_BASE` on and relocated, as a loader of modules does; what
it does not define gets an address of its own in a page where nothing lies (``externs``).

The file is mapped, not read: a vmlinux with debug information takes a gigabyte.
"""

import mmap
import struct
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from dpamt.errors import InputError

OBJECT_BASE: Final = 0xFFFF_FFFF_A000_0000
"""Where the sections of an object begin: Linux's module area (Documentation/arch/x86/x86_64/mm.rst,
MODULES_VADDR)."""
EXTERN_BASE: Final = 0xFFFF_FFFF_F000_0000
_LINKER: Final = "Linker:"
"""How lld names itself among the compilers in .comment."""
EXTERN_BYTES: Final = 4096
"""Each symbol that an object does not define gets so much room."""
_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR = 1, 2, 4
_SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym: name, info, other, section, value, size."""
_RELA: Final = struct.Struct("<QQq")
_UNDEFINED: Final = 0
_COMMON: Final = 0xFFF2
_ABSOLUTE: Final = 0xFFF1
_NOTE_BUILD_ID: Final = 3
_R64, _RPC32, _RPLT32, _R32, _R32S = 1, 2, 4, 10, 11
_RGOTPCREL: Final = (9, 41, 42)
_RPC64: Final = 24
_MASK: Final = (1 << 64) - 1


class Section(NamedTuple):
    """A part of the image that lies in memory."""

    name: str
    address: int
    size: int
    offset: int
    """In the file; -1: zeros."""
    writable: bool
    executable: bool

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name with its address and size in bytes (0: not said)."""

    name: str
    address: int
    size: int
    is_function: bool


def plain_name(name: str) -> str:
    """The name of a symbol without the module that it is of (``MODULE:NAME``)."""
    return name.rpartition(":")[2] or name


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


class ElfImage:
    """The file, read only as far as it is asked for.

    Raises InputError for a file that is no ELF file for x86-64, is cut off, or has no symbols.
    """

    extra = "machine"
    """The extra of dpamt that brings pyelftools."""
    expected = "expected a vmlinux, a .ko or an object for x86-64"
    kinds: tuple[str, ...] = ("ET_EXEC", "ET_DYN", "ET_REL")
    """Types of ELF files that are taken."""
    _base = OBJECT_BASE
    _slot_base = EXTERN_BASE - (1 << 20)
    """Where the sections of an object begin, and its global offset table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.build_id = ""
        self.compiler = ""
        self.externs: dict[str, int] = {}
        """Names that the file uses and does not define, with the address that each was given."""
        self._relocated: dict[int, bytearray] = {}
        """By section address: the bytes of sections that were relocated."""
        self.sections: list[Section] = []
        self.symbols: dict[str, Symbol] = {}
        self.global_names: set[str] = set()
        """Symbols that other files may mean: global and weak ones that are defined here."""
        self.elf = self._open()
        try:
            self._read()
        except InputError:
            raise
        except Exception as error:
            # pyelftools has no error of its own for most that can be wrong inside a file.
            what = f"{type(error).__name__} {error}".replace("\n", " ")[:80]
            raise InputError(f"{path}: a damaged ELF file ({what}); {self.expected}") from None
        self._sort()

    # Reading.

    def _open(self) -> Any:
        try:
            from elftools.common.exceptions import ELFError
            from elftools.construct import ConstructError

            from dpamt.kernel_image.windows import MappedElf
        except ImportError:
            raise InputError(
                f"--vmlinux needs pyelftools; expected: pip install 'dpamt[{self.extra}]'"
            ) from None
        try:
            with self.path.open("rb") as file:
                if self.path.stat().st_size == 0:
                    raise InputError(f"{self.path}: an empty file; {self.expected}")
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}; {self.expected}") from None
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; {self.expected}") from None
        try:
            elf = MappedElf(self.data)
            kind, machine = elf["e_type"], elf.get_machine_arch()
        except (ELFError, ConstructError):
            raise InputError(
                f"{self.path}: not an ELF file (a bzImage is none); {self.expected}"
            ) from None
        if machine != "x64" or not elf.little_endian:
            raise InputError(f"{self.path}: an ELF file for {machine}; {self.expected}")
        if kind not in self.kinds:
            raise InputError(f"{self.path}: an ELF file of type {kind}; {self.expected}")
        end = elf["e_shoff"] + elf["e_shnum"] * elf["e_shentsize"]
        if elf["e_shnum"] == 0 or end > len(self.data):
            raise InputError(
                f"{self.path}: cut off: its table of sections ends at byte {end:,} of "
                f"{len(self.data):,}; {self.expected}"
            )
        return elf

    def _read(self) -> None:
        is_object = self.elf["e_type"] == "ET_REL"
        place = self._base
        table = None
        at: dict[int, int] = {}
        for number, part in enumerate(self.elf.iter_sections()):
            header = part.header
            has_bytes = header["sh_type"] != "SHT_NOBITS"
            if has_bytes and header["sh_offset"] + header["sh_size"] > len(self.data):
                raise InputError(
                    f"{self.path}: cut off: section {part.name} ends at byte "
                    f"{header['sh_offset'] + header['sh_size']:,} of {len(self.data):,}; "
                    f"{self.expected}"
                )
            if header["sh_type"] == "SHT_SYMTAB":
                table = part
            if part.name == ".comment":
                said = part.data().split(b"\0")
                texts = [text.decode("utf-8", "replace") for text in said if text]
                compilers = [text for text in texts if not text.startswith(_LINKER)]
                self.compiler = next(iter([*compilers, *texts]), "")
            if not header["sh_flags"] & _SHF_ALLOC or not header["sh_size"]:
                continue
            if header["sh_type"] == "SHT_NOTE":
                self._notes(part.data())
            address = header["sh_addr"]
            if is_object:
                place += -place % max(header["sh_addralign"], 16)
                address, place = place, place + header["sh_size"]
            at[number] = address
            flags = header["sh_flags"]
            self.sections.append(
                Section(
                    part.name,
                    address,
                    header["sh_size"],
                    header["sh_offset"] if has_bytes else -1,
                    bool(flags & _SHF_WRITE),
                    bool(flags & _SHF_EXECINSTR),
                )
            )
        if table is None:
            raise InputError(f"{self.path}: no symbols; expected a file that is not stripped")
        values = self._read_symbols(table, at if is_object else None, place)
        if is_object:
            self._relocate(at, values)

    def _notes(self, data: bytes) -> None:
        """A build id among notes (Elf64_Nhdr: three words, name and content padded to four)."""
        while len(data) >= 12:
            name, size, kind = struct.unpack_from("<III", data)
            begin = 12 + (name + 3 & ~3)
            if kind == _NOTE_BUILD_ID and data[12:16] == b"GNU\0":
                self.build_id = data[begin : begin + size].hex()
            data = data[begin + (size + 3 & ~3) :]

    def _read_symbols(self, table: Any, at: dict[int, int] | None, place: int) -> list[int]:
        """Every symbol's address by its number; names without one become externs."""
        # Read here: sixty thousand symbols take pyelftools several seconds.
        names = self.elf.get_section(table["sh_link"]).data()
        values = []
        commons = place + -place % 64
        first_common = commons
        for name, info, _, section, value, size in _SYMBOL.iter_unpack(table.data()):
            end = names.find(b"\0", name)
            text = names[name:end].decode("ascii", "replace")
            address = value
            if at is not None and section == _COMMON:
                commons += -commons % max(value, 8)
                address, commons = commons, commons + size
            elif section == _UNDEFINED:
                address = self._extern(text) if text else 0
                values.append(address)
                continue
            elif at is not None and section != _ABSOLUTE:
                address = at.get(section, 0) + value
            values.append(address)
            if text and info & 0xF in (0, 1, 2):
                found = Symbol(text, address, size, info & 0xF == 2)
                if info >> 4:
                    self.global_names.add(text)
                if text not in self.symbols or info >> 4:
                    self.symbols[text] = found  # a global one goes before a local one
        if commons > first_common:
            size = commons - first_common
            self.sections.append(Section("COMMON", first_common, size, -1, True, False))
        return values

    def _extern(self, name: str) -> int:
        return self.externs.setdefault(name, EXTERN_BASE + EXTERN_BYTES * len(self.externs))

    def add_extern(self, name: str) -> int:
        """The address of a name that the file does not know, which is given one."""
        address = self._extern(name)
        self._names_of_externs[address] = name
        return address

    def _relocate(self, at: dict[int, int], values: list[int]) -> None:
        slots: dict[int, int] = {}
        slot_base = self._slot_base
        for part in self.elf.iter_sections():
            if part["sh_type"] == "SHT_RELA" and part["sh_info"] not in at:
                self._relocate_debug(part, values)
            if part["sh_type"] != "SHT_RELA" or part["sh_info"] not in at:
                continue
            base = at[part["sh_info"]]
            section = next(s for s in self.sections if s.address == base)
            if section.offset < 0:
                continue
            content = self._relocated.setdefault(
                base, bytearray(self.data[section.offset : section.offset + section.size])
            )
            for offset, info, addend in _RELA.iter_unpack(part.data()):
                kind, value = info & 0xFFFF_FFFF, values[info >> 32]
                if kind in _RGOTPCREL:
                    value = slots.setdefault(value, slot_base + 8 * len(slots))
                    kind = _RPC32
                self._apply(section.address + offset, content, offset, kind, value + addend)
        if slots:
            content = bytearray(b"".join(struct.pack("<Q", value) for value in slots))
            self.sections.append(Section(".got", slot_base, len(content), -1, False, False))
            self._relocated[slot_base] = content

    def _relocate_debug(self, part: Any, values: list[int]) -> None:
        """DWARF of an object names addresses too: those that its sections were given here."""
        section = self.elf.get_section(part["sh_info"])
        if not section.name.startswith(".debug_"):
            return
        content = bytearray(section.data())
        for offset, info, addend in _RELA.iter_unpack(part.data()):
            value = values[info >> 32] + addend
            self._apply(0, content, offset, info & 0xFFFF_FFFF, value)
        self.elf.debug_bytes[section.name] = bytes(content)

    def _apply(self, place: int, content: bytearray, offset: int, kind: int, value: int) -> None:
        """One relocation; ``place`` is the address of what is relocated."""
        if kind in (_RPC32, _RPLT32, _RPC64):
            value -= place
        if kind in (_R64, _RPC64):
            struct.pack_into("<Q", content, offset, value & (1 << 64) - 1)
        elif kind in (_RPC32, _RPLT32, _R32, _R32S):
            if kind != _R32 and place and not -(1 << 31) <= _signed(value) < 1 << 31:
                raise InputError(
                    f"{self.path}: relocation at {place:#x} does not reach: {value & _MASK:#x} "
                    "needs more than 32 bits; expected a kernel in the upper 2 GiB"
                )
            struct.pack_into("<I", content, offset, value & 0xFFFF_FFFF)
        elif kind:
            raise InputError(
                f"{self.path}: relocation {kind} is not known; expected code built as the kernel's "
                "is (-mcmodel=kernel, no -fPIC)"
            )

    def _sort(self) -> None:
        self.sections.sort(key=lambda section: section.address)
        self._starts = [section.address for section in self.sections]
        functions: dict[int, Symbol] = {}
        for symbol in self.symbols.values():
            known = functions.get(symbol.address)
            if known is None or (symbol.size, symbol.is_function) > (known.size, known.is_function):
                functions[symbol.address] = symbol
        self._by_address = [functions[address] for address in sorted(functions)]
        self._addresses = sorted(functions)
        self._names_of_externs = {address: name for name, address in self.externs.items()}

    # Asking.

    def section_at(self, address: int) -> Section | None:
        """The section that an address lies in."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0 and address < self.sections[at].end:
            return self.sections[at]
        return None

    def read(self, address: int, size: int) -> bytes:
        """Bytes from an address on; zeros where no section has any."""
        found = bytearray()
        while len(found) < size:
            here, left = address + len(found), size - len(found)
            section = self.section_at(here)
            if section is None:
                at = bisect_right(self._starts, here)
                gap = self._starts[at] - here if at < len(self._starts) else left
                found += bytes(min(gap, left))
                continue
            begin = here - section.address
            count = min(left, section.size - begin)
            relocated = self._relocated.get(section.address)
            if relocated is not None:
                found += relocated[begin : begin + count]
            elif section.offset < 0:
                found += bytes(count)
            else:
                found += self.data[section.offset + begin : section.offset + begin + count]
        return bytes(found)

    def path_at(self, address: int) -> Path:
        """The file that an address comes from."""
        return self.path

    def files(self) -> "tuple[ElfImage, ...]":
        """The files that the image is made of: this one."""
        return (self,)

    def symbol_at(self, address: int) -> tuple[Symbol | None, int]:
        """The symbol at or below an address, and how far behind it the address lies."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0:
            return None, address
        symbol = self._by_address[at]
        return symbol, address - symbol.address

    def name_of(self, address: int) -> str:
        """``function+0x12`` for an address; its number where nothing is known."""
        extern = self._names_of_externs.get(address & -EXTERN_BYTES)
        if extern is not None:
            return extern
        if self.section_at(address) is None:
            return f"{address:#x}"
        symbol, offset = self.symbol_at(address)
        if symbol is None:
            return f"{address:#x}"
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def address_of(self, name: str) -> int | None:
        """Where a name lies, defined here or an extern; None: the file does not know it."""
        symbol = self.symbols.get(name)
        return symbol.address if symbol is not None else self.externs.get(name)
