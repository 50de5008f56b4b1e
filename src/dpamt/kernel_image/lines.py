"""From the address of an instruction to C: function, file and line, inlined functions too.

Read from DWARF (debugging information standard, version 5: chapters 3.3.8 "Inlined Subroutines" and
6.2 "Line Number Information"), unit by unit as addresses are asked for.
"""

from bisect import bisect_right
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from dpamt.kernel_image.elf import ElfImage


class SourceLine(NamedTuple):
    """A place in C."""

    function: str
    file: str
    line: int


class _Unit(NamedTuple):
    rows: list[tuple[int, str, int]]
    """(address, file, line), by address; file empty: nothing there."""
    functions: list[tuple[list[tuple[int, int]], Any]]
    """Ranges and DIE of each function that has code."""


class Lines:
    """The lines of one image; an image without DWARF has none."""

    def __init__(self, image: ElfImage) -> None:
        self._image = image
        elf = image.elf
        self._dwarf: Any = elf.get_dwarf_info() if elf.has_dwarf_info(strict=True) else None
        self._units: dict[int, _Unit] = {}
        self._aranges: Any = None
        self._tops: list[tuple[list[tuple[int, int]], Any]] | None = None
        self._known: dict[int, tuple[SourceLine, ...]] = {}

    @property
    def there_are(self) -> bool:
        """Whether the image has any."""
        return self._dwarf is not None

    def unit_of(self, address: int) -> Any:
        """The compilation unit that an instruction is part of; None: DWARF has none."""
        return None if self._dwarf is None else self._cu_of(address)

    def at(self, address: int) -> tuple[SourceLine, ...]:
        """The functions that an instruction is part of, innermost (inlined) last."""
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = self._find(address) if self._dwarf is not None else ()
        return known

    def _find(self, address: int) -> tuple[SourceLine, ...]:
        cu = self._cu_of(address)
        if cu is None:
            return ()
        unit = self._units.get(cu.cu_offset)
        if unit is None:
            unit = self._units[cu.cu_offset] = self._read(cu)
        at = bisect_right(unit.rows, (address, "\uffff", 1 << 32)) - 1
        if at < 0 or not unit.rows[at][1]:
            return ()
        file, line = unit.rows[at][1:]
        die = next((die for ranges, die in unit.functions if _is_in(address, ranges)), None)
        if die is None:
            return ()
        files = _files(self._dwarf, cu)
        chain: list[SourceLine] = []
        name = _name(die)
        while True:
            inner = self._inlined_at(cu, die, address)
            if inner is None:
                break
            call = inner.attributes
            where = (
                files.get(call["DW_AT_call_file"].value, "") if "DW_AT_call_file" in call else ""
            )
            chain.append(SourceLine(name, where, call["DW_AT_call_line"].value))
            name, die = _name(inner), inner
        return (*chain, SourceLine(name, file, line))

    def _inlined_at(self, cu: Any, die: Any, address: int) -> Any:
        """The inlined call right inside of a DIE that has the address; None: there is none."""
        pending = list(die.iter_children())
        while pending:
            child = pending.pop()
            if child.tag == "DW_TAG_inlined_subroutine":
                if _is_in(address, _ranges(self._dwarf, cu, child)):
                    return child
            elif child.tag == "DW_TAG_lexical_block":
                pending += child.iter_children()
        return None

    def _cu_of(self, address: int) -> Any:
        if self._aranges is None:
            self._aranges = self._dwarf.get_aranges() or False
        if self._aranges:
            offset = self._aranges.cu_offset_at_addr(address)
            if offset is not None:
                return self._dwarf.get_CU_at(offset)
        if self._tops is None:
            self._tops = [
                (_ranges(self._dwarf, cu, cu.get_top_DIE()), cu) for cu in self._dwarf.iter_CUs()
            ]
        return next((cu for ranges, cu in self._tops if _is_in(address, ranges)), None)

    def _read(self, cu: Any) -> _Unit:
        rows: list[tuple[int, str, int]] = []
        program = self._dwarf.line_program_for_CU(cu)
        files = _files(self._dwarf, cu)
        for entry in program.get_entries() if program is not None else ():
            state = entry.state
            if state is not None:
                name = "" if state.end_sequence else files.get(state.file, "")
                rows.append((state.address, name, state.line))
        rows.sort(key=lambda row: (row[0], bool(row[1])))
        functions = [
            (ranges, die)
            for die in cu.get_top_DIE().iter_children()
            if die.tag == "DW_TAG_subprogram" and (ranges := _ranges(self._dwarf, cu, die))
        ]
        return _Unit(rows, functions)


def _files(dwarf: Any, cu: Any) -> dict[int, str]:
    """Names of the unit's files, by their number in its line program."""
    program = dwarf.line_program_for_CU(cu)
    if program is None:
        return {}
    header = program.header
    first = 0 if header["version"] >= 5 else 1
    return {
        number: PurePosixPath(entry.name.decode("utf-8", "replace")).name
        for number, entry in enumerate(header["file_entry"], first)
    }


def _is_in(address: int, ranges: list[tuple[int, int]]) -> bool:
    return any(begin <= address < end for begin, end in ranges)


def _name(die: Any) -> str:
    for _ in range(4):
        if "DW_AT_name" in die.attributes:
            return str(die.attributes["DW_AT_name"].value.decode("utf-8", "replace"))
        for link in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if link in die.attributes:
                die = die.get_DIE_from_attribute(link)
                break
        else:
            break
    return "?"


def _ranges(dwarf: Any, cu: Any, die: Any) -> list[tuple[int, int]]:
    """The addresses of a DIE's code."""
    attributes = die.attributes
    if "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
        low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
        return [(low, high.value if high.form == "DW_FORM_addr" else low + high.value)]
    if "DW_AT_ranges" not in attributes:
        return []
    from elftools.dwarf.ranges import BaseAddressEntry

    top = cu.get_top_DIE().attributes
    base = top["DW_AT_low_pc"].value if "DW_AT_low_pc" in top else 0
    lists = dwarf.range_lists()
    found = []
    for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, cu):
        if isinstance(entry, BaseAddressEntry):
            base = entry.base_address
            continue
        start = 0 if getattr(entry, "is_absolute", False) else base
        found.append((start + entry.begin_offset, start + entry.end_offset))
    return found
