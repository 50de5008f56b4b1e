"""The ageing host as one would write it first: a loop over pages, and the same under SimPy.

The rules are those of dpamt.plan.ageing, page by page, on the page allocator of `dpamt run`.  Used
by bench_ageing.py, which also checks that all arrive at the same pairs.
"""

from collections.abc import Generator, Iterator
from typing import Any

import simpy

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.kvm.gmem import FOLIO_ORDER
from dpamt.platform.page_allocator import PageAllocator

POOL = 10
SEPT_POOL = 5


class PlainTd:
    """A TD: what backs and maps each page, by dictionary."""

    def __init__(self, ranges: int) -> None:
        self.ranges = ranges
        self.folio: dict[int, int] = {}
        self.table: dict[int, int] = {}
        self.upper: dict[tuple[int, int], int] = {}
        self.large: set[int] = set()
        self.mapped: dict[int, int] = {}
        self.control: list[int] = []
        self.sept: list[int] = []
        self.pool: list[int] = []


class PlainHost:
    """Each method that begins with ``each`` yields once for every page event."""

    def __init__(self, allocator: PageAllocator, td_pages: int, vcpu_pages: int) -> None:
        self.allocator = allocator
        self.td_pages = td_pages
        self.vcpu_pages = vcpu_pages
        self.counts: dict[int, int] = {}
        self.pair: dict[int, tuple[int, int]] = {}

    def page(self) -> int:
        pfn = self.allocator.alloc_page("plain")
        if pfn is None:
            raise MemoryError
        return pfn

    def get(self, pfn: int, first: int, second: int) -> None:
        region = pfn // PAGES_PER_2M
        count = self.counts.get(region, 0)
        self.counts[region] = count + 1
        if count:
            self.allocator.free_page(first)
            self.allocator.free_page(second)
        else:
            self.pair[region] = (first, second)

    def put(self, pfn: int) -> None:
        region = pfn // PAGES_PER_2M
        self.counts[region] -= 1
        if not self.counts[region]:
            del self.counts[region]
            first, second = self.pair.pop(region)
            self.allocator.free_page(first)
            self.allocator.free_page(second)

    def create(self, ranges: int) -> PlainTd:
        td = PlainTd(ranges)
        for number in range(self.td_pages + self.vcpu_pages):
            if number == self.td_pages:
                self.allocator.free_page(self.page())  # TD_PARAMS
            pfn = self.page()
            first = self.page()
            self.get(pfn, first, self.page())
            td.control.append(pfn)
        return td

    def top_up(self, td: PlainTd) -> None:
        while len(td.sept) < SEPT_POOL:
            td.sept.append(self.page())
        while len(td.pool) < POOL:
            td.pool.append(self.page())

    def link(self, td: PlainTd) -> int:
        sept = td.sept.pop()
        self.get(sept, td.pool.pop(), td.pool.pop())
        return sept

    def fault(self, td: PlainTd, page: int, at_2m: bool) -> None:
        index, slot = divmod(page, PAGES_PER_2M)
        self.top_up(td)
        if index not in td.folio:
            base = self.allocator.alloc_pages(FOLIO_ORDER, "plain")
            if base is None:
                raise MemoryError
            td.folio[index] = base
        for level, key in ((2, index // PAGES_PER_2M**2), (1, index // PAGES_PER_2M)):
            if (level, key) not in td.upper:
                td.upper[level, key] = self.link(td)
        if at_2m and index not in td.table:
            td.large.add(index)
            return
        if index not in td.table:
            td.table[index] = self.link(td)
        pfn = td.folio[index] + slot
        self.get(pfn, td.pool.pop(), td.pool.pop())
        td.mapped[page] = pfn

    def each_fault(self, td: PlainTd, first: int, count: int, at_2m: bool) -> Iterator[None]:
        page = first
        while page < first + count:
            if page // PAGES_PER_2M in td.large:
                yield
                page += 1
                continue
            self.fault(td, page, at_2m and page % PAGES_PER_2M == 0)
            yield
            page += 1

    def each_punch(self, td: PlainTd, index: int) -> Iterator[None]:
        """A whole range goes back."""
        first = index * PAGES_PER_2M
        for page in range(first, first + PAGES_PER_2M):
            if index not in td.large:
                self.put(td.mapped.pop(page))
            yield
        td.large.discard(index)
        self.allocator.free_pages(td.folio.pop(index), FOLIO_ORDER)

    def each_destroy(self, td: PlainTd) -> Iterator[None]:
        for index in range(td.ranges):
            if index in td.folio and index not in td.large:
                for page in range(index * PAGES_PER_2M, (index + 1) * PAGES_PER_2M):
                    self.put(td.mapped.pop(page))
                    yield
            elif index in td.large:
                for _ in range(PAGES_PER_2M):
                    yield
        for index in range(td.ranges):
            if index in td.folio:
                self.allocator.free_pages(td.folio[index], FOLIO_ORDER)
        upper = [[td.upper[key] for key in sorted(td.upper) if key[0] == level] for level in (1, 2)]
        for pages in ([td.table[at] for at in sorted(td.table)], *upper):
            for pfn in pages:
                self.put(pfn)
                self.allocator.free_page(pfn)
        while td.sept:
            self.allocator.free_page(td.sept.pop())
        while td.pool:
            self.allocator.free_page(td.pool.pop())
        control, vcpu = td.control[: self.td_pages], td.control[self.td_pages :]
        for pfn in (*vcpu[1:], vcpu[0], *control[1:], control[0]):
            self.put(pfn)
            self.allocator.free_page(pfn)


Step = tuple[str, int, int, int, bool]
"""(what, TD, first range, ranges, at 2M)."""


def each_event(host: PlainHost, steps: list[Step]) -> Iterator[None]:
    """All page events of a story."""
    tds: dict[int, PlainTd] = {}
    for what, number, first, count, at_2m in steps:
        if what == "create":
            tds[number] = host.create(count)
        elif what == "fault":
            pages = (first * PAGES_PER_2M, count * PAGES_PER_2M)
            yield from host.each_fault(tds[number], *pages, at_2m)
        elif what == "punch":
            yield from host.each_punch(tds[number], first)
        else:
            yield from host.each_destroy(tds.pop(number))


def run_loop(host: PlainHost, steps: list[Step]) -> int:
    """The plain loop: how many page events."""
    return sum(1 for _ in each_event(host, steps))


def run_simpy(host: PlainHost, steps: list[Step]) -> int:
    """The same as a SimPy process that waits for the time of each page event."""
    environment = simpy.Environment()
    events = 0

    def process() -> Generator[simpy.Event, Any, None]:
        nonlocal events
        for _ in each_event(host, steps):
            events += 1
            yield environment.timeout(1)

    environment.process(process())
    environment.run()
    return events
