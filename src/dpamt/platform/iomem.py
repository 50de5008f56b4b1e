"""Read a host from /proc/iomem."""

import re
from typing import Final

from dpamt.errors import InputError
from dpamt.platform.lines import address, refuse, split_lines
from dpamt.platform.machine import Machine
from dpamt.platform.memory_map import MapEntry, machine_from_map

LINE: Final = re.compile(r"( *)([0-9a-f]+)-([0-9a-f]+) : (\S.*)")
"""indentation, first byte, last byte, name."""

SYSTEM_RAM: Final = "System RAM"

FIRMWARE_NAMES: Final = frozenset(
    {
        "Reserved",
        "reserved",
        "Soft Reserved",
        "ACPI Tables",
        "ACPI Non-volatile Storage",
        "Unusable memory",
        "Unknown E820 type",
    }
)
"""Top-level names that stand for e820 entries other than RAM (Linux arch/x86/kernel/e820.c)."""

_EXPECTED: Final = "<first>-<last> : <name>, addresses in hexadecimal, as in /proc/iomem"


def machine_from_iomem(text: str, source: str) -> Machine:
    """The machine that /proc/iomem describes: one node, CMRs derived from the map.

    Only top-level ``System RAM`` is memory.  Raises InputError for a line of another form, and for
    a file read without root, in which every address is zero.
    """
    entries: list[MapEntry] = []
    for line in split_lines(text):
        if not line.text.strip():
            continue
        match = LINE.fullmatch(line.text.rstrip())
        if match is None:
            raise refuse(source, line.number, line.text.strip(), _EXPECTED)
        indentation, name = match[1], match[4]
        if not line.ended and name != SYSTEM_RAM and name not in FIRMWARE_NAMES:
            raise refuse(
                source,
                line.number,
                line.text.strip(),
                "a newline at the end: the file is cut in the middle of a line",
            )
        start, last = address(match[2], source, line), address(match[3], source, line)
        if last < start:
            raise refuse(
                source,
                line.number,
                line.text.strip(),
                "a range whose last byte is not below its first",
            )
        if indentation or (name != SYSTEM_RAM and name not in FIRMWARE_NAMES):
            continue
        if name == SYSTEM_RAM and last == 0:
            raise InputError(
                f"{source}:{line.number}: the addresses are all zero, as the kernel shows them "
                "without root; expected /proc/iomem read by root (sudo cat /proc/iomem)"
            )
        if last > 0:
            entries.append(MapEntry(start, last + 1, name == SYSTEM_RAM, line.number))
    return machine_from_map(source, entries, SYSTEM_RAM)
