"""An allocator that hands out the pages of a list: what the plan takes from it is known."""

from collections.abc import Iterable, Iterator
from typing import cast

from dpamt.platform.page_allocator import PageAllocator


class HandOut:
    """Single pages and 2M folios, each in the order given; then none."""

    def __init__(self, pages: Iterable[int], folios: Iterable[int] = ()) -> None:
        self._pages: Iterator[int] = iter(pages)
        self._folios: Iterator[int] = iter(folios)
        self.taken: list[int] = []

    def alloc_page(self, site: str) -> int | None:
        assert site == "plan"
        page = next(self._pages, None)
        if page is not None:
            self.taken.append(page)
        return page

    def alloc_pages(self, order: int, site: str) -> int | None:
        assert (order, site) == (9, "plan")
        return next(self._folios, None)


def as_allocator(hand_out: HandOut) -> PageAllocator:
    return cast(PageAllocator, hand_out)
