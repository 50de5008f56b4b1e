"""Single pages of a host that ages, with their pairs: get, put, page pools, and where pages lie.

The default placement is Linux's: every page comes from the page allocator.  The others answer
wishes of the mailing list: order-1 or pooled pairs (D. Hansen, K. Shutsemau), and control and S-EPT
pages kept together.
"""

from array import array
from heapq import heappop, heappush
from typing import Final, Literal

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.errors import Finding
from dpamt.host.core.kernel import Kernel
from dpamt.host.core.page_cache import PT64_ROOT_MAX_LEVEL
from dpamt.plan.ageing.allocator import AgeingAllocator
from dpamt.plan.ageing.tds import Vcpu

PairPlacement = Literal["single", "order-1", "pool"]
ControlPlacement = Literal["single", "pool"]

PAMT_CACHE_PAGES: Final = 2 * PT64_ROOT_MAX_LEVEL


class OutOfMemory(Finding):
    """The host had no page, or no pair, for a TD."""


class RegionPool:
    """Pages out of 2M regions of its own, lowest first; an empty region goes back."""

    def __init__(self, allocator: AgeingAllocator) -> None:
        self._allocator = allocator
        self._free: list[int] = []
        self._used: dict[int, int] = {}

    def page(self) -> int:
        """A page; 0 when there is none."""
        while self._free:
            pfn = heappop(self._free)
            region = pfn // PAGES_PER_2M
            if region in self._used:
                self._used[region] += 1
                return pfn
        region = self._allocator.folio()
        if not region:
            return self._allocator.page()
        first = region * PAGES_PER_2M
        self._free.extend(range(first + 1, first + PAGES_PER_2M))
        self._used[region] = 1
        return first

    def free(self, pfn: int) -> None:
        """Give a page back."""
        region = pfn // PAGES_PER_2M
        if region not in self._used:
            self._allocator.free(pfn)
            return
        self._used[region] -= 1
        if self._used[region]:
            heappush(self._free, pfn)
            return
        del self._used[region]
        self._free = [page for page in self._free if page // PAGES_PER_2M != region]
        self._free.sort()
        self._allocator.free_folios(region)


class CountedPages:
    """The counts of 2M regions and their pairs, on a booted host without TDs."""

    def __init__(
        self,
        kernel: Kernel,
        pairs: PairPlacement = "single",
        control: ControlPlacement = "single",
    ) -> None:
        if not isinstance(kernel.allocator, AgeingAllocator) or kernel.sysinfo is None:
            raise TypeError("expected the kernel of dpamt.plan.ageing.boot")
        self.kernel = kernel
        self.sysinfo = kernel.sysinfo
        self.allocator = kernel.allocator
        regions = -(-kernel.machine.max_pfn // PAGES_PER_2M)
        self.counts = array("H", bytes(2 * regions))
        """4K pages in TDX use of each region."""
        self.large = bytearray(regions)
        """1 where a region is a 2M page of a TD."""
        self.pair_first = array("I", bytes(4 * regions))
        self.pair_second = array("I", bytes(4 * regions))
        self.pairs = 0
        """Pairs installed."""
        self.order_1 = pairs == "order-1"
        pair_pool = RegionPool(self.allocator) if pairs == "pool" else self.allocator
        control_pool = RegionPool(self.allocator) if control == "pool" else self.allocator
        self.plain = pairs == control == "single"
        """Whether every page comes from the page allocator."""
        self._pair_page, self._free_pair_page = pair_pool.page, pair_pool.free
        self.control_page, self.free_control_page = control_pool.page, control_pool.free

    def top_up(self, vcpu: Vcpu) -> None:
        """Fill both pools, as before every fault.  Raises OutOfMemory."""
        sept, pamt = vcpu.sept_cache, vcpu.pamt_cache
        while len(sept) < PT64_ROOT_MAX_LEVEL:
            pfn = self.control_page()
            if not pfn:
                raise OutOfMemory("no page for the S-EPT")
            sept.append(pfn)
        while len(pamt) < PAMT_CACHE_PAGES:
            self._add_pair_pages(pamt)

    def _add_pair_pages(self, pages: list[int]) -> None:
        """A page, or two that belong together, more in a pool."""
        if self.order_1:
            pfn = self.allocator.pages_of_order(1)
            if pfn:
                pages += (pfn, pfn + 1)
        else:
            pfn = self._pair_page()
            if pfn:
                pages.append(pfn)
        if not pfn:
            raise OutOfMemory("no page for a pair")

    def free_pair(self, first: int, second: int) -> None:
        """Give both pages back."""
        if self.order_1:
            self.allocator.free_order(min(first, second), 1)
        else:
            self._free_pair_page(first)
            self._free_pair_page(second)

    def free_pool(self, vcpu: Vcpu) -> None:
        """Give back what a VCPU's pools hold, last page first."""
        while vcpu.sept_cache:
            self.free_control_page(vcpu.sept_cache.pop())
        pamt = vcpu.pamt_cache
        while self.order_1 and pamt:
            self.free_pair(pamt.pop(), pamt.pop())
        while pamt:
            self._free_pair_page(pamt.pop())

    def get(self, pfn: int, pool: list[int]) -> None:
        """tdx_pamt_get(): two pages from the pool, given back if the region has its pair."""
        first, second = pool.pop(), pool.pop()
        region = pfn // PAGES_PER_2M
        count = self.counts[region]
        self.counts[region] = count + 1
        if count:
            self.free_pair(first, second)
        else:
            self.install(region, first, second)

    def get_alone(self, pfn: int) -> None:
        """tdx_pamt_get() of a control page: without a pool.  Raises OutOfMemory."""
        pages: list[int] = []
        try:
            while len(pages) < 2:
                self._add_pair_pages(pages)
        except OutOfMemory:
            for page in pages:
                self._free_pair_page(page)
            raise
        pages.reverse()
        self.get(pfn, pages)

    def put(self, pfn: int) -> None:
        """tdx_pamt_put(): the last one takes the pair out."""
        self.put_pages(pfn // PAGES_PER_2M, 1)

    def put_pages(self, region: int, pages: int) -> None:
        """Several puts in one region."""
        count = self.counts[region] - pages
        self.counts[region] = count
        if not count:
            self.pairs -= 1
            self.free_pair(self.pair_first[region], self.pair_second[region])

    def install(self, region: int, first: int, second: int) -> None:
        """PAMT.ADD."""
        self.pairs += 1
        self.pair_first[region] = first
        self.pair_second[region] = second

    def install_whole(self, region: int, pair: tuple[int, int]) -> None:
        """DEMOTE: the pair goes in, the count from 0 to 512."""
        self.counts[region] = PAGES_PER_2M
        self.install(region, pair[0], pair[1])

    def split_pages(self) -> tuple[int, list[int]]:
        """The S-EPT page and the pool of two pairs that one split needs.  Raises OutOfMemory."""
        sept = self.control_page()
        pool: list[int] = []
        if not sept:
            raise OutOfMemory("no page for a split")
        while len(pool) < 4:
            self._add_pair_pages(pool)
        return sept, pool
