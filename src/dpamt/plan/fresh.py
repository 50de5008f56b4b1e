"""Page pairs on a host that has just booted, from the page allocator that its kernel left behind.

Nothing of KVM is repeated here: the folios and the single pages are taken from the real
allocator, and the regions counted that the single pages come from.  In what order control, S-EPT,
pool and pair pages follow one another is left open, so the number may be a few off what a run has.
"""

from collections.abc import Iterator
from typing import Final

from dpamt.abi.pages import PAGES_PER_2M, PAMT_PAIR_PAGES
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.host.designs.base import SEPT_CACHE_PAGES
from dpamt.plan.td_size import TdPages
from dpamt.platform.page_allocator import PageAllocator

_POOLED_PER_VCPU: Final = SEPT_CACHE_PAGES + PAMT_PAIR_PAGES * PT64_ROOT_MAX_LEVEL
"""Pages that wait in the pools of a VCPU: S-EPT pages and pairs."""

_TAKEN: Final = 1 << 19
"""Single pages that are taken one by one.  By then the small free chunks are used up, and what
follows comes off one whole 2M region after another."""

_SITE: Final = "plan"


def fresh_pairs(allocator: PageAllocator, pages: TdPages) -> int:
    """Pairs of these pages; ``allocator`` is used up.  Memory that is not there is not counted."""
    taken = _Taken()
    regions = set(taken.regions(allocator, pages))
    pairs = pages.folio_ranges + len(regions)
    if taken.short:
        return pairs
    # p further pairs take 2 p pages themselves: 512 p = rest + 2 p.
    rest = max(_single(pages) + PAMT_PAIR_PAGES * pairs - taken.pages, 0)
    return pairs + -(-rest // (PAGES_PER_2M - PAMT_PAIR_PAGES))


def single_regions(allocator: PageAllocator, pages: TdPages) -> Iterator[int]:
    """The 2M regions that single pages of TDs, pools and pairs come from, each once.

    At most those of the first half million pages.
    """
    return _Taken().regions(allocator, pages)


def _single(pages: TdPages) -> int:
    return pages.single + pages.vcpus * _POOLED_PER_VCPU


class _Taken:
    """Single pages taken from an allocator: how many, and whether it had too few."""

    def __init__(self) -> None:
        self.pages = 0
        self.short = False

    def regions(self, allocator: PageAllocator, pages: TdPages) -> Iterator[int]:
        single, folios = _single(pages), pages.folio_ranges
        seen: set[int] = set()
        while self.pages < min(single + PAMT_PAIR_PAGES * (folios + len(seen)), _TAKEN):
            pfn = allocator.alloc_page(_SITE)
            if pfn is None:
                self.short = True
                return
            self.pages += 1
            region = pfn // PAGES_PER_2M
            if region not in seen:
                seen.add(region)
                yield region
