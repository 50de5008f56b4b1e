"""Wrong: a spare pair for each region is kept, where one is declared."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core import refcounts
from dpamt.host.core.atomic import atomic_dec_and_lock
from dpamt.host.core.control_pages import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True
SPARE_PAGES: Final = 2


def init_pamt_metadata(kernel: Kernel) -> int:
    kernel.mine = kernel.shared.words("host.pamt_mine")
    return refcounts.init_pamt_metadata(kernel)


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
    spare = kernel.mine.at(2 * (pfn // PAGES_PER_2M))
    kept = spare.load()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    if not kept:
        spare.store(first)
        kernel.mine.at(2 * (pfn // PAGES_PER_2M) + 1).store(second)
    lock.unlock()
    if kept:
        free_pamt_pages(kernel, first, second)
