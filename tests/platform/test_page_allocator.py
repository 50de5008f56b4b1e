"""The allocator against a set of pages: nothing twice, nothing lost, no refusal without need."""

from copy import deepcopy
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from dpamt.errors import InputError
from dpamt.platform.machine import Cmr, Machine, MemoryBlock
from dpamt.platform.page_allocator import (
    MAX_PAGE_ORDER,
    BadAllocation,
    BadFree,
    PageAllocator,
)
from dpamt.platform.size import machine_from_size

FOUR_GIB = 1 << 20  # pages


def machine(*blocks: MemoryBlock) -> Machine:
    end = blocks[-1].end_pfn
    return Machine("test", (Cmr(0, end << 12),), blocks, end)


SMALL = machine(
    MemoryBlock(1, 0x9F, 0),
    MemoryBlock(0x100, 0x1203, 0),  # unaligned tail
    MemoryBlock(0x1205, 0x1A00, 0),  # unaligned head, touches the next block of its node
    MemoryBlock(0x1A00, 0x2100, 0),
    MemoryBlock(0x2100, 0x3000, 1),  # node border inside a 4 MiB block
    MemoryBlock(FOUR_GIB - 0x400, FOUR_GIB + 0x900, 1),  # across the zone border
)


def managed(host: Machine) -> set[int]:
    return {
        pfn for block in host.memory for pfn in range(max(block.start_pfn, 0x100), block.end_pfn)
    }


def pages_of(allocator: PageAllocator) -> set[int]:
    return {
        pfn
        for _, ranges in allocator.snapshot()
        for start, end in ranges
        for pfn in range(start, end)
    }


def zone_of(host: Machine, pfn: int) -> tuple[int, bool]:
    block = next(b for b in host.memory if b.start_pfn <= pfn < b.end_pfn)
    return block.nid, pfn >= FOUR_GIB


def naive_fit(host: Machine, free: set[int], pages: int, nid: int | None = None) -> bool:
    """Whether some run fits, start by start: aligned when the length is a power of two."""
    align = pages if pages & (pages - 1) == 0 else 1
    run = 0
    previous: tuple[int, tuple[int, bool]] | None = None
    for pfn in sorted(free):
        zone = zone_of(host, pfn)
        run = run + 1 if previous == (pfn - 1, zone) else 1
        previous = pfn, zone
        start = pfn - pages + 1
        if (nid is None or zone[0] == nid) and run >= pages and start % align == 0:
            return True
    return False


