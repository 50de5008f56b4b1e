"""Wrong: as right_reaper, but a PAMT.REMOVE that fails is tried again for ever."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core import refcounts
from dpamt.host.core.control_pages import tdx_quirk_reset_page
from dpamt.host.core.demote import demote_and_count
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM
from dpamt.host.core.workqueue import queue_work

DYNAMIC_PAMT: Final = True
REMOVAL: Final = "worker"


def init_pamt_metadata(kernel: Kernel) -> int:
    """A word for each region: 1 while its pair is installed."""
    kernel.installed = kernel.shared.words("host.installed")
    return refcounts.init_pamt_metadata(kernel)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """A region that the worker has not come to yet has its pair: the word says so."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    installed = kernel.installed.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    status = 0
    lock.lock()
    count = refcount.load()
    there = installed.load()
    if not there:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if not status:
        installed.store(1)
        refcount.store(count + 1)
    lock.unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if there or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """DEMOTE brings a pair too."""
    installed = kernel.installed.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    lock.lock()
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    if not status:
        installed.store(1)
    lock.unlock()
    return status


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """Who counts down to 0 has the worker come."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    refcount.store(count - 1)
    lock.unlock()
    if count == 1:
        queue_work(kernel, pfn // PAGES_PER_2M)


def tdx_pamt_work(kernel: Kernel, cpu: Cpu, item: int) -> None:
    """The worker removes the pair of a region, if it is still unused then."""
    pfn = item * PAGES_PER_2M
    refcount = kernel.pamt_refcounts.at(item)
    installed = kernel.installed.at(item)
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    there = installed.load()
    if count or not there:
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        lock.unlock()
        queue_work(kernel, item)
        kernel.log.warn_once("PAMT.REMOVE", f"PAMT.REMOVE of page {pfn:#x} failed: {status:#018x}")
        return
    installed.store(0)
    lock.unlock()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)
