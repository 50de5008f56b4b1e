"""Pages of a TD in the order in which KVM lets them go, by runs; changes nothing."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.plan.ageing.tds import Part, Td

Frames = NDArray[np.uint32]
"""Page frames or regions, one-dimensional."""


def stretches(td: Td, first: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Cut [first, end) where it changes whether ranges have a part: (start, stop, has parts)."""
    position = first
    inside = sorted(index for index in td.parts if first <= index < end)
    begin = 0
    while begin < len(inside):
        start = stop = inside[begin]
        while begin < len(inside) and inside[begin] == stop:
            stop += 1
            begin += 1
        if position < start:
            yield position, start, False
        yield start, stop, True
        position = stop
    if position < end:
        yield position, end, False


def runs_of(regions: Frames) -> Iterator[tuple[int, int]]:
    """Regions that follow one another, empty ranges (0) left out: (first, how many)."""
    regions = regions[regions != 0].astype(np.int64)
    if len(regions):
        starts = np.flatnonzero(np.diff(regions, prepend=-1) != 1)
        sizes = np.diff(starts, append=len(regions))
        yield from zip(regions[starts].tolist(), sizes.tolist(), strict=True)


def puts_of(
    parts: Sequence[Part], low: int = 0, high: int = PAGES_PER_2M
) -> Iterator[tuple[int, int]]:
    """The puts of the mapped single pages of these slots of each part, neighbours in one region
    as one: (region, pages).
    """
    if not parts:
        return
    pages, mapped = _pages(parts, low, high), b"".join(part.mapped[low:high] for part in parts)
    regions, counts = region_runs(pages[np.frombuffer(mapped, np.uint8) != 0])
    yield from zip(regions.tolist(), counts.tolist(), strict=True)


def region_runs(pages: Frames) -> tuple[Frames, NDArray[np.int64]]:
    """From pages to regions: the region of each run of pages that share one, and its pages.

    A region comes as often as it is come back to; :func:`numpy.bincount` of the first by the second
    is what it counts in all.
    """
    if not len(pages):
        return pages, np.zeros(0, np.int64)
    regions = pages >> np.uint32(PAGES_PER_2M.bit_length() - 1)
    changes = np.flatnonzero(regions[1:] != regions[:-1])
    starts = np.zeros(len(changes) + 1, np.int64)
    np.add(changes, 1, out=starts[1:])
    counts = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=counts[:-1])
    counts[-1] = len(pages) - starts[-1]
    return regions[starts], counts


def singles_of(parts: Sequence[Part], low: int = 0, high: int = PAGES_PER_2M) -> Frames:
    """The single pages that guest_memfd holds in these slots of each part."""
    pages = _pages(parts, low, high)
    held: Frames = pages[pages != 0]
    return held


def _pages(parts: Sequence[Part], low: int, high: int) -> Frames:
    held = [part.pages[low:high] for part in parts if part.pages is not None]
    return np.concatenate([np.frombuffer(pages, np.uint32) for pages in held])
