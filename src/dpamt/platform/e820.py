"""Read a host from bare e820 lines, as ``dmesg | grep BIOS-e820`` gives them."""

import re
from typing import Final

from dpamt.platform.lines import Line, address, refuse
from dpamt.platform.log_lines import is_command, log_lines
from dpamt.platform.machine import Machine
from dpamt.platform.memory_map import MapEntry, machine_from_map, not_convertible

MARKER: Final = "BIOS-e820:"

USABLE_TYPES: Final = frozenset({"usable", "system ram"})
"""How Linux has named RAM: until and since the table prints of Linux 6.16
(arch/x86/kernel/e820.c)."""

OTHER_TYPES: Final = frozenset(
    {
        "reserved",
        "device reserved",
        "soft reserved",
        "acpi data",
        "acpi nvs",
        "unusable",
    }
)
"""The other names it prints, in lower case; ``type N`` and ``persistent ... (type N)`` as well."""

_EXPECTED: Final = (
    "[mem 0x<start>-0x<last byte>] and a type: usable (or System RAM), reserved, ACPI data, "
    "ACPI NVS, unusable, soft reserved, persistent (type N), type N"
)
_ENTRY: Final = re.compile(r"\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\]\s+(\S.*)", re.IGNORECASE)
_GAP: Final = re.compile(r"\[gap 0x[0-9a-f]+-0x[0-9a-f]+\]", re.IGNORECASE)
_NUMBERED_TYPE: Final = re.compile(r"(persistent (ram )?\()?type \d+\)?")


def parse_entry(text: str, source: str, line: Line) -> MapEntry | None:
    """One e820 entry, from the text after ``BIOS-e820:``; None for a ``[gap ...]`` line.

    Raises InputError, naming the line, for anything else and for a range that ends before it
    begins.
    """
    text = text.strip()
    if _GAP.fullmatch(text):
        return None
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise refuse(source, line.number, line.text.strip(), _EXPECTED)
    kind = match[3].lower()
    usable = kind in USABLE_TYPES
    if not usable and kind not in OTHER_TYPES and _NUMBERED_TYPE.fullmatch(kind) is None:
        raise refuse(source, line.number, line.text.strip(), _EXPECTED)
    start, last = address(match[1], source, line), address(match[2], source, line)
    if last < start:
        raise refuse(
            source, line.number, line.text.strip(), "a range whose last byte is not below its first"
        )
    return MapEntry(start, last + 1, usable, line.number)


def is_soft_reserved(text: str) -> bool:
    """Whether an entry is memory that Linux leaves to a driver: soft reserved, or persistent."""
    kind = text.lower()
    return "soft reserved" in kind or "persistent" in kind


def machine_from_e820(text: str, source: str) -> Machine:
    """The machine that e820 lines describe: one node, CMRs derived from the map.

    Lines are ``[mem 0x...-0x...] type`` with or without ``BIOS-e820:`` and what stands before it;
    empty lines and ``#`` comments are skipped.  Raises InputError for any other line.
    """
    entries: list[MapEntry] = []
    soft: list[MapEntry] = []
    for line in log_lines(text, source):
        content = line.text.partition(MARKER)[2] if MARKER in line.text else line.text
        if not content.strip() or content.lstrip().startswith("#") or is_command(line.text):
            continue
        entry = parse_entry(content, source, line)
        if entry is not None:
            entries.append(entry)
            if is_soft_reserved(content):
                soft.append(entry)
    return machine_from_map(source, entries, "usable", not_convertible(soft, []))
