"""A page allocator for threads that need every page by its name: pools for each thread.

Each page has a word that says whose it is (:mod:`dpamt.verify.programs.page_owners`).  A thread
takes the lowest page of its own pools that is free: of one pool the pages of page pairs, of the
other one all others.  Pages that it frees for others (a pair that another thread had brought) are
free there again.
"""

from collections.abc import Iterable
from threading import local
from typing import Final

from dpamt.host.core.page_cache import SITE_CACHE, SITE_PAIR
from dpamt.sync import Word
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Recorder
from dpamt.verify.programs.page_owners import PageOwners

_FOR_PAIRS: Final = frozenset({SITE_CACHE, *SITE_PAIR})


class PoolAllocator:
    """Stands in for the kernel's allocator while threads run.

    Where they ``may_fail``, as many allocations fail as the word ``failures`` says, at any place.
    """

    def __init__(
        self,
        shared: ObservedShared,
        recorder: Recorder,
        owners: PageOwners,
        failures: Word,
        may_fail: bool,
    ) -> None:
        self._owners = owners
        self._failures = failures
        self._may_fail = may_fail
        self._observed = shared.watch
        self._of_thread = local()
        self._recorder = recorder
        self.folio = 0
        """First page of the 2M block that is free; 0: there is none."""

    def use(self, pool: tuple[int, ...], for_pairs: tuple[int, ...] = ()) -> None:
        """The thread that runs takes its pages from these; without a second pool all from one."""
        self._of_thread.pools = pool, for_pairs or pool

    def own(self, *pools: tuple[int, ...]) -> None:
        """These are pages of pools."""
        for pool in pools:
            self._owners.pages.update(pool)

    def alloc_page(self, site: str) -> int | None:
        """The lowest free page of the pool; None when there is none, or when it is to fail."""
        if self._observed.observer is not None:
            self._recorder.may_sleep(f"alloc_page(GFP_KERNEL) for {site}")
        if self._may_fail and self._observed.observer is not None:
            fails = self._recorder.choose(f"allocation for {site} fails", 2)
            if fails:
                may = self._failures.add_unless(-1, 0)
                if may:
                    return None
        pools: tuple[tuple[int, ...], tuple[int, ...]] = self._of_thread.pools
        pool = pools[site in _FOR_PAIRS]
        for index in range(len(pool)):
            won = self._owners.take(pool[index])
            if won:
                return pool[index]
        return None

    def alloc_pages(self, order: int, site: str) -> int | None:
        """The 2M block, before threads run; they find none."""
        base, self.folio = self.folio, 0
        return base or None

    def free_page(self, pfn: int) -> None:
        """Give a page back; one that is not the kernel's to give is a finding."""
        self._owners.free(pfn)

    def free_among(self, pages: Iterable[int]) -> list[int]:
        """Those of the pages that are of a pool and held by nobody; for audits, no step."""
        owners = self._owners
        return [pfn for pfn in pages if pfn in owners.pages and not owners.words.at(pfn).load()]

    def taken(self) -> list[int]:
        """Pages of all pools that somebody holds, ascending; for audits, no step."""
        owners = self._owners
        return [pfn for pfn in sorted(owners.pages) if owners.words.at(pfn).load()]
