"""Where Dynamic PAMT stops paying: how much memory in 4K-mapped TDs makes it cost what static does.

Static PAMT is one number.  Dynamic PAMT is its size at idle and 8 KiB for each 2M region that holds
a 4K page of a TD, so what counts is regions, and the same memory may lie in few of them or in many.
"""

from dataclasses import dataclass
from math import log1p
from typing import Final

from dpamt.abi.pages import PAGE_SIZE, PAGES_PER_2M, SIZE_2M
from dpamt.plan.host_size import PAIR_BYTES, HostSize
from dpamt.plan.td_size import occupied

_WITH_SEPT: Final = (PAGES_PER_2M + 1) / PAGES_PER_2M
"""4K pages that a 4K page of a guest brings with it: its share of an S-EPT page."""

_POINTS: Final = 100


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Bytes of Dynamic PAMT with this share of the memory in TDs that are mapped at 4K."""

    share: float
    packed: int
    scattered: int


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The point, in ways to look at it.  None stands for: never, however much there is."""

    pairs: int
    """Page pairs at which both modes cost the same; 0 or less where Dynamic PAMT costs more idle.
    """
    regions: int
    packed: float | None
    """Share of the memory that TDs can get, whole 2M regions of it mapped at 4K."""
    scattered: float | None
    """The same share, each page in a region picked at random."""
    one_each: float | None
    """The same share, each page in a region of its own."""
    curve: tuple[CurvePoint, ...]


def break_even(host: HostSize) -> BreakEven:
    """The point for this host, and the curve to it."""
    pairs = (host.static.total - host.dynamic.total) // PAIR_BYTES
    pages = host.tdx_bytes / PAGE_SIZE * _WITH_SEPT
    packed = scattered = one_each = None
    if pairs <= 0:
        packed = scattered = one_each = 0.0
    elif pairs < host.regions:
        packed = pairs * PAGES_PER_2M / pages
        scattered = log1p(-pairs / host.regions) / log1p(-1 / host.regions) / pages
        one_each = pairs / pages
    return BreakEven(
        pairs,
        host.regions,
        packed if packed is not None and packed <= 1 else None,
        scattered if scattered is not None and scattered <= 1 else None,
        one_each,
        tuple(_point(host, index / _POINTS) for index in range(_POINTS + 1)),
    )


def _point(host: HostSize, share: float) -> CurvePoint:
    pages = share * host.tdx_bytes / PAGE_SIZE * _WITH_SEPT
    packed = min(round(share * host.tdx_bytes / SIZE_2M * _WITH_SEPT), host.regions)
    scattered = max(packed, round(occupied(pages, host.regions)))
    idle = host.dynamic.total
    return CurvePoint(share, idle + packed * PAIR_BYTES, idle + scattered * PAIR_BYTES)
