"""What TDs take on a host: pages by kind, and how many page pairs those need.

The pages are exact: `dpamt run` arrives at the same, page for page.  How many 2M regions they lie
in is not a matter of counting but of where the page allocator puts them, hence four figures:

- minimum: packed as densely as can be;
- fresh: on a host that has just booted, where single pages come off one 2M region after another,
  with the pairs' own pages between them;
- scattered: each single page in a region picked at random, as after long fragmentation;
- worst: each single page in a region of its own, as long as there are regions.

A 2M range that is backed by a folio lies in one region whatever its pages are mapped at, so only
ranges of TDs without 2M pages, control pages and S-EPT pages are single pages.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from math import expm1, log1p

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M, SIZE_2M
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.plan.mix import IMAGE_BYTES, TdMix


@dataclass(frozen=True, slots=True)
class TdPages:
    """Pages of TDs.  ``folio_ranges`` of the 4K ranges are backed by a 2M folio each."""

    tds: int
    control: int
    """TDR, TDCX and TDVPR pages."""
    sept: int
    guest_4k: int
    guest_2m: int
    folio_ranges: int
    vcpus: int

    @property
    def single(self) -> int:
        """4K pages in use that the page allocator places one by one."""
        return self.control + self.sept + self.guest_4k - self.folio_ranges * PAGES_PER_2M

    @property
    def bytes(self) -> int:
        """Memory that they take, pairs not counted."""
        return (self.control + self.sept + self.guest_4k << PAGE_SHIFT) + self.guest_2m * SIZE_2M


@dataclass(frozen=True, slots=True)
class Pairs:
    """Page pairs of TDs: see the head of this file."""

    minimum: int
    fresh: int
    scattered: int
    worst: int


def small_ranges(ranges: int, image: int, share_2m: float) -> tuple[int, int]:
    """Of a TD's 2M ranges, those that are mapped at 4K, and its S-EPT pages.

    The ``image`` ranges at its beginning are, and of the rest what ``share_2m`` leaves.
    """
    small = ranges - round(share_2m * (ranges - min(image, ranges)))
    # One S-EPT page for each 2M range at 4K, and one for each 1G and 512G that memory reaches into;
    # the root is one of the TDCX pages.
    per_1g = -(-ranges // PAGES_PER_2M)
    return small, small + per_1g + -(-per_1g // PAGES_PER_2M)


def pages_of(mix: TdMix, sysinfo: TdxSysInfo) -> TdPages:
    """The pages of all TDs of one kind, all of their memory in use."""
    ranges = mix.memory // SIZE_2M
    small, sept = small_ranges(ranges, -(-IMAGE_BYTES // SIZE_2M), mix.share_2m)
    guest_2m = ranges - small
    control = 1 + sysinfo.tdcs_pages + mix.vcpus * (1 + sysinfo.tdcx_pages_per_vcpu)
    count = mix.count
    return TdPages(
        tds=count,
        control=count * control,
        sept=count * sept,
        guest_4k=count * small * PAGES_PER_2M,
        guest_2m=count * guest_2m,
        folio_ranges=count * small if mix.share_2m else 0,
        vcpus=count * mix.vcpus,
    )


def all_pages(parts: Iterable[TdPages]) -> TdPages:
    """The sum of one part or more."""
    sums = (sum(column) for column in zip(*map(astuple, parts), strict=True))
    return TdPages(*sums)


def pairs_of(pages: TdPages, regions: int, fresh: int) -> Pairs:
    """Pairs of those pages on a host of so many 2M regions, where they are ``fresh`` at first."""
    folios, single = pages.folio_ranges, pages.single
    free = max(regions - folios - pages.guest_2m, 0)
    minimum = folios + -(-single // PAGES_PER_2M)
    scattered = folios + round(occupied(single, free))
    worst = folios + min(single, free)
    return Pairs(
        minimum, max(minimum, min(fresh, worst)), max(minimum, min(scattered, worst)), worst
    )


def occupied(pages: float, regions: int) -> float:
    """Regions that so many pages, each in a region picked at random, are expected to lie in."""
    if regions <= 1:
        return float(regions) if pages else 0.0
    return -regions * expm1(pages * log1p(-1 / regions))
