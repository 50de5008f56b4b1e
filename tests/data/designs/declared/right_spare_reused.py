"""One spare pair is kept under the lock, and used by the next get: else as merged."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core import refcounts
from dpamt.host.core.control_pages import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True
SPARE_PAGES: Final = 2


def init_pamt_metadata(kernel: Kernel) -> int:
    """A word for each page of the spare pair; 0: none."""
    kernel.spare = kernel.shared.words("host.spare")
    return refcounts.init_pamt_metadata(kernel)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """The spare pair goes first; the pages that were brought then are given back."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    first, second = pages
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    spare_first, spare_second = kernel.spare.at(0), kernel.spare.at(1)
    lock = kernel.pamt_lock
    status = 0
    added = False
    lock.lock()
    count = refcount.load()
    if not count:
        kept = spare_first.load()
        if kept:
            other = spare_second.load()
            spare_first.store(first)
            spare_second.store(second)
            first, second = kept, other
        status = tdx_pamt_add(kernel, cpu, pfn, first, second)
        added = not status
    if not status:
        refcount.store(count + 1)
    lock.unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if not added:
        free_pamt_pages(kernel, first, second)
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The last put removes the pair and keeps it, if none is kept yet."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    if count > 1:
        refcount.store(count - 1)
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        lock.unlock()
        kernel.log.warn_once("PAMT.REMOVE", f"PAMT.REMOVE of page {pfn:#x} failed: {status:#018x}")
        return
    refcount.store(0)
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    kept = kernel.spare.at(0).load()
    if not kept:
        kernel.spare.at(0).store(first)
        kernel.spare.at(1).store(second)
    lock.unlock()
    if kept:
        free_pamt_pages(kernel, first, second)
