"""Get and put of each design, with another CPU coming in between at the places that matter."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.host.core.page_cache import PamtCache, tdx_free_pamt_cache, tdx_topup_pamt_cache
from dpamt.host.core.tdx_errno import ENOMEM
from dpamt.module.view import ModuleView
from dpamt.sync import SpinLock
from tests.host.rig import Host, booted
from tests.host.test_refusals import Wall

WINDOW = ("v1", "v2", "v3", "v4", "v5")
"""Those whose count falls to 0 before the lock is taken."""
ONE_LOCK = (*WINDOW, "v6", "merged")
COUNTED = (*ONE_LOCK, "per-2m-lock", "per-2m-rwlock", "global-rwlock")

EVERY_LOCKED_DESIGN = pytest.mark.parametrize("design", ONE_LOCK)
EVERY_COUNTED_DESIGN = pytest.mark.parametrize("design", COUNTED)

PFN = 0x1234
REGION = PFN >> 9


def get(host: Host, pfn: int = PFN, cache: PamtCache | None = None) -> int:
    return host.kernel.tdx_pamt_get(host.kernel, host.cpu, pfn, cache)


def put(host: Host, pfn: int = PFN) -> None:
    host.kernel.tdx_pamt_put(host.kernel, host.cpu, pfn)


def count(host: Host, region: int = REGION) -> int:
    return host.kernel.pamt_refcounts.at(region).load()


def pairs(host: Host) -> list[int]:
    return list(ModuleView(host.module).pairs())


@EVERY_COUNTED_DESIGN
@given(st.lists(st.tuples(st.booleans(), st.integers(0x1000, 0x1000 + 2047)), max_size=60))
@settings(max_examples=15, deadline=None)
def test_pair_is_there_exactly_while_the_count_is_not_zero(
    design: str, moves: list[tuple[bool, int]]
) -> None:
    host = booted(design)
    held: list[int] = []
    for up, pfn in moves:
        if up:
            assert get(host, pfn) == 0
            held.append(pfn)
        elif held:
            put(host, held.pop(pfn % len(held)))
        expected = dict.fromkeys(range(8, 12), 0)
        for page in held:
            expected[page >> 9] += 1
        assert {region: count(host, region) for region in expected} == expected
        assert pairs(host) == [region for region in expected if expected[region]]
        assert host.kernel.pamt_pairs.load() == len(pairs(host))
    while held:
        put(host, held.pop())
    assert host.audit() == []


class InterruptedLock(SpinLock):
    """pamt_lock, before which another CPU gets its turn, once."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__("pamt_lock")
        self.before: Callable[[], None] | None = before

    def lock(self) -> None:
        before, self.before = self.before, None
        if before is not None:
            before()
        super().lock()


def interrupt_before_the_lock(host: Host, before: Callable[[], None]) -> None:
    host.kernel.pamt_lock = InterruptedLock(before)


@EVERY_LOCKED_DESIGN
def test_a_get_between_a_puts_decrement_and_its_lock(design: str) -> None:
    host = booted(design)
    wall = Wall(host, lambda _leaf, _nth: False, 0)
    assert get(host) == 0
    results: list[int] = []
    interrupt_before_the_lock(host, lambda: results.append(get(host)))
    put(host)
    assert results == [0]
    assert (count(host), pairs(host)) == (1, [REGION])
    adds = wall.counts[TDH_PHYMEM_PAMT_ADD]
    # In the window the get finds the pair in place (TDX_HPA_RANGE_NOT_FREE) and keeps it.
    assert adds == (2 if design in WINDOW else 1)
    assert TDH_PHYMEM_PAMT_REMOVE not in wall.counts
    assert host.kernel.pamt_pairs.load() == 1
    put(host)
    assert host.audit() == []


@EVERY_LOCKED_DESIGN
def test_two_first_gets_at_once(design: str) -> None:
    host = booted(design)
    wall = Wall(host, lambda _leaf, _nth: False, 0)
    results: list[int] = []
    interrupt_before_the_lock(host, lambda: results.append(get(host)))
    assert get(host) == 0
    assert results == [0]
    assert (count(host), pairs(host)) == (2, [REGION])
    assert wall.counts[TDH_PHYMEM_PAMT_ADD] == 1
    put(host)
    put(host)
    assert host.audit() == []


@EVERY_LOCKED_DESIGN
def test_a_put_and_a_get_while_a_get_waits(design: str) -> None:
    host = booted(design)
    assert get(host) == 0

    def others() -> None:
        put(host)
        assert get(host) == 0

    interrupt_before_the_lock(host, others)
    if design == "merged":
        assert get(host) == 0  # its lock comes after the other CPU's turn
        assert count(host) == 2
        put(host)
    put(host)
    host.kernel.pamt_lock = host.kernel.pamt.lock
    while count(host):
        put(host)
    assert host.audit() == []


@EVERY_COUNTED_DESIGN
def test_an_empty_pool_is_out_of_memory(design: str) -> None:
    host = booted(design)
    cache = PamtCache()
    assert get(host, PFN, cache) == -ENOMEM
    assert tdx_topup_pamt_cache(host.kernel, cache, 1) == 0
    assert get(host, PFN, cache) == 0
    assert cache.pages == []
    # Designs without a fast path, or with one behind it, want pages for a region that has its pair.
    again = get(host, PFN + 1, cache)
    assert again == (0 if design in ("v1", "v2", "v4", "v5", "v6") else -ENOMEM)
    for _ in range(count(host)):
        put(host)
    tdx_free_pamt_cache(host.kernel, cache)
    assert host.audit() == []


def test_a_put_too_many() -> None:
    merged = booted("merged")
    put(merged)
    assert count(merged) == 0
    assert len(merged.kernel.log.warnings) == 1
    assert merged.audit() == []
    v2 = booted("v2")
    put(v2)
    assert count(v2) == -1
    assert v2.audit(idle=False)
    assert get(v2) == 0
    assert len(v2.kernel.log.warnings) == 1


def test_put_clears_the_pages_where_the_design_does() -> None:
    """The first two postings hand back pages that the module wrote under its KeyID."""
    dirty_designs = ("v1", "v2")
    for design in COUNTED:
        dirty = 2 if design in dirty_designs else 0
        host = booted(design)
        before = host.memory.resident_pages
        assert get(host) == 0
        pair = ModuleView(host.module).pairs()[REGION]
        for page in pair[:2]:
            host.memory.write(page << 12, b"ciphertext")
        put(host)
        assert host.memory.resident_pages == before + dirty
