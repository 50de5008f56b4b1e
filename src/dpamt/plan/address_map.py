"""The physical memory of a host by 2M region, with its TDs placed as on a fresh host.

Regions without memory are left out; the rest, in the order of their addresses, is cut into cells of
equally many regions, so that terabytes fit a picture.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.host.core.kernel import Kernel, Progress
from dpamt.host.kvm.gmem import FOLIO_ORDER
from dpamt.plan.fresh import single_regions
from dpamt.plan.td_size import TdPages
from dpamt.platform.machine import Machine, MemoryBlock

FREE: Final = 0
BOOT_PAMT: Final = 1
PAIR: Final = 2
HUGE: Final = 3
OTHER: Final = 4
KINDS: Final = (
    "no TD, no PAMT",
    "PAMT from boot",
    "4K pages of TDs: a page pair",
    "2M page of a TD",
    "kernel, pair pages, partly free",
)
"""What a region can be; the name of each number."""

BOTH: Final = 5
"""A cell with page pairs among 2M pages."""
CELL_KINDS: Final = (*KINDS, "page pairs among 2M pages")

MAX_CELLS: Final = 4096


@dataclass(frozen=True, slots=True)
class Cell:
    """Regions next to each other: first byte, one past the last, how many of each kind."""

    start: int
    end: int
    counts: tuple[int, ...]

    @property
    def kind(self) -> int:
        """The commonest kind besides free memory; free where that is all."""
        if self.counts[PAIR] and self.counts[HUGE]:
            return BOTH
        used = max(range(1, len(KINDS)), key=lambda kind: self.counts[kind])
        return used if self.counts[used] else FREE


_TELL_EVERY: Final = 1 << 12


def address_map(
    kernel: Kernel, pages: TdPages | None, progress: Progress | None = None
) -> tuple[Cell, ...]:
    """The cells of a host whose kernel has just booted; its free memory is used up.

    ``progress`` is called with the folios placed: millions, on a host of terabytes.
    """
    spans = list(_spans(kernel.memory_list))
    starts = [first for first, _end in spans]
    before = [0]
    for first, end in spans:
        before.append(before[-1] + end - first)
    kinds = bytearray(before[-1])

    def mark(region: int, kind: int) -> None:
        index = bisect_right(starts, region) - 1
        if index >= 0 and region < spans[index][1]:
            kinds[before[index] + region - starts[index]] = kind

    for area in kernel.pamt_areas:
        for region in range(area.pfn // PAGES_PER_2M, -(-(area.pfn + area.pages) // PAGES_PER_2M)):
            mark(region, BOOT_PAMT)
    if pages is not None:
        for region, kind in _folios(kernel, pages, progress):
            mark(region, kind)
        for region in single_regions(kernel.allocator, pages):
            mark(region, PAIR)
    return tuple(_cells(kinds, spans, before))


def aged_map(machine: Machine, regions: bytes) -> tuple[Cell, ...]:
    """The cells of a host that has aged: ``regions`` as an :class:`Ageing` has them."""
    spans = list(_spans(machine.memory))
    before = [0]
    kinds = bytearray()
    for first, end in spans:
        part = regions[first:end].translate(_AGED)
        kinds += part.ljust(end - first, bytes([OTHER]))
        before.append(len(kinds))
    return tuple(_cells(kinds, spans, before))


_AGED: Final = bytes([FREE, PAIR, HUGE, OTHER, *range(4, 256)])
"""From the kinds of :class:`Ageing` to those here."""


def _spans(memory: tuple[MemoryBlock, ...]) -> Iterator[tuple[int, int]]:
    """Runs of regions with memory in them, end exclusive, ascending."""
    first = end = 0
    for entry in memory:
        start, stop = entry.start_pfn // PAGES_PER_2M, -(-entry.end_pfn // PAGES_PER_2M)
        if start > end or not end:
            if end:
                yield first, end
            first = start
        end = max(end, stop)
    if end:
        yield first, end


def _folios(kernel: Kernel, pages: TdPages, progress: Progress | None) -> Iterator[tuple[int, int]]:
    """Regions of folios, those at 4K spread evenly among those at 2M."""
    total = pages.folio_ranges + pages.guest_2m
    at_4k = 0
    for number in range(1, total + 1):
        base = kernel.allocator.alloc_pages(FOLIO_ORDER, "plan")
        if base is None:
            return
        if progress is not None and not number % _TELL_EVERY:
            progress("placing TDs", number, total)
        if number * pages.folio_ranges // total > at_4k:
            at_4k += 1
            yield base // PAGES_PER_2M, PAIR
        else:
            yield base // PAGES_PER_2M, HUGE


def _cells(kinds: bytearray, spans: list[tuple[int, int]], before: list[int]) -> Iterator[Cell]:
    size = -(-len(kinds) // MAX_CELLS)

    def address(position: int) -> int:
        index = bisect_right(before, position) - 1
        return (spans[index][0] + position - before[index]) * SIZE_2M

    for start in range(0, len(kinds), size):
        part = kinds[start : start + size]
        counts = tuple(part.count(kind) for kind in range(len(KINDS)))
        yield Cell(address(start), address(start + len(part) - 1) + SIZE_2M, counts)