class AllocatorMachine(RuleBasedStateMachine):
    """Random calls on a 30 MiB host with two nodes and both zones, with an oracle of plain sets."""

    chunks = Bundle("chunks")

    @initialize(seed=st.integers(0, 9), fragmentation=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    def start(self, seed: int, fragmentation: float) -> None:
        self.allocator = PageAllocator(SMALL, seed, fragmentation)
        self.initial = self.allocator.snapshot()
        self.free = pages_of(self.allocator)
        assert self.free <= managed(SMALL)
        self.held: dict[int, int] = {}
        self.calls = 0

    def take(self, pfn: int, pages: int) -> None:
        taken = set(range(pfn, pfn + pages))
        assert taken <= self.free, "handed out twice, or never free"
        assert len({zone_of(SMALL, page) for page in taken}) == 1
        self.free -= taken
        self.held[pfn] = pages

    @rule(target=chunks, count=st.integers(1, 300))
    def alloc_page(self, count: int) -> tuple[str, int, int]:
        first: int | None = None
        for _ in range(count):
            shortages = self.allocator.shortages
            pfn = self.allocator.alloc_page("single")
            self.calls += 1
            assert self.allocator.shortages - shortages == (pfn is None)
            if pfn is None:
                assert not self.free
                break
            self.take(pfn, 1)
            if first is None:
                first = pfn
            else:
                self.spare(pfn)
        return ("page", -1, 0) if first is None else ("page", first, 1)

    def spare(self, pfn: int) -> None:
        """Give back every third page at once, so that single pages come and go."""
        if pfn % 3 == 0:
            self.allocator.free_page(pfn)
            self.free.add(pfn)
            del self.held[pfn]

    @rule(target=chunks, order=st.integers(0, MAX_PAGE_ORDER), nid=st.sampled_from([None, 0, 1, 7]))
    def alloc_pages(self, order: int, nid: int | None) -> tuple[str, int, int]:
        pfn = self.allocator.alloc_pages(order, "chunk", nid)
        self.calls += 1
        if pfn is None:
            assert not naive_fit(SMALL, self.free, 1 << order)
            return ("pages", -1, order)
        assert pfn % (1 << order) == 0
        if nid in (0, 1) and zone_of(SMALL, pfn)[0] != nid:
            assert not naive_fit(SMALL, self.free, 1 << order, nid)
        self.take(pfn, 1 << order)
        return ("pages", pfn, order)

    @rule(target=chunks, pages=st.integers(1, 5000) | st.sampled_from([512, 1024, 2048, 4096]),
          nid=st.integers(0, 2))  # fmt: skip
    def alloc_contig(self, pages: int, nid: int) -> tuple[str, int, int]:
        pfn = self.allocator.alloc_contig(pages, nid, "contig")
        self.calls += 1
        if pfn is None:
            assert not naive_fit(SMALL, self.free, pages)
            return ("contig", -1, pages)
        if nid in (0, 1) and zone_of(SMALL, pfn)[0] != nid:
            assert not naive_fit(SMALL, self.free, pages, nid)
        self.take(pfn, pages)
        return ("contig", pfn, pages)

    @rule(
        target=chunks,
        pages=st.integers(1, 2000),
        block=st.sampled_from(SMALL.memory),
        offset=st.integers(-100, 20_000),
    )
    def alloc_contig_at(self, pages: int, block: MemoryBlock, offset: int) -> tuple[str, int, int]:
        """These very pages: where all are free and in one zone, and nowhere else."""
        start = max(block.start_pfn + offset, 0)
        wanted = set(range(start, start + pages))
        zones = {zone_of(SMALL, pfn) for pfn in wanted} if wanted <= self.free else set()
        pfn = self.allocator.alloc_contig_at(start, pages)
        assert (pfn == start) is (len(zones) == 1)
        if pfn is None:
            return ("contig", -1, pages)
        self.take(pfn, pages)
        return ("contig", pfn, pages)

    @rule(chunk=consumes(chunks))
    def give_back(self, chunk: tuple[str, int, int]) -> None:
        kind, pfn, size = chunk
        if pfn in self.held:
            self.release(kind, pfn, size)
            with pytest.raises(BadFree):
                self.call_free(kind, pfn, size)

    @rule(chunk=chunks)
    def wrong_size(self, chunk: tuple[str, int, int]) -> None:
        kind, pfn, size = chunk
        assume(pfn in self.held)
        other = {"page": "pages", "pages": "pages", "contig": "contig"}[kind]
        with pytest.raises(BadFree, match=r"belongs to|single page"):
            self.call_free(other, pfn, size + 1 if size + 1 <= MAX_PAGE_ORDER else size - 1)

    @rule(pfn=st.integers(0, 0x3100) | st.integers(FOUR_GIB - 0x500, FOUR_GIB + 0xA00))
    def stray_free(self, pfn: int) -> None:
        if self.held.get(pfn) != 1:
            with pytest.raises(BadFree):
                self.allocator.free_page(pfn)

    def call_free(self, kind: str, pfn: int, size: int) -> None:
        if kind == "page":
            self.allocator.free_page(pfn)
        elif kind == "pages":
            self.allocator.free_pages(pfn, size)
        else:
            self.allocator.free_contig(pfn, size)

    def release(self, kind: str, pfn: int, size: int) -> None:
        self.call_free(kind, pfn, size)
        self.free |= set(range(pfn, pfn + self.held.pop(pfn)))

    @rule()
    def compare(self) -> None:
        assert self.allocator.free_count == len(self.free)
        assert pages_of(self.allocator) == self.free
        assert self.allocator.allocations == self.calls

    @rule(pfn=st.integers(0, 0x3100) | st.integers(FOUR_GIB - 0x500, FOUR_GIB + 0xA00))
    def compare_page(self, pfn: int) -> None:
        assert self.allocator.is_free(pfn) == (pfn in self.free)

    def teardown(self) -> None:
        if not hasattr(self, "held"):
            return
        self.compare()
        for pfn, pages in list(self.held.items()):
            for kind, size in (("page", 1), ("pages", pages.bit_length() - 1), ("contig", pages)):
                try:
                    self.call_free(kind, pfn, size)
                except BadFree:
                    continue
                break
        assert self.allocator.snapshot() == self.initial


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("fragmentation", [0.0, 0.25, 1.0])
def test_every_page_can_be_taken_once_and_given_back_in_any_order(fragmentation: float) -> None:
    allocator = PageAllocator(SMALL, 3, fragmentation)
    before = allocator.snapshot()
    free = pages_of(allocator)
    held = []
    while (pfn := allocator.alloc_page("all")) is not None:
        held.append(pfn)
    assert len(held) == len(set(held))
    assert set(held) == free
    assert allocator.free_count == 0
    assert all(ranges == () for _, ranges in allocator.snapshot())
    for pfn in sorted(held, key=lambda page: page * 2654435761 % 65521):
        allocator.free_page(pfn)
    assert allocator.snapshot() == before


def test_pages_coalesce_to_the_largest_order() -> None:
    host = machine(MemoryBlock(0x400, 0x1000, 0))
    allocator = PageAllocator(host)
    held = [allocator.alloc_page("all") for _ in range(0xC00)]
    assert allocator.alloc_pages(0, "none left") is None
    for pfn in held[300:] + held[:300]:  # so that batches cross the borders of 4 MiB blocks
        assert pfn is not None
        allocator.free_page(pfn)
    blocks = [allocator.alloc_pages(MAX_PAGE_ORDER, "block") for _ in range(3)]
    assert sorted(block for block in blocks if block is not None) == [0x400, 0x800, 0xC00]
    # No trace of the single pages is left in the blocks.
    assert not any(allocator.is_free(pfn) for pfn in range(0x400, 0x1000))
    with pytest.raises(BadFree, match="order-10"):
        allocator.free_page(0xA00)
    for block in (0x400, 0x800, 0xC00):
        allocator.free_pages(block, MAX_PAGE_ORDER)
    assert allocator.snapshot() == PageAllocator(host).snapshot()


def test_a_single_page_can_be_asked_for_by_order_and_node() -> None:
    allocator = PageAllocator(SMALL)
    near = allocator.alloc_pages(0, "near", nid=1)
    default = allocator.alloc_pages(0, "default")
    assert near is not None
    assert default is not None
    assert zone_of(SMALL, near) == (1, True)
    assert zone_of(SMALL, default) == (0, False)
    for pfn in (near, default):
        allocator.free_pages(pfn, 0)
        with pytest.raises(BadFree, match="double free"):
            allocator.free_pages(pfn, 0)
    assert allocator.snapshot() == PageAllocator(SMALL).snapshot()


def test_a_copy_is_independent() -> None:
    allocator = PageAllocator(SMALL, 1, 0.5)
    held = allocator.alloc_page("x")
    twin = deepcopy(allocator)
    assert twin.snapshot() == allocator.snapshot()
    assert held is not None
    twin.free_page(held)
    assert twin.is_free(held)
    assert not allocator.is_free(held)


def test_memory_above_four_gib_goes_first_and_the_other_node_last() -> None:
    gib = 1 << 18
    host = machine(
        MemoryBlock(0x100, 2 * gib, 0),
        MemoryBlock(4 * gib, 5 * gib, 0),
        MemoryBlock(5 * gib, 6 * gib, 1),
    )
    allocator = PageAllocator(host)
    assert allocator.alloc_contig(gib, 0, "first") == 4 * gib
    assert allocator.alloc_contig(gib, 0, "second") == gib
    assert allocator.alloc_contig(gib, 0, "third") == 5 * gib
    assert allocator.alloc_contig(gib, 0, "fourth") is None
    other = PageAllocator(host)
    assert other.alloc_contig(gib, 1, "first") == 5 * gib
    chunk = other.alloc_pages(3, "near", nid=1)
    assert chunk is not None
    assert chunk < 5 * gib


@given(
    share=st.fractions(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_fragmentation_spoils_exactly_its_share_of_regions(share: Fraction, seed: int) -> None:
    host = machine_from_size("256MiB")
    whole = pages_of(PageAllocator(host))
    allocator = PageAllocator(host, seed, float(share))
    spoiling = whole - pages_of(allocator)
    regions = 127  # 256 MiB less the region that holds the first MiB
    assert len({pfn >> 9 for pfn in spoiling}) == len(spoiling) == allocator.kernel_pages
    assert len(spoiling) == round(float(share) * regions)
    assert PageAllocator(host, seed, float(share)).snapshot() == allocator.snapshot()
    fitting = 0
    while allocator.alloc_pages(9, "2M") is not None:
        fitting += 1
    assert fitting == regions - len(spoiling)
    for pfn in spoiling:
        assert not allocator.is_free(pfn)
        with pytest.raises(BadFree, match="never allocated"):
            allocator.free_page(pfn)


def test_another_seed_spoils_other_regions() -> None:
    host = machine_from_size("256MiB")
    snapshots = {PageAllocator(host, seed, 0.5).snapshot() for seed in range(8)}
    assert len(snapshots) == 8


def test_fully_fragmented_memory_has_pages_but_no_two_mib() -> None:
    allocator = PageAllocator(machine_from_size("1GiB"), 1, 1.0)
    assert allocator.free_count > 0.99 * (1 << 18)
    assert allocator.alloc_contig(1024, 0, "PAMT") is None
    assert allocator.alloc_pages(8, "half a region") is not None


@pytest.mark.parametrize("fragmentation", [-0.1, 1.1, float("nan")])
def test_fragmentation_outside_its_range_is_refused(fragmentation: float) -> None:
    with pytest.raises(InputError, match="fragmentation"):
        PageAllocator(SMALL, 0, fragmentation)


def test_injected_failures_hit_the_named_allocations_only() -> None:
    allocator = PageAllocator(SMALL)
    asked: list[tuple[str, int]] = []

    def fail(site: str, ordinal: int) -> bool:
        asked.append((site, ordinal))
        return ordinal in (1, 3, 4)

    allocator.fail_when = fail
    before = allocator.free_count
    assert allocator.alloc_page("a") is not None
    assert allocator.alloc_page("b") is None
    assert allocator.alloc_pages(2, "c") is not None
    assert allocator.alloc_pages(0, "d") is None
    assert allocator.alloc_contig(3, 0, "e") is None
    assert asked == [("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4)]
    assert allocator.allocations == 5
    assert before - allocator.free_count == 5
    allocator.fail_when = None
    assert allocator.alloc_contig(3, 0, "f") is not None


def test_bad_frees_say_what_is_wrong() -> None:
    allocator = PageAllocator(SMALL)
    page = allocator.alloc_page("x")
    chunk = allocator.alloc_pages(3, "x")
    run = allocator.alloc_contig(11, 0, "x")
    assert page is not None
    assert chunk is not None
    assert run is not None
    with pytest.raises(BadFree, match="order-3 allocation that begins"):
        allocator.free_page(chunk + 1)
    with pytest.raises(BadFree, match="order-3 allocation that begins"):
        allocator.free_pages(chunk, 2)
    with pytest.raises(BadFree, match="11 contiguous pages"):
        allocator.free_contig(run, 10)
    with pytest.raises(BadFree, match="11 contiguous pages"):
        allocator.free_page(run + 10)
    with pytest.raises(BadFree, match="single page"):
        allocator.free_contig(page, 1)
    with pytest.raises(BadFree, match="not memory"):
        allocator.free_page(5)
    with pytest.raises(BadFree, match="not memory"):
        allocator.free_page(-1)
    allocator.free_page(page)
    with pytest.raises(BadFree, match="double free"):
        allocator.free_page(page)
    allocator.free_pages(chunk, 3)
    allocator.free_contig(run, 11)
    assert allocator.snapshot() == PageAllocator(SMALL).snapshot()


@pytest.mark.parametrize("order", [-1, 11])
def test_orders_outside_the_buddy_system_are_refused(order: int) -> None:
    with pytest.raises(BadAllocation, match="expected 0 to 10"):
        PageAllocator(SMALL).alloc_pages(order, "x")


def test_contiguous_allocation_of_nothing_is_refused() -> None:
    with pytest.raises(BadAllocation, match="at least 1"):
        PageAllocator(SMALL).alloc_contig(0, 0, "x")


def test_an_idle_terabyte_is_a_handful_of_ranges() -> None:
    allocator = PageAllocator(machine_from_size("1TiB"))
    assert allocator.free_count == (1 << 28) - 256
    assert len(allocator.snapshot()) == 2
    pamt = allocator.alloc_contig((1 << 30) + (2 << 20) + 4096 >> 12, 1, "PAMT")
    assert pamt == 0x80_8000_0000 >> 12


@given(share=st.floats(0, 1), seed=st.integers(0, 99), held=st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_a_host_that_has_been_up_loses_exactly_the_share_of_its_whole_regions(
    share: float, seed: int, held: int
) -> None:
    host = machine_from_size("64MiB")
    allocator = PageAllocator(host)
    pages = [allocator.alloc_page("test") for _ in range(held)]

    def whole_regions() -> set[int]:
        free = [(s, e) for _, ranges in allocator.snapshot() for s, e in ranges]
        return {r for s, e in free for r in range(-(-s // 512), e // 512)}

    before, free_before = whole_regions(), allocator.free_count
    taken = allocator.fragment(share, seed)
    assert taken == round(share * len(before)) == len(before) - len(whole_regions())
    assert allocator.free_count == free_before - taken
    again = PageAllocator(host)
    for _ in range(held):
        again.alloc_page("test")
    again.fragment(share, seed)
    assert again.snapshot() == allocator.snapshot()
    for pfn in pages:
        assert pfn is not None
        allocator.free_page(pfn)
