"""The refcount design of June 2025: counters move without the lock unless they are 0.

`[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09): patch 3 (refcounts), patch 4 (get and put),
patch 7 (page pool, of every VM), patch 10 (meminfo); patch 8 as re-posted on 2025-06-12.

Counters live in a sparse vmalloc area of (max_pfn / 512) * 4 bytes, rounded down, with pages only
where memory is.  The arithmetic is the posting's: it populates to ``end_pfn + 1``, so it can go one
page of counters too far, and leaves a range without pages when its first and last counter stand
right at the start of the same page.  It does so with or without Dynamic PAMT, hence on an older
module, where the area was never reserved, it crashes.  A counter without memory is a crash too.
"""

from typing import Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.abi.status import TDX_HPA_RANGE_NOT_FREE
from dpamt.host.core.kernel import Cpu, Kernel, KernelOops
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.refcounts import (
    REFCOUNTS_PER_PAGE,
    SITE_REFCOUNTS,
    refcount_is_mapped,
)
from dpamt.host.core.tdx_errno import EIO, ENOMEM, is_tdx_hpa_range_not_free
from dpamt.sync import Word

DYNAMIC_PAMT: Final = True
MEMINFO: Final = True
POOL_FOR_EVERY_VM: Final = True
TOLERATED: Final = ((TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),)


def tdx_get_pamt_refcount(kernel: Kernel, pfn: int) -> Word:
    """The counter of the region.  Raises KernelOops where no page is behind it."""
    refcount_is_mapped(kernel, pfn)
    return kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """A count that is not 0 is raised without lock or allocation."""
    if not kernel.dynamic_pamt:
        return 0
    refcount = tdx_get_pamt_refcount(kernel, pfn)
    count = refcount.load()
    if count < 0:
        kernel.log.warn_once("tdx_pamt_get", f"negative PAMT refcount of page {pfn:#x}: {count}")
    raised = refcount.inc_not_zero()
    if raised:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    lock = kernel.pamt_lock
    status = 0
    lock.lock()
    count = refcount.load()
    if count:
        refcount.add(1)
    else:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
        # A put that has not reached its lock yet left the pair in place: it is ours now.
        if not status or is_tdx_hpa_range_not_free(status):
            refcount.store(1)
    lock.unlock()
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    if status and not is_tdx_hpa_range_not_free(status):
        kernel.log.info(f"PAMT.ADD failed: {status:#x}")
        return -EIO
    return 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The count falls to 0 before the lock is taken, so a get may come in between."""
    if not kernel.dynamic_pamt:
        return
    refcount = tdx_get_pamt_refcount(kernel, pfn)
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
    if status:
        refcount.add(1)
        lock.unlock()
        kernel.log.info(f"PAMT.REMOVE failed: {status:#x}")
        return
    lock.unlock()
    free_pamt_pages(kernel, first, second)


def init_pamt_metadata(kernel: Kernel) -> int:
    """Reserves addresses only; no page is behind them yet."""
    return 0


def populate_pamt_metadata(kernel: Kernel, start_pfn: int, end_pfn: int) -> int:
    """Pages behind the counters of one memory entry; 0 or -ENOMEM.

    Raises KernelOops without Dynamic PAMT: the area's address is NULL.
    """
    if not kernel.dynamic_pamt:
        raise KernelOops(
            "NULL pointer dereference: PAMT refcounts populated on a module without Dynamic PAMT"
        )
    first = start_pfn // PAGES_PER_2M // REFCOUNTS_PER_PAGE
    end = -(-((end_pfn + 1) // PAGES_PER_2M) // REFCOUNTS_PER_PAGE)
    for index in range(first, end):
        if index not in kernel.refcount_pages:
            pfn = kernel.allocator.alloc_page(SITE_REFCOUNTS)
            if pfn is None:
                return -ENOMEM
            kernel.refcount_pages[index] = pfn
    return 0


def free_pamt_metadata(kernel: Kernel) -> None:
    """Frees the pages inside the area; what was populated beyond its end is lost."""
    if not kernel.dynamic_pamt:
        return
    area = -(-(kernel.machine.max_pfn // PAGES_PER_2M) // REFCOUNTS_PER_PAGE)
    for index in range(area):
        pfn = kernel.refcount_pages.pop(index, None)
        if pfn is not None:
            kernel.allocator.free_page(pfn)
