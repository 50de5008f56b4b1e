"""What TDs take on a host: pages by kind, and how many page pairs those need.

The pages are exact: `dpamt run` arrives at the same, page for page.  How many 2M regions they lie
in is not a matter of counting but of where the page allocator puts them, hence four figures:

- minimum: packed as densely as possible;
- fresh: on a host that has just booted, where single pages come off one 2M region after another,
  with the pairs' own pages between them;
- scattered: single pages picked at random among all that there are, as after long fragmentation;
- worst: each single page in a region of its own, as long as there are regions.

A region of which only a part is memory counts with its usable pages, and no number is above the
regions of the host.

A 2M range that is backed by a folio lies in one region whatever its pages are mapped at, so only
ranges of TDs without 2M pages, control pages and S-EPT pages are single pages.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from math import expm1, log1p

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M, PAMT_PAIR_PAGES, SIZE_2M
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.host.designs.base import SEPT_CACHE_PAGES
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

    def kvm_bytes(self, dynamic: bool) -> int:
        """Memory that KVM takes beside them and that needs no pair.

        A mirror page table for each S-EPT page and each root (kvm_mmu_page of a mirror root), a
        pool of S-EPT pages for each VCPU, and under Dynamic PAMT a pool of pairs' pages, 10 a VCPU.
        Sources: Linux arch/x86/kvm/mmu/mmu.c, mmu_topup_memory_caches(); v6 07/11.
        """
        pooled = SEPT_CACHE_PAGES + (PAMT_PAIR_PAGES * PT64_ROOT_MAX_LEVEL if dynamic else 0)
        return self.sept + self.tds + self.vcpus * pooled << PAGE_SHIFT


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


Capacities = tuple[tuple[int, int], ...]
"""Usable 4K pages of a 2M region, and how many regions have that many; the largest first.

Memory does not keep to 2M borders: a region of which only 1 MiB is memory has 256 usable pages.
"""


def pairs_of(pages: TdPages, capacities: Capacities, fresh: int) -> Pairs:
    """Pairs of those pages on a host of these regions, where they are ``fresh`` at first.

    Never more than there are regions: of a mix that does not fit, what fits counts.
    """
    whole = sum(count for pages_each, count in capacities if pages_each == PAGES_PER_2M)
    folios = min(pages.folio_ranges, whole)
    taken = min(folios + pages.guest_2m, whole)
    left = [(each, count - (taken if each == PAGES_PER_2M else 0)) for each, count in capacities]
    left = [(each, count) for each, count in left if count]
    regions = sum(count for _each, count in left)
    single = pages.single
    minimum = folios + _fewest(single, left)
    worst = folios + min(single, regions)
    scattered = folios + round(_spread(single, left))
    return Pairs(
        minimum, max(minimum, min(fresh, worst)), max(minimum, min(scattered, worst)), worst
    )


def _fewest(pages: int, left: list[tuple[int, int]]) -> int:
    """The fewest regions that these pages need: the fullest regions first."""
    regions = 0
    for each, count in left:
        take = min(count, -(-pages // each))
        regions += take
        pages -= take * each
        if pages <= 0:
            break
    return regions


def _spread(pages: int, left: list[tuple[int, int]]) -> float:
    """Regions that these pages, each picked at random among all, are expected to lie in."""
    total = sum(each * count for each, count in left)
    if not pages or not total:
        return 0.0
    if len(left) == 1 and left[0][1] == 1:
        return 1.0
    return sum(-count * expm1(pages * log1p(-each / total)) for each, count in left)


def occupied(pages: float, regions: int) -> float:
    """Regions that these pages, each in a region picked at random, are expected to lie in."""
    if regions <= 1:
        return float(regions) if pages else 0.0
    return -regions * expm1(pages * log1p(-1 / regions))
