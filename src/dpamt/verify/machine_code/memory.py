"""Whose the memory is that machine code reaches: a thread's own, constant, or shared words.

=======================  ==============================================================
the thread's own         its stack, the arguments that it was given, per-CPU variables (``%gs:``),
                         the struct pages of pages that it has; nothing of it may be shown to other
                         threads
constant                 code and read-only sections (``.rodata`` with what is read-only after init)
shared                   every other section of the image, and the counters: each access is a step
=======================  ==============================================================

All else is refused: a pointer that leads nowhere here is a bug of the code, or something that it
needs and nobody set.

Addresses are those of Linux without KASLR and with 4-level paging
(Documentation/arch/x86/x86_64/mm.rst).
"""

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage, Symbol
from dpamt.kernel_image.lines import Lines
from dpamt.kernel_image.variables import Variables
from dpamt.verify.machine_code.answered import is_answered

PAGE_OFFSET: Final = 0xFFFF_8880_0000_0000
VMEMMAP: Final = 0xFFFF_EA00_0000_0000
STRUCT_PAGE: Final = 64
"""Bytes of a struct page."""
STACK_BYTES: Final = 0x4000
STACK_BASE: Final = 0xFFFF_C900_0000_0000
STACK_TOP: Final = STACK_BASE + STACK_BYTES - 64
ARGUMENTS: Final = 0xFFFF_C900_0001_0000
"""Where a thread's arguments lie that are passed by pointer."""
_ARGUMENT_BYTES: Final = 0x1000
_COUNTS: Final = 0xFFFF_C900_0100_0000
"""Where the counters lie when the image has a pointer to them."""
REGIONS: Final = 1024
MEMORY_PAGES: Final = REGIONS << 9
"""4K pages of the verifier's machine."""
ZERO_PFN: Final = MEMORY_PAGES
"""The kernel's zero page, behind the memory that threads use."""
RCU_DEPTH: Final = 0xFFFF_C900_0001_8000
"""64 bits: the RCU read sections that a thread is in."""
CLEARED_LINES: Final = 0xFFFF_C900_0002_0000
"""64 bits for each page: lines that a thread has cleared of a page that is not cleared yet."""
COUNT_BYTES: Final = 4
"""An atomic_t."""
_TASK: Final = ("current_task", "const_current_task")
_OTHER_CPUS: Final = frozenset({"__per_cpu_offset"})
"""What leads to per-CPU variables of other CPUs (Linux include/asm-generic/percpu.h)."""
COUNT_NAMES: Final = ("dpamt_refcounts", "pamt_refcounts")
"""The counters' symbol: merged 5386c5288001 (2026-09-04), and as posted before it."""
_FEATURES0: Final = 8
"""Offset of features.tdx_features0 in struct tdx_sys_info (Linux 7.3.4
arch/x86/include/asm/tdx_global_metadata.h: behind three 16-bit numbers of the version)."""
PRIVATE: Final = "private"
CONSTANT: Final = "constant"
SHARED: Final = "shared"
NOWHERE: Final = "nowhere"
"""A page fault: the first page, and addresses that no x86-64 CPU with 4-level paging has."""
_NULL_PAGE: Final = 4096
_CANONICAL: Final = 1 << 47
_SIZES: Final = (1, 2, 4, 8)


class Cell(NamedTuple):
    """A shared word: the counter of region ``number``, or the bytes at an address of the image."""

    counter: bool
    number: int
    """Region, or offset from the symbol."""
    symbol: str
    address: int
    size: int
    values: tuple[tuple[int, str], ...] = ()
    """Names of values, of an enumeration."""


class Preset(NamedTuple):
    """A variable that is given a value before the first step, as a booted kernel has it."""

    symbol: str
    offset: int
    value: int


