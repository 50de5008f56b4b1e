"""Page pairs on a host that has just booted, from the page allocator that its kernel left behind.

Nothing of KVM is repeated here: the folios and the single pages are taken from the real
allocator, and the regions counted that the single pages come from.  In what order control, S-EPT,
pool and pair pages follow one another is left open, so the number may be a few off what a run has.
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
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
    return FreshHost(allocator).pairs(pages)


def single_regions(allocator: PageAllocator, pages: TdPages) -> Iterator[int]:
    """The 2M regions that single pages of TDs, pools and pairs come from, each once.

    At most those of the first half million pages; ``allocator`` is used up.
    """
    yield from FreshHost(allocator).regions(pages)


class FreshHost:
    """A host that has just booted, for one question after another about the TDs that it carries.

    ``allocator`` is used up as far as the largest question goes.
    """

    def __init__(self, allocator: PageAllocator) -> None:
        self._allocator = allocator
        self._regions: dict[int, None] = {}
        self._first_pages: list[int] = []
        """How many pages were taken when each of the regions was met for the first time."""
        self._taken = 0
        self._empty = False

    def pairs(self, pages: TdPages) -> int:
        """Pairs of these pages.  Memory that is not there is not counted."""
        regions, taken = self._met(pages)
        pairs = pages.folio_ranges + regions
        wanted = _single(pages) + PAMT_PAIR_PAGES * pairs
        if taken < min(wanted, _TAKEN):
            return pairs
        # p further pairs take 2 p pages themselves: 512 p = rest + 2 p.
        return pairs + -(-max(wanted - taken, 0) // (PAGES_PER_2M - PAMT_PAIR_PAGES))

    def regions(self, pages: TdPages) -> Iterator[int]:
        """As :func:`single_regions`."""
        return islice(self._regions, self._met(pages)[0])

    def _met(self, pages: TdPages) -> tuple[int, int]:
        """Regions that these pages come from, and pages taken; fewer where memory ends."""
        single, folios = _single(pages), pages.folio_ranges
        regions = taken = 0
        while taken < (wanted := min(single + PAMT_PAIR_PAGES * (folios + regions), _TAKEN)):
            self._take(wanted)
            if self._taken < wanted:
                return len(self._regions), self._taken
            taken, regions = wanted, bisect_right(self._first_pages, wanted)
        return regions, taken

    def _take(self, wanted: int) -> None:
        while self._taken < wanted and not self._empty:
            pfn = self._allocator.alloc_page(_SITE)
            if pfn is None:
                self._empty = True
                return
            self._taken += 1
            region = pfn // PAGES_PER_2M
            if region not in self._regions:
                self._regions[region] = None
                self._first_pages.append(self._taken)


def _single(pages: TdPages) -> int:
    return pages.single + pages.vcpus * _POOLED_PER_VCPU
