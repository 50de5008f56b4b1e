"""The host's page allocator: who may have a page, given what the buddy zones hold free.

Each operation is one atomic step: it runs to its end with nothing in between, and the verifier
treats it as a service that answers at once.  Its state is its own, outside ``sync``.

What it models: one zone below and one above 4 GiB on each NUMA node, a zone list per node (own node
first, high memory before low, then the other nodes), the buddy system with orders 0 to 10, the
per-CPU list of single pages in front of it (one list here), and contiguous allocation for the PAMT.
What it does not: page reclaim, watermarks, migration of movable pages.  So Linux tries only every
n-th start for n contiguous pages and moves pages away; here any start will do and nothing moves.

Source: Linux mm/page_alloc.c.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.errors import Finding, InputError, ModelError
from dpamt.platform.buddy import BLOCK_PAGES, MAX_PAGE_ORDER, REGION_ORDER, BuddyZone, merged
from dpamt.platform.machine import LOW_MEMORY_PFN, Machine

__all__ = ["MAX_PAGE_ORDER", "BadAllocation", "BadFree", "PageAllocator"]

FailWhen = Callable[[str, int], bool]
"""Failure injection: (site, ordinal of the allocation) to whether it fails."""

Snapshot = tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
"""Per node (nid, free ranges): sorted, merged, end exclusive."""

_HIGH_MEMORY_PFN: Final = 1 << 32 - PAGE_SHIFT
_SLOT_MASK: Final = BLOCK_PAGES - 1
REFILL_PAGES: Final = 64
_REFILL_ORDER: Final = 6
_FRONT_HIGH: Final = 1024
_FRONT_DRAIN: Final = 512


class BadFree(Finding):
    """A page was freed that its caller did not hold in that form."""


class BadAllocation(Finding):
    """An allocation that Linux would warn about and refuse, whatever memory is free."""


class PageAllocator:
    """Physical pages of one machine, handed out by page frame number.

    ``fragmentation`` in [0, 1] is the share of 2 MiB regions that are spoiled by one kernel page at
    a random place in them, picked by ``seed``; the same seed spoils the same regions.  Pages below
    1 MiB and the spoiling pages are the kernel's: never free, never handed out.

    ``allocations`` counts calls of the three alloc methods, failed ones included; ``fail_when``,
    when set, is asked with (site, ordinal of this call counted from 0) and True makes it fail.

    Raises InputError for a fragmentation outside [0, 1].
    """

    __slots__ = (
        "_chunks",
        "_contig",
        "_extents",
        "_front",
        "_held",
        "_zone_lists",
        "_zone_of",
        "_zones",
        "allocations",
        "fail_when",
        "kernel_pages",
        "shortages",
    )

    def __init__(self, machine: Machine, seed: int = 0, fragmentation: float = 0.0) -> None:
        if not 0.0 <= fragmentation <= 1.0:
            raise InputError(f"fragmentation {fragmentation}: expected a share from 0 to 1")
        zone_extents = _zone_extents(machine)
        kernel = _spoiling_pages(zone_extents, seed, fragmentation)
        self.kernel_pages = sum(len(pages) for pages in kernel.values())
        """Pages that spoil a 2 MiB region."""
        zones = {key: BuddyZone(key[0], zone_extents[key], kernel[key]) for key in zone_extents}
        self._zone_lists = {
            nid: [zones[key] for key in sorted(zones, key=_preference(nid))]
            for nid in machine.nodes
        }
        self._zones = self._zone_lists[machine.nodes[0]]
        self._zone_of = {key: zones[key] for key in zones}
        self._extents = sorted(
            (start, end, key) for key, extents in zone_extents.items() for start, end in extents
        )
        self._front: list[int] = []
        self._held: set[int] = set()
        self._chunks: dict[int, int] = {}
        self._contig: dict[int, int] = {}
        self.allocations = 0
        self.shortages = 0
        """Times that not one page was free when one was wanted."""
        self.fail_when: FailWhen | None = None

    @property
    def free_count(self) -> int:
        """Free pages on all nodes."""
        return sum(zone.free for zone in self._zones) + len(self._front)

    def alloc_page(self, site: str) -> int | None:
        """One page, as the frame number; None when memory has run out."""
        self.allocations += 1
        if self.fail_when is not None and self.fail_when(site, self.allocations - 1):
            return None
        front = self._front
        if not front:
            self._refill()
            if not front:
                self.shortages += 1
                return None
        pfn = front.pop()
        self._held.add(pfn)
        return pfn

    def free_page(self, pfn: int) -> None:
        """Give back a page of :meth:`alloc_page`.  Raises BadFree if it is not held as one."""
        try:
            self._held.remove(pfn)
        except KeyError:
            raise self._bad_free(pfn, "free_page") from None
        front = self._front
        front.append(pfn)
        if len(front) > _FRONT_HIGH:
            self._drain(_FRONT_DRAIN)

    def next_pages(self, most: int) -> list[int]:
        """Pages that the next calls of :meth:`alloc_page` will return, in order, and none of which
        fails; perhaps fewer than ``most``, or none.

        For a caller whose next allocation is one of them: the front list is filled if it is empty.
        """
        if self.fail_when is not None:
            return []
        if not self._front:
            self._refill()
        return self._front[: -most - 1 : -1]

    def take_next(self, pages: int, site: str) -> None:
        """:meth:`alloc_page` of the first ``pages`` of :meth:`next_pages`."""
        front = self._front
        self._held.update(front[-pages:])
        del front[-pages:]
        self.allocations += pages

    def has_waiting(self, pages: int) -> bool:
        """Whether the next ``pages`` calls of :meth:`alloc_page` will not fail, nor ask a zone."""
        return self.fail_when is None and len(self._front) >= pages

    def can_pass(self, pages: int) -> bool:
        """Whether ``pages`` pages freed one by one just stay in front, for the next allocations."""
        return self.fail_when is None and len(self._front) + pages <= _FRONT_HIGH

    def passed(self, pages: int) -> None:
        """``count`` pages were allocated and freed again, each before any other allocation."""
        self.allocations += pages

    def alloc_pages(self, order: int, site: str, nid: int | None = None) -> int | None:
        """2^order contiguous pages aligned to their size: the first frame, or None.

        ``nid`` is the node to prefer (default: the first); the others are asked when it has none.
        Raises BadAllocation for an order that the buddy system does not have.
        """
        if not 0 <= order <= MAX_PAGE_ORDER:
            raise BadAllocation(
                f"alloc_pages of order {order} at {site}: expected 0 to {MAX_PAGE_ORDER}"
            )
        if order == 0 and nid is None:
            return self.alloc_page(site)
        if self._fails(site):
            return None
        zones = self._zones_from(nid)
        own = [zone for zone in zones if zone.nid == zones[0].nid]
        pfn = _take_first(own, order)
        if pfn is None:
            self._drain(len(self._front))
            pfn = _take_first(zones, order)
        if pfn is None:
            return None
        if order == 0:
            self._held.add(pfn)
        else:
            self._chunks[pfn] = order
        return pfn

    def free_pages(self, pfn: int, order: int) -> None:
        """Give back what :meth:`alloc_pages` gave.  Raises BadFree unless pfn and order agree."""
        if order == 0:
            self.free_page(pfn)
            return
        if self._chunks.get(pfn) != order:
            raise self._bad_free(pfn, f"free_pages of order {order}")
        del self._chunks[pfn]
        self._zone_at(pfn).release(pfn, pfn + (1 << order))

    def alloc_contig(self, pages: int, nid: int, site: str) -> int | None:
        """``pages`` contiguous pages (any number) of one zone: the first frame, or None.

        Node ``nid`` is preferred, then any other; a power of two is aligned to its size.
        Raises BadAllocation for a number below 1.
        """
        if pages < 1:
            raise BadAllocation(f"alloc_contig of {pages} pages at {site}: expected at least 1")
        if self._fails(site):
            return None
        self._drain(len(self._front))
        for zone in self._zones_from(nid):
            pfn = zone.find_run(pages)
            if pfn is not None:
                zone.carve(pfn, pfn + pages)
                self._contig[pfn] = pages
                return pfn
        return None

    def alloc_contig_at(self, pfn: int, pages: int) -> int | None:
        """These very pages, where they are free in one zone: the first frame, or None."""
        self._drain(len(self._front))
        for zone in self._zones:
            if any(first <= pfn and pfn + pages <= last for first, last in zone.free_ranges()):
                zone.carve(pfn, pfn + pages)
                self._contig[pfn] = pages
                return pfn
        return None

    def free_contig(self, pfn: int, pages: int) -> None:
        """Give back what :meth:`alloc_contig` gave.  Raises BadFree unless start and size agree."""
        if self._contig.get(pfn) != pages:
            raise self._bad_free(pfn, f"free_contig of {pages} pages")
        del self._contig[pfn]
        self._zone_at(pfn).release(pfn, pfn + pages)

    def fragment(self, share: float, seed: int = 0) -> int:
        """Let the kernel take one page in a ``share`` (0 to 1) of the 2 MiB regions wholly free.

        This is the memory of a host that has been up for a while: the module's own areas were
        allocated at boot, before.  Returns the number of pages taken; the same seed takes the same
        pages.  Raises InputError for a share outside [0, 1].
        """
        if not 0.0 <= share <= 1.0:
            raise InputError(f"fragmentation {share}: expected a share from 0 to 1")
        self._drain(len(self._front))
        extents = {key: zone.free_ranges() for key, zone in self._zone_of.items()}
        taken = 0
        for key, pages in _spoiling_pages(extents, seed, share).items():
            for pfn in pages:
                self._zone_of[key].carve(pfn, pfn + 1)
            taken += len(pages)
        self.kernel_pages += taken
        return taken

    def is_free(self, pfn: int) -> bool:
        """Whether the page is free; False for the kernel's pages and for what is not memory."""
        return bool(self.free_among((pfn,)))

    def free_among(self, pfns: Iterable[int]) -> list[int]:
        """Those of ``pfns`` that are free, in their order."""
        waiting = set(self._front)
        return [pfn for pfn in pfns if pfn in waiting or self._zone_holds(pfn)]

    def _zone_holds(self, pfn: int) -> bool:
        zone = self._find_zone(pfn)
        return zone is not None and zone.holds(pfn)

    def snapshot(self) -> Snapshot:
        """Exactly the free pages, per node; equal for equal sets, however they came to be free.

        Costs time in proportion to the free chunks: little for an idle terabyte, up to seconds for
        a fragmented one.
        """
        by_node: dict[int, list[tuple[int, int]]] = {nid: [] for nid in self._zone_lists}
        for zone in self._zones:
            by_node[zone.nid].extend(zone.free_ranges())
        for pfn in self._front:
            by_node[self._zone_at(pfn).nid].append((pfn, pfn + 1))
        return tuple((nid, tuple(merged(ranges))) for nid, ranges in by_node.items())

    def _fails(self, site: str) -> bool:
        """Count the allocation and ask the failure injection."""
        ordinal = self.allocations
        self.allocations = ordinal + 1
        return self.fail_when is not None and self.fail_when(site, ordinal)

    def _zones_from(self, nid: int | None) -> list[BuddyZone]:
        """Zone list of a node; the first node's for a node without memory."""
        if nid is None:
            return self._zones
        return self._zone_lists.get(nid, self._zones)

    def _find_zone(self, pfn: int) -> BuddyZone | None:
        index = bisect_right(self._extents, pfn, key=lambda extent: extent[0]) - 1
        if index < 0 or self._extents[index][1] <= pfn:
            return None
        return self._zone_of[self._extents[index][2]]

    def _zone_at(self, pfn: int) -> BuddyZone:
        zone = self._find_zone(pfn)
        if zone is None:
            raise ModelError(f"page {pfn:#x} was handed out but is in no zone")
        return zone

    def _refill(self) -> None:
        """Bring about 64 pages into the empty front list, from the first zone that has any."""
        front = self._front
        for zone in self._zones:
            while len(front) < REFILL_PAGES:
                chunk = zone.take(0, _REFILL_ORDER)
                if chunk is None:
                    break
                pfn, order = chunk
                front.extend(range(pfn, pfn + (1 << order)))
            if front:
                front.reverse()
                return

    def _drain(self, count: int) -> None:
        """Give the ``count`` pages that have waited longest in the front list to their zones."""
        pages = self._front[:count]
        del self._front[:count]
        pages.sort()
        begin = 0
        while begin < len(pages):
            start = pages[begin]
            # A run stops at a block's end too, hence inside one zone.
            most = min(len(pages) - begin, BLOCK_PAGES - (start & _SLOT_MASK))
            size = 1
            while size < most and pages[begin + size] == start + size:
                size += 1
            self._zone_at(start).release(start, start + size)
            begin += size

    def _bad_free(self, pfn: int, call: str) -> BadFree:
        """What is wrong with freeing this page, by what is known of it."""
        return BadFree(f"{call} of page {pfn:#x}: {self._describe(pfn)}")

    def _describe(self, pfn: int) -> str:
        if self._find_zone(pfn) is None:
            return "it is not memory that the allocator hands out"
        if self.is_free(pfn):
            return "it is free already (double free)"
        if pfn in self._held:
            return "it was allocated as a single page"
        for order in range(1, MAX_PAGE_ORDER + 1):
            head = pfn >> order << order
            if self._chunks.get(head) == order:
                return f"it belongs to the order-{order} allocation that begins at page {head:#x}"
        for head, pages in self._contig.items():
            if head <= pfn < head + pages:
                return f"it belongs to the {pages} contiguous pages that begin at page {head:#x}"
        return "it was never allocated: a page of the kernel's"


