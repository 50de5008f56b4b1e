"""Puts come from RCU callbacks; get, put and DEMOTE keep softirqs off while they hold the lock."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.control_pages import tdx_quirk_reset_page
from dpamt.host.core.demote import demote_and_count
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True
SEPT_PUT: Final = "rcu"


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Two pages are taken on every get, and given back when the region has its pair already."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    status = 0
    lock.lock_bh()
    count = refcount.load()
    if not count:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if not status:
        refcount.store(count + 1)
    lock.unlock_bh()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The last put removes the pair; if the module refuses, count and pair stay for ever."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    lock.lock_bh()
    count = refcount.load()
    if count > 1:
        refcount.store(count - 1)
        lock.unlock_bh()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        lock.unlock_bh()
        kernel.log.warn_once("PAMT.REMOVE", f"PAMT.REMOVE of page {pfn:#x} failed: {status:#018x}")
        return
    refcount.store(0)
    lock.unlock_bh()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """DEMOTE brings a pair: under the same lock, softirqs off."""
    lock = kernel.pamt_lock
    lock.lock_bh()
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    lock.unlock_bh()
    return status
