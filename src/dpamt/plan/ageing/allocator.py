"""The page allocator of `dpamt run`, with many pages at once; who holds a page is not kept.

Every method does, to the page, what calls of :class:`PageAllocator`'s own would have done;
tests/plan/ageing holds the two against each other.  What is left out is the proof of ownership: a
page freed twice is not noticed here.  `dpamt run` is where that is looked for.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.errors import ModelError
from dpamt.host.kvm.gmem import FOLIO_ORDER
from dpamt.platform.buddy import BLOCK_PAGES, BuddyZone
from dpamt.platform.page_allocator import PageAllocator

FRONT_HIGH: Final = 1024
FRONT_DRAIN: Final = 512
REFILL_ORDER: Final = 6
_FIRST_RANGE_PAGES: Final = 16
"""More than both pools of a VCPU hold."""
_NEXT_RANGE_PAGES: Final = 5
"""Pages that one more range takes: an S-EPT page and two pairs."""
_MANY: Final = 64
"""Fewer pages are freed faster one by one."""


class AgeingAllocator(PageAllocator):
    """Pages by frame number, 2M folios by region number (frame / 512); 0 is never either."""

    __slots__ = ()

    @property
    def zones(self) -> Sequence[BuddyZone]:
        """In the order in which they are asked."""
        return self._zones

    @property
    def front(self) -> Sequence[int]:
        """Pages that wait in front of the zones, the next one last."""
        return self._front

    def extents(self) -> list[tuple[int, int, BuddyZone]]:
        """Ranges of memory, and the zone of each."""
        return [(start, end, self._zone_of[key]) for start, end, key in self._extents]

    def page(self) -> int:
        """One page; 0 when memory has run out."""
        front = self._front
        if not front:
            self._refill()
            if not front:
                self.shortages += 1
                return 0
        return front.pop()

    def free(self, pfn: int) -> None:
        """Give one page back."""
        front = self._front
        front.append(pfn)
        if len(front) > FRONT_HIGH:
            self._drain(FRONT_DRAIN)

    def alloc_page(self, site: str) -> int | None:
        """One page, as of the class above."""
        return self.page() or None

    def free_page(self, pfn: int) -> None:
        """Give back a page, as of the class above."""
        self.free(pfn)

    def rising(self, most: int, counts: Sequence[int]) -> range:
        """The next pages, as far as they rise one by one in one region whose count is not 0.

        1 to ``most`` of them, or none.
        """
        front = self._front
        if not front:
            for zone in self._zones:
                if zone.free:
                    run = _chunks_in_turn(zone, most, counts)
                    if run:
                        return run
                    break
            self._refill()
            if not front:
                return range(0)
        first = front[-1]
        if not counts[first // PAGES_PER_2M]:
            return range(0)
        most = min(most, len(front), PAGES_PER_2M - first % PAGES_PER_2M)
        count = most if front[-most] == first + most - 1 and _falls(front, most) else 1
        while count < most and front[-count - 1] == first + count:
            count += 1
        del front[-count:]
        return range(first, first + count)

    def free_many(self, pages: "list[int] | NDArray[np.uint32]") -> None:
        """Free these pages, one after another."""
        front = self._front
        if len(front) + len(pages) <= FRONT_HIGH:
            front += pages if isinstance(pages, list) else pages.tolist()
            return
        if len(pages) < _MANY:
            for pfn in pages if isinstance(pages, list) else pages.tolist():
                self.free(pfn)
            return
        waiting = np.concatenate((np.array(front, np.int64), np.asarray(pages, np.int64)))
        drains = -(-(len(waiting) - FRONT_HIGH) // FRONT_DRAIN)
        count = drains * FRONT_DRAIN
        leaving = waiting[:count].reshape(drains, FRONT_DRAIN)
        front[:] = waiting[count:].tolist()
        leaving.sort(axis=1)
        breaks = np.ones(leaving.shape, dtype=bool)
        breaks[:, 1:] = leaving[:, 1:] != leaving[:, :-1] + 1
        breaks |= leaving % BLOCK_PAGES == 0
        starts = np.flatnonzero(breaks)
        sizes = np.diff(starts, append=count)
        low = high = 0
        for start, size in zip(leaving.ravel()[starts].tolist(), sizes.tolist(), strict=True):
            if not low <= start < high:
                low, high, zone = self._extent_at(start)
            zone.release(start, start + size)

    def folio(self) -> int:
        """A 2M folio, as its region; 0 when there is none."""
        own = self._zones[0]
        for zone in self._zones:
            if zone.nid != own.nid:
                break
            chunk = zone.take(FOLIO_ORDER)
            if chunk is not None:
                return chunk[0] // PAGES_PER_2M
        self._drain(len(self._front))
        for zone in self._zones:
            chunk = zone.take(FOLIO_ORDER)
            if chunk is not None:
                return chunk[0] // PAGES_PER_2M
        return 0

    def folios(self, count: int) -> list[tuple[int, int]]:
        """As ``count`` times :meth:`folio`: runs (first region, regions), perhaps fewer."""
        runs = self._folios_at_hand(count)
        left = count - sum(regions for _, regions in runs)
        if left:
            self._drain(len(self._front))
            runs += self._folios_at_hand(left, anywhere=True)
        return runs

    def _folios_at_hand(self, count: int, anywhere: bool = False) -> list[tuple[int, int]]:
        """Such runs without a drain, of the first node or ``anywhere``."""
        runs: list[tuple[int, int]] = []
        nid = self._zones[0].nid
        for zone in self._zones:
            if anywhere or zone.nid == nid:
                for first, regions in zone.take_blocks(FOLIO_ORDER, count):
                    runs.append((first // PAGES_PER_2M, regions))
                    count -= regions
                if not count:
                    break
        return runs

    def free_folios(self, region: int, count: int = 1) -> None:
        """Free folios that follow one another, from ``region`` on."""
        first, end = region * PAGES_PER_2M, (region + count) * PAGES_PER_2M
        _low, high, zone = self._extent_at(first)
        while high < end:  # the run goes on into the next extent, of another zone
            zone.release(first, high)
            first = high
            _low, high, zone = self._extent_at(first)
        zone.release(first, end)

    def pages_of_order(self, order: int) -> int:
        """2^order pages, aligned; 0 when there are none."""
        for zone in self._zones:
            chunk = zone.take(order)
            if chunk is not None:
                return chunk[0]
        return 0

    def free_order(self, pfn: int, order: int) -> None:
        """Give them back."""
        self._zone_at(pfn).release(pfn, pfn + (1 << order))

    def _extent_at(self, pfn: int) -> tuple[int, int, BuddyZone]:
        """The range of memory that a page lies in, and its zone."""
        for low, high, key in self._extents:
            if low <= pfn < high:
                return low, high, self._zone_of[key]
        raise ModelError(f"page {pfn:#x} was handed out but is in no zone")

    def take_front(self, ranges: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The list of free pages in front, and folios for as many of the wanted ranges as can be
        faulted in at 4K from it: without a refill of the list, and without a drain.
        """
        front = self._front
        if len(front) > FRONT_HIGH - 4:
            return front, []
        count = min(ranges, (len(front) - _FIRST_RANGE_PAGES) // _NEXT_RANGE_PAGES)
        return front, self._folios_at_hand(count) if count > 0 else []


def _chunks_in_turn(zone: BuddyZone, most: int, counts: Sequence[int]) -> range:
    """Chunks that an empty front list would be refilled from next, as far as they follow one
    another in one region whose count is not 0: each is used up before another is touched.
    """
    chunk = zone.next_chunk(REFILL_ORDER)
    if chunk is None or not counts[chunk[0] // PAGES_PER_2M]:
        return range(0)
    first = end = chunk[0]
    region = first // PAGES_PER_2M
    last = first + most
    while chunk is not None and chunk[0] == end and end // PAGES_PER_2M == region:
        order = chunk[1]
        if end + (1 << order) > last:
            # A refill takes no more than its own order at once.
            order = REFILL_ORDER
            if end + (1 << order) > last:
                break
        zone.take(order)
        end += 1 << order
        chunk = zone.next_chunk(REFILL_ORDER)
    return range(first, end)


def _falls(front: list[int], count: int) -> bool:
    """Whether the last ``count`` pages fall by one each, towards the end of the list."""
    last = front[-1]
    return front[-count:] == list(range(last + count - 1, last - 1, -1))
