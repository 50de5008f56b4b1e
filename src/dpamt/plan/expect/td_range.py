"""Pages of one TD of which only the size is known: the least and the most that can be in use.

Control pages are exact.  Of the guest's memory between a low and a high share is in use:

- least: the low share, its pages side by side (at least the one page that building a TD adds);
- most: the high share, its pages spread over as many 2M ranges as there are, so that each has its
  S-EPT page.

With 2M pages, the ranges in use are mapped as ``share_2m`` says, the image's range always at 4K,
as `dpamt run` and `dpamt plan` do it.
"""

from dataclasses import dataclass
from math import ceil, floor

from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.designs.base import Design
from dpamt.plan.expect.layout import (
    LEAST_UPPER_SEPT_PAGES,
    Layout,
    ranges_2m,
    upper_sept_pages,
)
from dpamt.plan.mix import TdMix
from dpamt.plan.td_size import TdPages


@dataclass(frozen=True, slots=True)
class InUse:
    """Shares, 0 to 1, of the guest's memory that are in use: at least, and at most."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class TdRange:
    """TDs of one kind, between two bounds."""

    least: TdPages
    most: TdPages


def td_range(
    mix: TdMix, sysinfo: TdxSysInfo, design: Design, layout: Layout, in_use: InUse
) -> TdRange:
    """The pages of ``mix`` at least and at most."""
    ranges = ranges_2m(layout, mix.memory)
    upper = upper_sept_pages(layout, mix.memory)
    least = _pages(mix, sysinfo, ranges, upper, in_use.least, low=True)
    most = _pages(mix, sysinfo, ranges, upper, in_use.most, low=False)
    if design.sept_backing == "top-up":
        # Pages that wait in a VCPU's pool have their PAMT already: up to all that it holds.
        most = _with_more_sept(most, mix.count * mix.vcpus * design.sept_cache_pages)
    return TdRange(least, most)


def _pages(
    mix: TdMix, sysinfo: TdxSysInfo, ranges: int, upper: int, share: float, low: bool
) -> TdPages:
    """The bound of one side; ``low``: the least."""
    exact, packed = (floor, True) if low else (ceil, share in (0, 1))
    control = 1 + sysinfo.tdcs_pages + mix.vcpus * (1 + sysinfo.tdcx_pages_per_vcpu)
    count = mix.count
    if mix.share_2m:
        used = max(1, exact(share * ranges))
        in_all = round(mix.share_2m * (ranges - 1))
        # Which of the ranges are in use is not known: the large ones first, or last.
        huge = min(used - 1, in_all) if low else max(0, used - (ranges - in_all))
        small, guest_4k = used - huge, (used - huge) * PAGES_PER_2M
        if used == 1 and not share:
            guest_4k = 1
    else:
        huge = 0
        guest_4k = max(1, exact(share * ranges * PAGES_PER_2M))
        small = -(-guest_4k // PAGES_PER_2M) if packed else min(guest_4k, ranges)
        used = small
    if packed and used < ranges:
        per_1g = -(-used // PAGES_PER_2M)
        upper = min(upper, max(LEAST_UPPER_SEPT_PAGES, per_1g + -(-per_1g // PAGES_PER_2M)))
    return TdPages(
        tds=count,
        control=count * control,
        sept=count * (small + upper),
        guest_4k=count * guest_4k,
        guest_2m=count * huge,
        folio_ranges=count * (guest_4k // PAGES_PER_2M) if mix.share_2m else 0,
        vcpus=count * mix.vcpus,
    )


def _with_more_sept(pages: TdPages, more: int) -> TdPages:
    return TdPages(
        tds=pages.tds,
        control=pages.control,
        sept=pages.sept + more,
        guest_4k=pages.guest_4k,
        guest_2m=pages.guest_2m,
        folio_ranges=pages.folio_ranges,
        vcpus=pages.vcpus,
    )


def whole_memory_bytes(mix: TdMix, layout: Layout) -> int:
    """Guest memory of one TD with its firmware."""
    return ranges_2m(layout, mix.memory) * SIZE_2M