def _preference(nid: int) -> Callable[[tuple[int, bool]], tuple[bool, int, bool]]:
    """Sort key of a node's zone list over (nid, above 4 GiB)."""
    return lambda key: (key[0] != nid, key[0], not key[1])


def _zone_extents(machine: Machine) -> dict[tuple[int, bool], list[tuple[int, int]]]:
    """Memory from 1 MiB up by (nid, above 4 GiB): sorted ranges that do not touch."""
    pieces: dict[tuple[int, bool], list[tuple[int, int]]] = {}
    for block in machine.memory:
        start = max(block.start_pfn, LOW_MEMORY_PFN)
        low_end, high_start = min(block.end_pfn, _HIGH_MEMORY_PFN), max(start, _HIGH_MEMORY_PFN)
        if start < low_end:
            pieces.setdefault((block.nid, False), []).append((start, low_end))
        if high_start < block.end_pfn:
            pieces.setdefault((block.nid, True), []).append((high_start, block.end_pfn))
    return {key: merged(ranges) for key, ranges in sorted(pieces.items())}


def _spoiling_pages(
    zone_extents: dict[tuple[int, bool], list[tuple[int, int]]], seed: int, share: float
) -> dict[tuple[int, bool], list[int]]:
    """For each zone the kernel page of every spoiled 2 MiB region, ascending.

    The number of spoiled regions is the share exactly, rounded; partial regions stay as they are.
    """
    regions: list[tuple[int, int]] = []
    for extents in zone_extents.values():
        for start, end in extents:
            first, last = -(-start // PAGES_PER_2M), end // PAGES_PER_2M
            regions.append((first, max(first, last)))
    total = sum(last - first for first, last in regions)
    random = Random(seed)
    picked = sorted(random.sample(range(total), round(share * total)))
    kernel: dict[tuple[int, bool], list[int]] = {}
    position = passed = 0
    remaining = iter(regions)
    for key, extents in zone_extents.items():
        pages = kernel[key] = []
        for _ in extents:
            first, last = next(remaining)
            while position < len(picked) and picked[position] < passed + last - first:
                region = first + picked[position] - passed
                pages.append(region * PAGES_PER_2M + random.getrandbits(REGION_ORDER))
                position += 1
            passed += last - first
    return kernel


def _take_first(zones: list[BuddyZone], order: int) -> int | None:
    """First frame of a chunk of exactly that order from the first zone that has one."""
    for zone in zones:
        chunk = zone.take(order)
        if chunk is not None:
            return chunk[0]
    return None
