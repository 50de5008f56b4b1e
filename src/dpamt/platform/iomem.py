"""Read a host from /proc/iomem."""

import re
from typing import Final

from dpamt.abi.pages import PAGE_SIZE
from dpamt.errors import InputError
from dpamt.platform.lines import address, refuse
from dpamt.platform.log_lines import is_command, log_lines
from dpamt.platform.machine import Machine
from dpamt.platform.memory_map import MapEntry, machine_from_map, not_convertible

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


KMEM: Final = "System RAM (kmem)"
"""What drivers/dax/kmem.c calls memory of a device that it puts online."""

DEVICE_MEMORY: Final = re.compile(r"CXL Window \d+|Soft Reserved|Persistent Memory.*")
"""Names of memory that is left to a driver, at any depth."""


def machine_from_iomem(text: str, source: str) -> Machine:
    """The machine that /proc/iomem describes: one node, CMRs derived from the map.

    Only top-level ``System RAM`` is memory.  What a driver has put online ("System RAM (kmem)") is
    counted in max_pfn and noted.  Raises InputError for a line of another form, and for a file read
    without root, in which every address is zero.
    """
    entries: list[MapEntry] = []
    device: list[MapEntry] = []
    online: list[MapEntry] = []
    for line in log_lines(text, source):
        if not line.text.strip() or is_command(line.text):
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
        entry = MapEntry(start, last + 1, name == SYSTEM_RAM, line.number)
        if name == KMEM:
            online.append(entry)
        elif DEVICE_MEMORY.fullmatch(name) and last and not _inside(entry, device):
            device.append(entry)
        if indentation or (name != SYSTEM_RAM and name not in FIRMWARE_NAMES):
            continue
        if name == SYSTEM_RAM and last == 0:
            raise InputError(
                f"{source}:{line.number}: the addresses are all zero, as the kernel shows them "
                "without root; expected /proc/iomem read by root (sudo cat /proc/iomem)"
            )
        if last > 0:
            entries.append(entry)
    top = max((entry.end for entry in online), default=0) // PAGE_SIZE
    return machine_from_map(source, entries, SYSTEM_RAM, not_convertible(device, online), top)


def _inside(entry: MapEntry, others: list[MapEntry]) -> bool:
    """Whether the last range has this one in it: lines come with what is inside below them."""
    return bool(others) and others[-1].start <= entry.start and entry.end <= others[-1].end
