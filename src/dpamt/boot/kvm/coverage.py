"""Which lines of KVM's TDX code ran: QEMU's log of the code it translated, held against DWARF.

TCG translates a block of the guest's code when it is about to run it, and ``-d in_asm`` writes each
instruction of it down, once.  So the log is the set of instructions that ran (the last block of a
path that faults in its middle counts whole), and it costs next to nothing.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage

SOURCE: Final = "arch/x86/kvm/vmx/tdx.c"
MODULES_AREA: Final = (0xFFFF_FFFF_A000_0000, 64 << 20)
"""Where Linux loads modules without KASLR (MODULES_VADDR), and how much of it is logged."""
_INSTRUCTION: Final = re.compile(rb"^0x([0-9a-f]{8,16}): ", re.MULTILINE)
_SECTION: Final = re.compile(r"^dpamt: section (\S+) (0x[0-9a-f]+)$")


@dataclass(frozen=True, slots=True)
class FunctionCoverage:
    """One function: its lines with code, and which of them ran."""

    name: str
    lines: frozenset[int]
    ran: frozenset[int]


@dataclass(frozen=True, slots=True)
class Coverage:
    """The file's functions, in its order."""

    source: str
    functions: tuple[FunctionCoverage, ...]

    @property
    def lines(self) -> int:
        """Lines with code."""
        return len({line for one in self.functions for line in one.lines})

    @property
    def ran(self) -> int:
        """Those that ran."""
        return len({line for one in self.functions for line in one.ran})


def sections_said(console: Iterable[str]) -> dict[str, int]:
    """Where the sections of kvm-intel.ko were loaded, as the VMM printed it."""
    found = (_SECTION.match(line) for line in console)
    return {match[1]: int(match[2], 16) for match in found if match is not None}


def instructions_in(log: bytes) -> set[int]:
    """The addresses in QEMU's log."""
    return {int(match[1], 16) for match in _INSTRUCTION.finditer(log)}


def coverage_of(module: Path, loaded: dict[str, int], executed: set[int]) -> Coverage:
    """Lines of tdx.c that ran.  Raises InputError for a module without line information."""
    image = ElfImage(module)
    elf = image.elf
    if not elf.has_dwarf_info(strict=True):
        raise InputError(
            f"{module}: no debug information; expected kvm-intel.ko with it, or --build for one"
        )
    at = _file_addresses(image, loaded, executed)
    dwarf = elf.get_dwarf_info()
    for unit in dwarf.iter_CUs():
        name = unit.get_top_DIE().attributes.get("DW_AT_name")
        if name is not None and name.value.decode(errors="replace").endswith(SOURCE):
            return Coverage(SOURCE, tuple(_functions(image, dwarf, unit, at)))
    raise InputError(f"{module}: no unit {SOURCE} in its debug information; expected KVM for TDX")


def _file_addresses(image: ElfImage, loaded: dict[str, int], executed: set[int]) -> list[int]:
    """Executed addresses as the image has them: section by section."""
    found = []
    for section in image.sections:
        base = loaded.get(section.name)
        if base is None or not section.executable:
            continue
        move = section.address - base
        found += [a + move for a in executed if base <= a < base + section.size]
    return sorted(found)


def _functions(image: ElfImage, dwarf: Any, unit: Any, at: list[int]) -> list[FunctionCoverage]:
    program = dwarf.line_program_for_CU(unit)
    wanted = _file_numbers(program)
    lines: dict[str, set[int]] = {}
    ran: dict[str, set[int]] = {}
    first: dict[str, int] = {}
    before: Any = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        has_code = before is not None and before.address < state.address
        if has_code and before.file in wanted and before.line:
            symbol, _ = image.symbol_at(before.address)
            name = symbol.name.partition(".")[0] if symbol is not None else "?"
            lines.setdefault(name, set()).add(before.line)
            first[name] = min(first.get(name, before.line), before.line)
            next_at = bisect_right(at, before.address - 1)
            if next_at < len(at) and at[next_at] < state.address:
                ran.setdefault(name, set()).add(before.line)
        before = None if state.end_sequence else state
    ordered = sorted(lines, key=lambda name: first[name])
    return [
        FunctionCoverage(name, frozenset(lines[name]), frozenset(ran.get(name, ())))
        for name in ordered
    ]


def _file_numbers(program: Any) -> set[int]:
    """The numbers that a line program gives to tdx.c (DWARF 5 counts files from 0)."""
    header = program.header
    first = 0 if header["version"] >= 5 else 1
    wanted = Path(SOURCE).name
    return {
        number
        for number, entry in enumerate(header["file_entry"], first)
        if entry.name.decode(errors="replace").endswith(wanted)
    }
