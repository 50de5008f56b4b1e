"""A lock for each 2M region in place of the one for the machine; discussed, not posted.

Asked for in the threads on `[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09, Y. Zhao,
K. Shutsemau, D. Hansen).  Answered by Y. Zhao on 2025-09-26 (thread on `[PATCH v3 00/16]`): the
module also locks the entries of the regions where the two pair pages lie, shared, so a PAMT.ADD
meets the ADD or REMOVE of those regions, which the host's locks do not exclude.
"""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.demote import demote_and_count
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """As merged, under the region's lock."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt.region_locks.at(pfn // PAGES_PER_2M)
    status = 0
    lock.lock()
    count = refcount.load()
    if not count:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if not status:
        refcount.store(count + 1)
    lock.unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """As merged, under the region's lock."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt.region_locks.at(pfn // PAGES_PER_2M)
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
    lock.unlock()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """Under the lock of the split region."""
    lock = kernel.pamt.region_locks.at(pfn // PAGES_PER_2M)
    lock.lock()
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    lock.unlock()
    return status
