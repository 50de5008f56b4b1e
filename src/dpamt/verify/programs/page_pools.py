"""A page allocator for threads that need every page by its name: pools for each thread.

A page's word is 1 while somebody holds it.  A thread takes the lowest page of its own pools that is
free: of one pool the pages of page pairs, of the other one all others.  Pages that it frees for
others (a pair that another thread had brought) are free there again.
"""

from collections.abc import Iterable
from threading import local
from typing import Final

from dpamt.host.core.page_cache import SITE_CACHE, SITE_PAIR
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Event, Recorder

_FOR_PAIRS: Final = frozenset({SITE_CACHE, *SITE_PAIR})


class PoolAllocator:
    """Stands in for the kernel's allocator while threads run.

    ``failures`` allocations may fail, whichever they are.
    """

    def __init__(self, shared: ObservedShared, recorder: Recorder, failures: int = 0) -> None:
        self.held = shared.words("verify.pages")
        self._failures = shared.words("verify.failures").at(0)
        """Allocations that may still fail."""
        self._failures.store(failures)
        self._may_fail = failures > 0
        self._observed = shared.watch
        self._of_thread = local()
        self.pages: set[int] = set()
        """All pages of all pools."""
        self._recorder = recorder
        self.folio = 0
        """First page of the 2M block that is free; 0: there is none."""

    def use(self, pool: tuple[int, ...], for_pairs: tuple[int, ...] = ()) -> None:
        """The thread that runs takes its pages from these; without a second pool all from one."""
        self._of_thread.pools = pool, for_pairs or pool

    def own(self, *pools: tuple[int, ...]) -> None:
        """These are pages of pools."""
        for pool in pools:
            self.pages.update(pool)

    def alloc_page(self, site: str) -> int | None:
        """The lowest free page of the pool; None when there is none, or when it is to fail."""
        if self._observed.observer is not None:
            self._recorder.may_sleep(f"alloc_page(GFP_KERNEL) for {site}")
        if self._may_fail and self._observed.observer is not None:
            left = self._failures.load()
            if left:
                fails = self._recorder.choose(f"allocation for {site} fails", 2)
                if fails:
                    self._failures.store(left - 1)
                    return None
        pools: tuple[tuple[int, ...], tuple[int, ...]] = self._of_thread.pools
        pool = pools[site in _FOR_PAIRS]
        for index in range(len(pool)):
            page = self.held.at(pool[index])
            won = page.compare_and_swap(0, 1)
            if won:
                return pool[index]
        return None

    def alloc_pages(self, order: int, site: str) -> int | None:
        """The 2M block, before threads run; they find none."""
        base, self.folio = self.folio, 0
        return base or None

    def free_page(self, pfn: int) -> None:
        """Give a page back; one that is free already is a finding."""
        page = self.held.at(pfn)
        held = page.compare_and_swap(1, 0)
        if not held:
            self._recorder.tell(Event("bug", f"page {pfn:#x} is freed while it is free"))

    def free_among(self, pages: Iterable[int]) -> list[int]:
        """Those of the pages that are of a pool and held by nobody; for audits, no step."""
        return [pfn for pfn in pages if pfn in self.pages and not self.held.at(pfn).load()]

    def taken(self) -> list[int]:
        """Pages of all pools that somebody holds, ascending; for audits, no step."""
        return [pfn for pfn in sorted(self.pages) if self.held.at(pfn).load()]
