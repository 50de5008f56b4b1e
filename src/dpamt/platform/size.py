"""Make up a host from a size, such as ``64GiB`` or ``1TiB,nodes=4``.

The map is that of a PC: RAM below 640 KiB (less the first page), RAM from 1 MiB to 2 GiB, the
window for devices up to 4 GiB, the rest of RAM from 4 GiB up.  So a machine of S > 2 GiB ends at
S + 2 GiB.  CMRs are the same from 1 MiB up.  Nodes: one up to 512 GiB, two above, unless given;
node 0 begins at 0, the others follow in equal shares, cut at 1 GiB (at 4 MiB where a share is
smaller).  One package a node.
"""

import re
from itertools import pairwise
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, SIZE_1G
from dpamt.errors import InputError
from dpamt.platform.machine import (
    DEFAULT_CPUS_PER_PACKAGE,
    LOW_MEMORY_BYTES,
    Cmr,
    Machine,
    MemoryBlock,
    Topology,
)

LOW_RAM_END: Final = 2 << 30
HIGH_RAM_START: Final = 4 << 30
LOW_640K: Final = (0x1000, 0x9F000)
"""Usable bytes below 640 KiB, end exclusive: what memblock keeps there on PC firmware."""
ONE_NODE_LIMIT: Final = 512 << 30
MIN_BYTES: Final = 16 << 20
MAX_BYTES: Final = 32 << 40
MAX_NODES: Final = 64
_NODE_ALIGN_SMALL: Final = 4 << 20

_UNITS: Final = {"M": 20, "G": 30, "T": 40}
_SIZE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?([MGT])(?:iB)?", re.IGNORECASE)
_LOOKS_LIKE: Final = re.compile(r"\d+(\.\d+)? ?[a-z]{0,3}", re.IGNORECASE)
_OPTIONS: Final = ("nodes", "packages", "cpus")


def looks_like_size(argument: str) -> bool:
    """Whether the argument was meant as a size: a number, a unit, options after a comma."""
    return _LOOKS_LIKE.fullmatch(argument.partition(",")[0].strip()) is not None


def parse_size(text: str) -> int:
    """Bytes of ``512M``, ``64GiB``, ``1.5TiB`` (binary units, fractions of whole MiB).

    Raises InputError for another form and for a size that no modelled host has.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"memory size {text!r}: expected a number with M, G or T (MiB, GiB, TiB), such as 64GiB"
        )
    whole, _, fraction = match[1].partition(".")
    scaled = int(whole + fraction) << _UNITS[match[2].upper()]
    divisor = int("1" + "0" * len(fraction))
    size = scaled // divisor
    if scaled % divisor or size % LOW_MEMORY_BYTES:
        raise InputError(f"memory size {text!r}: expected a whole number of MiB")
    if not MIN_BYTES <= size <= MAX_BYTES:
        raise InputError(
            f"memory size {text!r}: expected {MIN_BYTES >> 20} MiB to {MAX_BYTES >> 40} TiB"
        )
    return size


def machine_from_size(
    argument: str,
    nodes: int | None = None,
    packages: int | None = None,
    cpus: int | None = None,
) -> Machine:
    """The machine of that size.

    ``argument`` may carry options, ``64GiB,nodes=2,packages=2,cpus=128``, which stand where the
    parameters are None.  Raises InputError for what cannot be read or built.
    """
    size_text, *option_texts = argument.split(",")
    size = parse_size(size_text)
    given = _parse_options(option_texts, argument)
    count = nodes if nodes is not None else given.get("nodes", 1 if size <= ONE_NODE_LIMIT else 2)
    if not 1 <= count <= min(MAX_NODES, size // _NODE_ALIGN_SMALL):
        raise InputError(f"{argument}: nodes={count}; expected 1 to {MAX_NODES}, 4 MiB each")
    sockets = packages if packages is not None else given.get("packages", count)
    processors = given.get("cpus", max(sockets, 1) * DEFAULT_CPUS_PER_PACKAGE)
    memory = _blocks(size, count)
    end = _address(size - 1) + 1
    cmrs = [Cmr(LOW_MEMORY_BYTES, min(end, LOW_RAM_END) - LOW_MEMORY_BYTES)]
    if end > HIGH_RAM_START:
        cmrs.append(Cmr(HIGH_RAM_START, end - HIGH_RAM_START))
    return Machine(
        argument,
        tuple(cmrs),
        memory,
        memory[-1].end_pfn,
        Topology(sockets, cpus if cpus is not None else processors),
    )


def _parse_options(texts: list[str], argument: str) -> dict[str, int]:
    options: dict[str, int] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in _OPTIONS or not re.fullmatch(r"[0-9]{1,5}", value) or name in options:
            raise InputError(
                f"{argument}: option {text.strip()!r}; expected each of "
                f"{', '.join(option + '=N' for option in _OPTIONS)} at most once"
            )
        options[name] = int(value)
    return options


def _address(offset: int) -> int:
    """Physical address of the byte at ``offset`` into the machine's RAM."""
    return offset if offset < LOW_RAM_END else offset + HIGH_RAM_START - LOW_RAM_END


def _blocks(size: int, nodes: int) -> tuple[MemoryBlock, ...]:
    """Memory blocks of the map, cut into nodes."""
    align = SIZE_1G if size // nodes >= SIZE_1G else _NODE_ALIGN_SMALL
    share = size // nodes // align * align
    blocks = [MemoryBlock(LOW_640K[0] >> PAGE_SHIFT, LOW_640K[1] >> PAGE_SHIFT, 0)]
    for nid in range(nodes):
        start = nid * share
        end = size if nid == nodes - 1 else start + share
        start = max(start, LOW_MEMORY_BYTES)
        cuts = [start, end] if not start < LOW_RAM_END < end else [start, LOW_RAM_END, end]
        for low, high in pairwise(cuts):
            first, last = _address(low), _address(high - 1)
            blocks.append(MemoryBlock(first >> PAGE_SHIFT, last + 1 >> PAGE_SHIFT, nid))
    return tuple(blocks)