class ImageMemory:
    """The address space of one image."""

    def __init__(self, image: ElfImage, counts: str, lines: Lines, values: dict[str, str]) -> None:
        self.image = image
        self.variables = Variables(lines)
        self._locks: dict[int, str] = {}
        self.counts = counts
        self._bytes: dict[int, bytes] = {}
        self.presets: list[Preset] = []
        self._cells: dict[int, Cell] = {}
        self._sites: dict[Cell, int] = {}
        """The instruction that reached a word first."""
        self._as_linked: dict[int, int] = {}
        """Address and bytes of what was read that only a boot writes."""
        self._private: list[tuple[int, int]] = [
            (STACK_BASE, STACK_BASE + STACK_BYTES),
            (ARGUMENTS, ARGUMENTS + _ARGUMENT_BYTES),
            (VMEMMAP, VMEMMAP + STRUCT_PAGE * MEMORY_PAGES),
        ]
        self._per_cpu = [(s.address, s.end) for s in image.sections if "percpu" in s.name]
        self._read: dict[int, int] = {}
        """By address of a byte of a per-CPU variable: an instruction that reads it."""
        self._left: set[int] = set()
        self._current = {image.address_of(name) for name in _TASK}
        self._private += self._per_cpu
        symbol = image.symbols.get(counts)
        extern = image.externs.get(counts)
        if symbol is None and extern is None:
            self.counts_base = 0
        elif symbol is not None and symbol.size > 8:
            self.counts_base = symbol.address  # an array, not a pointer to one
        else:
            self.counts_base = _COUNTS
            self._preset(counts, 0, _COUNTS)
        self._preset("vmemmap_base", 0, VMEMMAP)
        self._preset("page_offset_base", 0, PAGE_OFFSET)
        self._preset("max_pfn", 0, MEMORY_PAGES)
        self._preset("__zero_page", 0, VMEMMAP + STRUCT_PAGE * ZERO_PFN)
        self._preset("tdx_sysinfo", _FEATURES0, TDX_FEATURES0_DYNAMIC_PAMT)
        if "debug_locks" in image.externs:  # of an object: lockdep's own checks are off
            self._preset("debug_locks", 0, 0)
        self.given: list[Preset] = []
        """Variables that the user gave a value."""
        for name, value in values.items():
            self._give(name, value)

    def _preset(self, name: str, offset: int, value: int) -> None:
        address = self.image.address_of(name)
        if address is not None:
            self._bytes[address + offset] = struct.pack("<Q", value)
            self.presets.append(Preset(name, offset, value))

    def preset(self, name: str, offset: int, value: int) -> None:
        """Set 64 bits of a variable before the first step, unless the user gave it a value."""
        if all(one.symbol != name for one in self.given):
            self.unset(name)
            self._preset(name, offset, value)

    def unset(self, name: str) -> None:
        """Take back what :meth:`preset` set of a variable."""
        address = self.image.address_of(name)
        for one in [one for one in self.presets if one.symbol == name]:
            self.presets.remove(one)
            if address is not None:
                self._bytes.pop(address + one.offset, None)

    def _give(self, name: str, text: str) -> None:
        address, symbol = self.image.address_of(name), self.image.symbols.get(name)
        if address is None:
            raise InputError(f"{self.image.path}: no variable {name}; expected one for --set")
        size = symbol.size if symbol is not None and symbol.size else 8
        if size not in _SIZES:
            raise InputError(
                f"{self.image.path}: {name} has {size} bytes; expected 1, 2, 4 or 8 for --set"
            )
        try:
            value = int(text, 0)
        except ValueError:
            target = self.image.address_of(text)
            if target is None and is_answered(text):
                target = self.image.add_extern(text)
            if target is None:
                raise InputError(
                    f"{self.image.path}: no symbol {text}; expected it or a number for --set {name}"
                ) from None
            value = target
        if not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
            raise InputError(
                f"{self.image.path}: --set {name}={text}: expected what {size} bytes hold"
            )
        self.presets = [preset for preset in self.presets if preset.symbol != name]
        self._bytes[address] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.given.append(Preset(name, 0, value))

    def first_bytes(self, address: int, size: int) -> bytes:
        """What lies there before any thread runs."""
        found = bytearray(self.image.read(address, size))
        for place, content in self._bytes.items():
            begin = place - address
            if -len(content) < begin < size:
                for n, byte in enumerate(content):
                    if 0 <= begin + n < size:
                        found[begin + n] = byte
        return bytes(found)

    def kind_of(self, address: int, size: int, writes: bool, site: int) -> str:
        """PRIVATE, CONSTANT, SHARED or NOWHERE.

        Raises InputError, naming the instruction ``site``, for other memory that nobody has here.
        """
        if is_nowhere(address):
            return NOWHERE
        for begin, end in self._private:
            if begin <= address and address + size <= end:
                return PRIVATE
        if self._is_count(address) or self._is_count(address + size - 1):
            return SHARED
        where = self.image.name_of(site)
        section = self.image.section_at(address)
        preset = any(
            at < address + size and address < at + len(content)
            for at, content in self._bytes.items()
        )
        if section is None and not preset:
            does = "writes" if writes else "reads"
            extern = self.image.name_of(address)
            raise InputError(
                f"{self.image.path_at(site)}: {where} {does} {size} bytes at {extern}, "
                "which is no memory of the image, of the thread or of its arguments"
            )
        other = self.image.symbol_at(address)[0] if section is not None else None
        if other is not None and other.name in _OTHER_CPUS:
            raise InputError(
                f"{self.image.path_at(site)}: {where} reads {other.name}: per-CPU variables "
                "of other CPUs are not followed"
            )
        if preset or (section is not None and _is_constant(section.name, section.writable)):
            if writes:
                raise InputError(
                    f"{self.image.path_at(site)}: {where} writes {self.image.name_of(address)}, "
                    "which is constant here"
                )
            if section is not None and section.writable and not preset:
                self._as_linked.setdefault(address, size)
            return CONSTANT
        return SHARED

    def _is_count(self, address: int) -> bool:
        base = self.counts_base
        return bool(base) and base <= address < base + COUNT_BYTES * REGIONS

    def is_for_itself(self, address: int) -> bool:
        """Whether an address is of memory that is another one for each thread or CPU."""
        return any(
            begin <= address < end
            for begin, end in (
                (STACK_BASE, STACK_BASE + STACK_BYTES),
                (ARGUMENTS, ARGUMENTS + _ARGUMENT_BYTES),
                *self._per_cpu,
            )
        )

    def is_own(self, address: int, size: int) -> bool:
        """Whether bytes are a thread's own."""
        return any(begin <= address and address + size <= end for begin, end in self._private)

    def may_be_per_cpu(self, address: int) -> bool:
        """Whether a per-CPU variable may lie at an address: the file's, or one from elsewhere."""
        section = self.image.section_at(address)
        if section is not None:
            return "percpu" in section.name
        return not self._is_count(address) and not self.is_own(address, 1)

    # Per-CPU variables: a call begins with those of the boot, so none may read what one left.

    def note_read(self, address: int, size: int, site: int) -> None:
        """Code reads bytes.  Raises InputError where a call has left others there."""
        if any(begin <= address < end for begin, end in self._per_cpu):
            self._read.update(dict.fromkeys(range(address, address + size), site))
            self._check_read()

    def note_left(self, address: int, value: int) -> None:
        """A call ends with 64 bits of the thread's own.  Raises InputError as above.

        A CPU's number differs from the first one's, and preempt_count is looked at by itself.
        """
        if not any(begin <= address < end for begin, end in self._per_cpu):
            return
        now, first = value.to_bytes(8, "little"), self.first_bytes(address, 8)
        apart = [self.image.address_of(name) for name in ("cpu_number", "__preempt_count")]
        for at in range(address, address + 8):
            known = any(begin is not None and begin <= at < begin + 4 for begin in apart)
            if not known and now[at - address] != first[at - address]:
                self._left.add(at)
        self._check_read()

    def _check_read(self) -> None:
        both = self._left & self._read.keys()
        if both:
            site = self._read[min(both)]
            raise InputError(
                f"{self.image.path_at(site)}: {self.image.name_of(site)} reads the per-CPU "
                f"variable {self.image.name_of(min(both))}, which a call of get or put leaves "
                "changed; expected none that lasts: each call begins here as the first after boot"
            )

    def left_changed(self) -> list[str]:
        """The per-CPU variables that calls leave changed, and no code here reads."""
        return sorted({self.image.name_of(at).partition("+")[0] for at in self._left})

    # What a verdict rests on.

    def kept(self) -> dict[str, list[list[int]]]:
        """What was seen of the memory: words by address, bytes and site; what a boot writes;
        per-CPU variables, those that are read with the site, and those that are left changed."""
        return {
            "words": [[cell.address, cell.size, site] for cell, site in self._sites.items()],
            "linked": [[at, size] for at, size in self._as_linked.items()],
            "read": [[at, site] for at, site in self._read.items()],
            "left": [[at] for at in sorted(self._left)],
        }

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Take what :meth:`kept` gave as seen.

        Raises KeyError, TypeError and ValueError for anything else, InputError for no such word.
        """
        rows = {name: [[int(n) for n in row] for row in kept[name]] for name in self.kept()}
        for address, size, site in rows["words"]:
            if size not in _SIZES or self.image.section_at(address) is None:
                raise ValueError("words")
            self.cell(address, size, self.image.name_of(site), site)
        self._as_linked |= {row[0]: row[1] for row in rows["linked"]}
        self._read |= {row[0]: row[1] for row in rows["read"]}
        self._left.update(at for (at,) in rows["left"])
        self._check_read()

    def taken_as_linked(self) -> list[str]:
        """What was read, and only a boot writes: ``name = value``."""
        return [
            f"{self.image.name_of(at)} = {int.from_bytes(self.image.read(at, size), 'little'):#x}"
            for at, size in sorted(self._as_linked.items())
            if size in _SIZES
        ]

    def first_values(self) -> list[str]:
        """The shared words except the counters, with the values that they begin with."""
        return [
            f"{cell.symbol}{f'+{cell.number:#x}' if cell.number else ''} = "
            f"{self.first_value(cell) & (1 << 8 * cell.size) - 1:#x}"
            for _, cell in sorted(self._cells.items())
        ]

    def is_current(self, address: int) -> bool:
        """Whether a per-CPU variable is the pointer to the task."""
        return address in self._current

    def cell(self, address: int, size: int, where: str, site: int = 0) -> Cell:
        """The shared word at an address; ``site`` is the instruction that reaches it.

        Raises InputError for one that is reached with different sizes, or across its end.
        """
        if self._is_count(address):
            offset = address - self.counts_base
            if size != COUNT_BYTES or offset % COUNT_BYTES:
                raise InputError(
                    f"{self.image.path_at(site)}: {where} reaches {size} bytes of {self.counts}"
                    f"+{offset:#x}; expected one counter of {COUNT_BYTES} bytes (atomic_t)"
                )
            return Cell(True, offset // COUNT_BYTES, self.counts, address, size)
        if address % size:
            raise InputError(
                f"{self.image.path_at(site)}: {where} reaches {size} bytes at "
                f"{self.image.name_of(address)}, which are not aligned; expected one word, one step"
            )
        for begin in range(address - 7, address + size):
            known = self._cells.get(begin)
            if known is None or known.address + known.size <= address:
                continue
            if (known.address, known.size) != (address, size):
                raise InputError(
                    f"{self.image.path_at(site)}: {where} reaches {size} bytes at "
                    f"{self.image.name_of(address)}, and other code {known.size} bytes at "
                    f"{self.image.name_of(known.address)}; expected one size for each shared word"
                )
            return known
        symbol, offset = self.image.symbol_at(address)
        part = None if symbol is None else self.variables.part(symbol, offset, size, site)
        cell = Cell(False, offset, self._plain(symbol), address, size)
        if part is not None:
            cell = Cell(False, 0, part.name, address, size, part.values)
        self._cells[address] = cell
        self._sites[cell] = site
        return cell

    def name_lock(self, address: int, site: int) -> None:
        """A lock is taken at ``site``: learn its name in C, where DWARF has it."""
        if address in self._locks:
            return
        symbol, offset = self.image.symbol_at(address)
        part = None if symbol is None else self.variables.part(symbol, offset, 0, site)
        self._locks[address] = self._at(address) if part is None else part.name

    def lock_name(self, address: int) -> str:
        """The name of a lock by its address."""
        return self._locks.get(address) or self._at(address)

    def _at(self, address: int) -> str:
        symbol, offset = self.image.symbol_at(address)
        if symbol is None or self.image.section_at(address) is None:
            return self.image.name_of(address)
        return self._plain(symbol) + (f"+{offset:#x}" if offset else "")

    def _plain(self, symbol: Symbol | None) -> str:
        """The name without dots; with the address where another symbol would have the same."""
        if symbol is None:
            return "memory"
        if "." not in symbol.name:
            return symbol.name
        plain = symbol.name.replace(".", "_")
        others = [one for one in self.image.symbols if one.replace(".", "_") == plain]
        return plain if len(others) < 2 else f"{plain}_at_{symbol.address:x}"

    def first_value(self, cell: Cell) -> int:
        """The value of a shared word before any thread runs."""
        return signed(
            int.from_bytes(self.first_bytes(cell.address, cell.size), "little"), cell.size
        )


def is_nowhere(address: int) -> bool:
    """Whether no memory can be at an address: a page fault."""
    return address < _NULL_PAGE or _CANONICAL <= address < (1 << 64) - _CANONICAL


def _is_constant(name: str, writable: bool) -> bool:
    return not writable or name.startswith((".rodata", ".data..ro_after_init", "__"))


def page_of(address: int) -> int:
    """The page frame number whose struct page lies at an address; -1: none lies there."""
    if VMEMMAP <= address < VMEMMAP + STRUCT_PAGE * MEMORY_PAGES:
        return (address - VMEMMAP) // STRUCT_PAGE
    return -1


def signed(value: int, size: int) -> int:
    """An unsigned value of ``size`` bytes as the signed number with the same bits."""
    value &= (1 << 8 * size) - 1
    return value - (1 << 8 * size) if value >> (8 * size - 1) else value
