"""Wrong: the pair stays, and so does a count of 1."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core import refcounts
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True
PAIRS_MAY_STAY: Final = True


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
        here = kernel.mine.at(pfn // PAGES_PER_2M).load()
        if here:
            refcount.store(1)
            count = 1
        else:
            status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
            if not status:
                kernel.mine.at(pfn // PAGES_PER_2M).store(1)
                refcount.store(1)
    lock.unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    refcount.add_unless(-1, 1)
