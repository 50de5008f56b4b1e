"""The VCPU's page pool: how far it fills, what stays after a failure, who frees what."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dpamt.host.core.page_cache import (
    PamtCache,
    alloc_pamt_pages,
    free_pamt_pages,
    tdx_free_pamt_cache,
    tdx_topup_pamt_cache,
)
from dpamt.host.core.tdx_errno import ENOMEM
from dpamt.platform.page_allocator import PageAllocator
from tests.host.rig import small_machine


def kernel_with_allocator() -> Any:
    """All that the pool needs of a kernel is its allocator, and that it has Dynamic PAMT."""
    design = SimpleNamespace(helpers=None)
    return SimpleNamespace(
        allocator=PageAllocator(small_machine()), dynamic_pamt=True, design=design
    )


@given(st.integers(0, 6), st.integers(0, 12), st.integers(0, 12))
def test_topup_keeps_what_it_got(pairs: int, before: int, fail_at: int) -> None:
    kernel = kernel_with_allocator()
    everything = kernel.allocator.snapshot()
    cache = PamtCache()
    cache.pages = [kernel.allocator.alloc_page("test") for _ in range(before)]
    kernel.allocator.fail_when = lambda _site, ordinal: ordinal - before == fail_at
    error = tdx_topup_pamt_cache(kernel, cache, pairs)
    wanted = max(2 * pairs - before, 0)
    assert error == (-ENOMEM if fail_at < wanted else 0)
    assert len(cache.pages) == before + min(wanted, fail_at)
    assert len(set(cache.pages)) == len(cache.pages)
    tdx_free_pamt_cache(kernel, cache)
    assert cache.pages == []
    assert kernel.allocator.snapshot() == everything


@given(st.integers(0, 3), st.booleans(), st.integers(0, 2))
def test_a_pair_or_nothing(in_pool: int, use_pool: bool, fail_at: int) -> None:
    kernel = kernel_with_allocator()
    everything = kernel.allocator.snapshot()
    cache = PamtCache()
    cache.pages = [kernel.allocator.alloc_page("test") for _ in range(in_pool)]
    held = set(cache.pages)
    kernel.allocator.fail_when = lambda _site, ordinal: ordinal - in_pool == fail_at
    pages = alloc_pamt_pages(kernel, cache if use_pool else None)
    assert (pages is not None) == (in_pool >= 2 if use_pool else fail_at == 2)
    if pages is not None:
        assert pages[0] != pages[1]
        assert (set(pages) <= held) == use_pool
        free_pamt_pages(kernel, *pages)
    elif use_pool:
        assert cache.pages == []  # a short pool goes to the allocator
    tdx_free_pamt_cache(kernel, cache)
    assert kernel.allocator.snapshot() == everything
