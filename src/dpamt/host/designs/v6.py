"""The optimised design that was posted but not merged: no lock while the count stays above 0.

`[PATCH v6 00/11] Dynamic PAMT` (2026-05-25), with "x86/virt/tdx: Optimize tdx_pamt_get/put()".
Unlike in v1 to v5 the count falls to 0 with the lock held (D. Hansen, 2026-02-10), so a get never
finds the pair in place.
"""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.atomic import atomic_dec_and_lock
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True


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
    status = 0
    lock.lock()
    count = refcount.load()
    if count:
        refcount.add(1)
    else:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
        if not status:
            refcount.store(1)
    lock.unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The last put goes from 1 to 0 with the lock held; if the module refuses, the count is 1."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    last = atomic_dec_and_lock(refcount, lock)
    if not last:
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        refcount.store(1)
        lock.unlock()
        kernel.log.warn_once("PAMT.REMOVE", f"PAMT.REMOVE of page {pfn:#x} failed: {status:#018x}")
        return
    lock.unlock()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)
