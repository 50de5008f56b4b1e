"""The design held in reserve: one reader/writer lock; read, and write after the module was busy.

Conclusion of the thread on `[PATCH v3 00/16] TDX: Enable Dynamic PAMT` (2025-09-30): should the one
spinlock hurt, take a global lock for reading, so that regions go in parallel, and repeat a SEAMCALL
that met another's lock in the module with the lock taken for writing.  No patch was posted; what is
not in the mails is ours: two first gets of one region race under read, so a pair that is in place
(TDX_HPA_RANGE_NOT_FREE) is looked at again under write too, and a put restores the count before it
gives the read lock up, so that outside of it a count of 0 means no pair.
"""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_DEMOTE, TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.abi.status import TDX_HPA_RANGE_NOT_FREE, TDX_OPERAND_BUSY
from dpamt.host.core.demote import demote_and_count
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import (
    EIO,
    ENOMEM,
    is_tdx_hpa_range_not_free,
    is_tdx_operand_busy,
)

DYNAMIC_PAMT: Final = True
TOLERATED: Final = (
    (TDH_PHYMEM_PAMT_ADD, TDX_OPERAND_BUSY),
    (TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),
    (TDH_PHYMEM_PAMT_REMOVE, TDX_OPERAND_BUSY),
    (TDH_MEM_PAGE_DEMOTE, TDX_OPERAND_BUSY),
)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Under read the count is raised, or the pair added; a collision is settled under write."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt.rwlock
    status = 0
    lock.read_lock()
    raised = refcount.inc_not_zero()
    if not raised:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
        if not status:
            refcount.store(1)
    lock.read_unlock()
    if is_tdx_operand_busy(status) or is_tdx_hpa_range_not_free(status):
        status = 0
        lock.write_lock()
        raised = refcount.inc_not_zero()
        if not raised:
            status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
            if not status:
                refcount.store(1)
        lock.write_unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if raised or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The last put removes the pair, under write when it met another's lock in the module."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt.rwlock
    lock.read_lock()
    count = refcount.add(-1)
    if count:
        lock.read_unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        refcount.store(1)
    lock.read_unlock()
    if is_tdx_operand_busy(status):
        lock.write_lock()
        count = refcount.add(-1)
        if count:
            lock.write_unlock()
            return
        status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
        if status:
            refcount.store(1)
        lock.write_unlock()
    if status:
        kernel.log.warn_once("PAMT.REMOVE", f"PAMT.REMOVE of page {pfn:#x} failed: {status:#018x}")
        return
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """Read, then write, as for a get."""
    lock = kernel.pamt.rwlock
    lock.read_lock()
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    lock.read_unlock()
    if is_tdx_operand_busy(status):
        lock.write_lock()
        status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
        lock.write_unlock()
    return status
