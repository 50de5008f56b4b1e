"""The first posting, May 2025: counters per TDMR, and a failed removal that is forgotten.

`[RFC, PATCH 00/12] TDX: Enable Dynamic PAMT` (2025-05-02).  Get and put as in v2, but the pair is
freed with the lock held when PAMT.ADD fails, and after a failed PAMT.REMOVE the count stays 0 with
the pair in place: the next get finds it and goes on, and without one it is lost.

Counters have memory for all of each TDMR (1 GiB granularity, holes included); here it comes with
the memory list, a little before TDMRs are initialised.  Freeing it after a failed boot does not ask
for Dynamic PAMT first: on an older module it frees an area that was never there, and crashes.
"""

from typing import Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M, SIZE_1G
from dpamt.abi.status import TDX_HPA_RANGE_NOT_FREE
from dpamt.host.core import refcounts
from dpamt.host.core.kernel import Cpu, Kernel, KernelOops
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.refcounts import REFCOUNTS_PER_PAGE, SITE_REFCOUNTS
from dpamt.host.core.tdx_errno import EIO, ENOMEM, is_tdx_hpa_range_not_free

DYNAMIC_PAMT: Final = True
MEMINFO: Final = True
TOLERATED: Final = ((TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),)

_PAGES_PER_1G: Final = SIZE_1G >> PAGE_SHIFT


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """A count that is not 0 is raised without lock or allocation."""
    if not kernel.dynamic_pamt:
        return 0
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    raised = refcount.inc_not_zero()
    if raised:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    if count:
        refcount.add(1)
        lock.unlock()
        free_pamt_pages(kernel, pages[0], pages[1])
        return 0
    status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if status:
        free_pamt_pages(kernel, pages[0], pages[1])
    # A put that has not reached its lock yet left the pair in place: it is ours now.
    if not status or is_tdx_hpa_range_not_free(status):
        refcount.store(1)
        lock.unlock()
        return 0
    lock.unlock()
    kernel.log.info(f"PAMT.ADD failed: {status:#x}")
    return -EIO


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The count falls to 0 before the lock is taken, so a get may come in between."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    count = refcount.add(-1)
    if count:
        return
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    if count:
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    lock.unlock()
    if status:
        kernel.log.info(f"PAMT.REMOVE failed: {status:#x}")
        return
    free_pamt_pages(kernel, first, second)


def init_pamt_metadata(kernel: Kernel) -> int:
    """Reserves addresses only; no page is behind them yet."""
    return 0


def populate_pamt_metadata(kernel: Kernel, start_pfn: int, end_pfn: int) -> int:
    """Pages behind the counters of the TDMRs that cover one memory entry; 0 or -ENOMEM."""
    if not kernel.dynamic_pamt:
        return 0
    first = start_pfn // _PAGES_PER_1G * _PAGES_PER_1G // PAGES_PER_2M
    end = -(-end_pfn // _PAGES_PER_1G) * _PAGES_PER_1G // PAGES_PER_2M
    for index in range(first // REFCOUNTS_PER_PAGE, -(-end // REFCOUNTS_PER_PAGE)):
        if index not in kernel.refcount_pages:
            pfn = kernel.allocator.alloc_page(SITE_REFCOUNTS)
            if pfn is None:
                return -ENOMEM
            kernel.refcount_pages[index] = pfn
    return 0


def free_pamt_metadata(kernel: Kernel) -> None:
    """Frees the area.  Raises KernelOops without Dynamic PAMT: its address is NULL."""
    if not kernel.dynamic_pamt:
        raise KernelOops(
            "NULL pointer dereference: PAMT refcounts freed on a module without Dynamic PAMT"
        )
    refcounts.free_pamt_metadata(kernel)
