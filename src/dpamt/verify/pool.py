"""A page allocator for threads that need every page by its name: a pool for each thread.

A page's word is 1 while somebody holds it.  A thread takes the lowest page of its own pool that is
free; pages that it frees for others (a pair that another thread had brought) are free there again.
"""

from collections.abc import Iterable
from threading import local

from dpamt.sync.observed import ObservedShared
from dpamt.verify.automaton import Event, Recorder


class PoolAllocator:
    """Stands in for the kernel's allocator while threads run; ``pool`` is that of the thread."""

    def __init__(self, shared: ObservedShared, recorder: Recorder) -> None:
        self.held = shared.words("verify.pages")
        self._of_thread = local()
        self.pages: set[int] = set()
        """All pages of all pools."""
        self._recorder = recorder

    @property
    def pool(self) -> tuple[int, ...]:
        """The pool of the thread that runs."""
        pages: tuple[int, ...] = self._of_thread.pool
        return pages

    @pool.setter
    def pool(self, pages: tuple[int, ...]) -> None:
        self._of_thread.pool = pages

    def alloc_page(self, site: str) -> int | None:
        """The lowest free page of the pool; None when there is none."""
        for index in range(len(self.pool)):
            page = self.held.at(self.pool[index])
            won = page.compare_and_swap(0, 1)
            if won:
                return self.pool[index]
        return None

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
