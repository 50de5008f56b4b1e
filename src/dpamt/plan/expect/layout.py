"""Where the private memory of a TD lies in its guest addresses: this decides its S-EPT pages.

A guest has 48-bit addresses here, so the S-EPT has a root (one of the TDCX pages) and three levels
of pages below it: one page for each 512G, each 1G and each 2M range that memory reaches into.  A 2M
range that is mapped as one 2M page has no S-EPT page of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import PAGES_PER_2M, SIZE_1G, SIZE_2M

GpaRange = tuple[int, int]
"""First byte and bytes, whole 2M."""

_4G: Final = 4 << 30
_Q35_SPLIT_FROM: Final = 0xB000_0000
_Q35_LOW: Final = 2 << 30
FIRMWARE_BYTES: Final = 4 << 20
"""What ends below 4 GiB in the q35 layout: the usual size of a TDVF image."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout by name; ``ranges_of(memory)`` gives the ranges, ascending, of that many bytes."""

    name: str
    about: str
    ranges_of: Callable[[int], tuple[GpaRange, ...]]


def _contiguous(memory: int) -> tuple[GpaRange, ...]:
    return ((0, memory),)


def _q35(memory: int) -> tuple[GpaRange, ...]:
    """Source: QEMU hw/i386/pc_q35.c (below 4G: all memory up to 2.75 GiB, else 2 GiB)."""
    low = memory if memory < _Q35_SPLIT_FROM else _Q35_LOW
    ranges = [(0, low), (_4G - FIRMWARE_BYTES, FIRMWARE_BYTES)]
    if memory > low:
        ranges.append((_4G, memory - low))
    return tuple(ranges)


LAYOUTS: Final = {
    layout.name: layout
    for layout in (
        Layout("contiguous", "from guest address 0 on, as `dpamt run` has it", _contiguous),
        Layout("q35", "QEMU's q35 machine, and 4 MiB of firmware below 4 GiB", _q35),
    )
}


def ranges_2m(layout: Layout, memory: int) -> int:
    """2M ranges of guest addresses that hold the memory of such a TD, and its firmware."""
    return sum(size for _start, size in layout.ranges_of(memory)) // SIZE_2M


def upper_sept_pages(layout: Layout, memory: int) -> int:
    """S-EPT pages above those of 2M ranges, with all of the memory in use."""
    gigabytes = {
        index
        for start, size in layout.ranges_of(memory)
        for index in range(start // SIZE_1G, -(-(start + size) // SIZE_1G))
    }
    return len(gigabytes) + len({index // PAGES_PER_2M for index in gigabytes})


LEAST_UPPER_SEPT_PAGES: Final = 2
"""One page in use needs a page of the 512G and one of the 1G level."""
