"""The posting of November 2025: v3 repaired, but a PAMT.ADD that fails still counts as success.

`[PATCH v4 00/16] TDX: Enable Dynamic PAMT` (2025-11-20): counters for the first to the last page of
a memory entry, and none on older modules; the count is looked at before pages are taken.  Noticed
by R. Edgecombe on 2025-11-26: get returns 0 with the count still 0, so the SEAMCALL after it meets
no pair, and the put after that makes the count negative.
"""

from typing import Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.abi.status import TDX_HPA_RANGE_NOT_FREE
from dpamt.host.core import refcounts
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add
from dpamt.host.core.refcounts import REFCOUNTS_PER_PAGE, SITE_REFCOUNTS
from dpamt.host.core.tdx_errno import ENOMEM, is_tdx_hpa_range_not_free
from dpamt.host.designs import v2, v3

DYNAMIC_PAMT: Final = True
TOLERATED: Final = ((TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """0 as well when PAMT.ADD fails, with the count still 0."""
    if not kernel.dynamic_pamt:
        return 0
    refcount = v2.tdx_get_pamt_refcount(kernel, pfn)
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
        if not status or is_tdx_hpa_range_not_free(status):
            refcount.store(1)
    lock.unlock()
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    if status and not is_tdx_hpa_range_not_free(status):
        kernel.log.info(f"PAMT.ADD failed: {status:#x}")
    return 0


tdx_pamt_put = v3.tdx_pamt_put
init_pamt_metadata = v2.init_pamt_metadata


def populate_pamt_metadata(kernel: Kernel, start_pfn: int, end_pfn: int) -> int:
    """Pages behind the counters of one memory entry, first page to last; 0 or -ENOMEM."""
    if not kernel.dynamic_pamt:
        return 0
    first = start_pfn // PAGES_PER_2M // REFCOUNTS_PER_PAGE
    last = (end_pfn - 1) // PAGES_PER_2M // REFCOUNTS_PER_PAGE
    for index in range(first, last + 1):
        if index not in kernel.refcount_pages:
            pfn = kernel.allocator.alloc_page(SITE_REFCOUNTS)
            if pfn is None:
                return -ENOMEM
            kernel.refcount_pages[index] = pfn
    return 0


def free_pamt_metadata(kernel: Kernel) -> None:
    """Frees what was populated."""
    if kernel.dynamic_pamt:
        refcounts.free_pamt_metadata(kernel)
