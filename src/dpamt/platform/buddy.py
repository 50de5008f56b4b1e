"""The free memory of one zone: buddy lists, free max-order blocks, and spoiled 2 MiB regions.

Which pages are free, and nothing of who holds the others (that is page_allocator.py).  A free page
is in exactly one of three places:

* ``whole``: free blocks of the maximal order (4 MiB), as merged ranges;
* ``lists[k]``, k below the maximal order: free chunks of 2^k pages, aligned to their size;
* a spoiled 2 MiB region (below) that no allocation has reached yet.

Fragmentation without cost.  A 2 MiB region spoiled by one kernel page p falls apart into exactly
nine free chunks, one of each order k = 0..8: the buddy of p's own chunk, ((p >> k) ^ 1) << k.
Since p is never freed, none of them ever merges with its buddy.  So the spoiled regions are one
sorted array of kernel pages and a cursor for each order: the chunks at and above cursor k are
free, those below it have been moved to ``lists[k]`` or further, once and for all.

Source: Linux mm/page_alloc.c (MAX_PAGE_ORDER 10 on x86, buddies merge up to it, the smallest chunk
that fits is split).
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.platform.block_ranges import BlockRanges

MAX_PAGE_ORDER: Final = 10
BLOCK_PAGES: Final = 1 << MAX_PAGE_ORDER
"""4 KiB pages in a block of the maximal order."""
REGION_ORDER: Final = PAGES_PER_2M.bit_length() - 1
_REGION_MASK: Final = PAGES_PER_2M - 1


def aligned_chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut [start, end) into the fewest aligned chunks (pfn, order) up to the maximal order."""
    while start < end:
        order = min((end - start).bit_length() - 1, MAX_PAGE_ORDER)
        if start:
            order = min(order, (start & -start).bit_length() - 1)
        yield start, order
        start += 1 << order


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint ranges (start, end) sorted, those that touch joined."""
    result: list[tuple[int, int]] = []
    last_start = last_end = -1
    for start, end in sorted(ranges):
        if start == last_end:
            last_end = end
            continue
        if last_end >= 0:
            result.append((last_start, last_end))
        last_start, last_end = start, end
    if last_end >= 0:
        result.append((last_start, last_end))
    return result


class BuddyZone:
    """Free pages of one zone of one NUMA node; page frames throughout.

    ``extents`` are the zone's memory: disjoint ranges (start, end), sorted, not touching.
    ``kernel`` are the pages that spoil a 2 MiB region, ascending, at most one in a region, each in
    a region that lies wholly in an extent.  ``free`` counts free pages.
    """

    __slots__ = ("_cursors", "_kernel", "_lists", "_whole", "free", "nid")

    def __init__(
        self, nid: int, extents: Sequence[tuple[int, int]], kernel: Sequence[int] = ()
    ) -> None:
        self.nid = nid
        self.free = sum(end - start for start, end in extents) - len(kernel)
        self._kernel = array("Q", kernel)
        self._cursors = [0] * REGION_ORDER
        self._lists: list[dict[int, None]] = [{} for _ in range(MAX_PAGE_ORDER)]
        self._whole = BlockRanges()
        for start, end in extents:
            self._add_extent(start, end)

    def take(self, order: int, limit: int | None = None) -> tuple[int, int] | None:
        """Take a chunk of 2^order pages, splitting the smallest that is large enough.

        With ``limit`` above ``order``: a chunk of any order from ``order`` to ``limit``, as the
        smallest one found gives it.  Returns (pfn, order), or None when nothing fits.
        """
        lists = self._lists
        for have in range(order, MAX_PAGE_ORDER):
            chunks = lists[have]
            if chunks:
                pfn = chunks.popitem()[0]
                break
            if have < REGION_ORDER and self._cursors[have] < len(self._kernel):
                pfn = ((self._kernel[self._cursors[have]] >> have) ^ 1) << have
                self._cursors[have] += 1
                break
        else:
            if not self._whole:
                return None
            pfn, have = self._whole.pop_first() << MAX_PAGE_ORDER, MAX_PAGE_ORDER
        want = order if limit is None else max(order, min(have, limit))
        while have > want:
            have -= 1
            lists[have][pfn + (1 << have)] = None
        self.free -= 1 << want
        return pfn, want

    def take_blocks(self, order: int, count: int) -> list[tuple[int, int]]:
        """As ``count`` times ``take(order)``, for the two largest orders below the maximal one.

        Runs (first page, chunks) of chunks that follow one another, in the order in which they
        would be taken; fewer than ``count`` in all when memory runs out.
        """
        runs: list[tuple[int, int]] = []
        per_block = MAX_PAGE_ORDER - order
        exact = self._lists[order]
        while count:
            if exact:
                runs.append((exact.popitem()[0], 1))
                self.free -= 1 << order
                count -= 1
                continue
            blocks = count >> per_block
            if blocks and self._whole and not any(self._lists[order:]):
                first, end = next(iter(self._whole))
                blocks = min(blocks, end - first)
                self._whole.remove(first, first + blocks)
                self.free -= blocks << MAX_PAGE_ORDER
                runs.append((first << MAX_PAGE_ORDER, blocks << per_block))
                count -= blocks << per_block
                continue
            chunk = self.take(order)
            if chunk is None:
                break
            runs.append((chunk[0], 1))
            count -= 1
        return runs

    def next_chunk(self, least_order: int) -> tuple[int, int] | None:
        """(first page, order) of what single takes, up to ``least_order`` at once, use up next.

        Only a chunk of at least that order and below 2 MiB: it is used up from its first page to
        its last before another is touched, as what is left of it is always the smallest there is.
        """
        for order in range(REGION_ORDER):
            listed = self._lists[order]
            if listed:
                return (next(reversed(listed)), order) if order >= least_order else None
            cursor = self._cursors[order]
            if cursor < len(self._kernel):
                pfn = ((self._kernel[cursor] >> order) ^ 1) << order
                return (pfn, order) if order >= least_order else None
        return None

    def release(self, start: int, end: int) -> None:
        """Give back [start, end), merging buddies as far as they go."""
        self.free += end - start
        first_block, end_block = -(-start >> MAX_PAGE_ORDER), end >> MAX_PAGE_ORDER
        if first_block < end_block:
            self._whole.add(first_block, end_block)
            self._merge(start, first_block << MAX_PAGE_ORDER)
            self._merge(end_block << MAX_PAGE_ORDER, end)
        else:
            self._merge(start, end)

    def _merge(self, start: int, end: int) -> None:
        """Enter [start, end), less than a block, each chunk merged as far as it goes."""
        lists = self._lists
        while start < end:
            order = (end - start).bit_length() - 1
            if start:
                order = min(order, (start & -start).bit_length() - 1)
            pfn = start
            start += 1 << order
            while order < MAX_PAGE_ORDER and pfn ^ (1 << order) in lists[order]:
                del lists[order][pfn ^ (1 << order)]
                pfn &= ~(1 << order)
                order += 1
            if order == MAX_PAGE_ORDER:
                block = pfn >> MAX_PAGE_ORDER
                self._whole.add(block, block + 1)
            else:
                lists[order][pfn] = None

    def find_run(self, pages: int) -> int | None:
        """First page of some run of ``pages`` free pages; None when the zone has none.

        A run whose length is a power of two is aligned to it, as Linux promises for
        alloc_contig_pages (mm/page_alloc.c).
        """
        if pages > self.free:
            return None
        align = pages if pages & (pages - 1) == 0 else 1
        for first, last in self._whole:
            start = -(-(first << MAX_PAGE_ORDER) // align) * align
            if start + pages <= last << MAX_PAGE_ORDER:
                return start
        for free_start, free_end in self.free_ranges():
            start = -(-free_start // align) * align
            if start + pages <= free_end:
                return start
        return None

    def carve(self, start: int, end: int) -> None:
        """Take exactly [start, end), all of which must be free."""
        position = start
        while position < end:
            block = position >> MAX_PAGE_ORDER
            run_end = self._whole.range_end(block)
            if run_end:
                run_end = min(run_end, -(-end >> MAX_PAGE_ORDER))
                self._whole.remove(block, run_end)
                chunk, chunk_end = block << MAX_PAGE_ORDER, run_end << MAX_PAGE_ORDER
            else:
                chunk, order = self._take_chunk_of(position)
                chunk_end = chunk + (1 << order)
            self._put_pieces(chunk, position)
            self._put_pieces(min(end, chunk_end), chunk_end)
            position = chunk_end
        self.free -= end - start

    def holds(self, pfn: int) -> bool:
        """Whether the page is free here."""
        if self._whole.range_end(pfn >> MAX_PAGE_ORDER):
            return True
        if any(pfn >> order << order in chunks for order, chunks in enumerate(self._lists)):
            return True
        index, order = self._spoiled_chunk_of(pfn)
        return order >= 0 and index >= self._cursors[order]

    def free_ranges(self) -> list[tuple[int, int]]:
        """All free pages as sorted ranges that do not touch; linear in the number of chunks."""
        ranges = [(first << MAX_PAGE_ORDER, last << MAX_PAGE_ORDER) for first, last in self._whole]
        for order, chunks in enumerate(self._lists):
            size = 1 << order
            ranges.extend((pfn, pfn + size) for pfn in chunks)
        untouched = max(self._cursors)
        for kernel_page in self._kernel[untouched:]:
            region = kernel_page & ~_REGION_MASK
            if kernel_page > region:
                ranges.append((region, kernel_page))
            if kernel_page < region + _REGION_MASK:
                ranges.append((kernel_page + 1, region + PAGES_PER_2M))
        for order, cursor in enumerate(self._cursors):
            for kernel_page in self._kernel[cursor:untouched]:
                pfn = ((kernel_page >> order) ^ 1) << order
                ranges.append((pfn, pfn + (1 << order)))
        return merged(ranges)

    def chunks(self) -> list[list[int]]:
        """Free chunks in lists, by order; what was freed last stands last and is taken first."""
        return [list(chunks) for chunks in self._lists]

    def whole_blocks(self) -> list[tuple[int, int]]:
        """Free blocks of the maximal order, as ranges of block numbers."""
        return list(self._whole)

    def spoiled(self) -> tuple[list[int], list[int]]:
        """The kernel pages, and the cursor of each order below 2 MiB."""
        return list(self._kernel), list(self._cursors)

    def _add_extent(self, start: int, end: int) -> None:
        """Enter an extent: whole blocks as ranges, the rest as chunks, spoiled regions as holes."""
        kernel = self._kernel
        position = start
        for index in range(bisect_left(kernel, start), bisect_left(kernel, end)):
            region = kernel[index] & ~_REGION_MASK
            self._add_unspoiled(position, region)
            position = region + PAGES_PER_2M
        self._add_unspoiled(position, end)

    def _add_unspoiled(self, start: int, end: int) -> None:
        first_block, end_block = -(-start >> MAX_PAGE_ORDER), end >> MAX_PAGE_ORDER
        if first_block < end_block:
            self._put_pieces(start, first_block << MAX_PAGE_ORDER)
            self._whole.add(first_block, end_block)
            start = end_block << MAX_PAGE_ORDER
        self._put_pieces(start, end)

    def _put_pieces(self, start: int, end: int) -> None:
        """Enter [start, end), less than a block, whose buddies are known not to be free."""
        for pfn, order in aligned_chunks(start, end):
            self._lists[order][pfn] = None

    def _spoiled_chunk_of(self, pfn: int) -> tuple[int, int]:
        """Index of the kernel page that spoils the region of ``pfn``, and the order of the chunk.

        The order is -1 when the region is not spoiled or ``pfn`` is the kernel page itself.
        """
        index = bisect_left(self._kernel, pfn & ~_REGION_MASK)
        if index < len(self._kernel):
            difference = self._kernel[index] ^ pfn
            if difference < PAGES_PER_2M:
                return index, difference.bit_length() - 1
        return index, -1

    def _take_chunk_of(self, pfn: int) -> tuple[int, int]:
        """Take out the listed chunk that holds the free page ``pfn``; (first page, order)."""
        index, spoiled_order = self._spoiled_chunk_of(pfn)
        if spoiled_order >= 0:
            while self._cursors[spoiled_order] <= index:
                kernel_page = self._kernel[self._cursors[spoiled_order]]
                chunk = ((kernel_page >> spoiled_order) ^ 1) << spoiled_order
                self._lists[spoiled_order][chunk] = None
                self._cursors[spoiled_order] += 1
        order = next(k for k, chunks in enumerate(self._lists) if pfn >> k << k in chunks)
        chunk = pfn >> order << order
        del self._lists[order][chunk]
        return chunk, order
