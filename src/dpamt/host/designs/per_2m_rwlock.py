"""A reader/writer lock for each 2M region, taken just as the module takes its own; not posted.

Thread on `[PATCH v3 00/16] TDX: Enable Dynamic PAMT` (2025-09-26 to 09-30): the region's lock for
writing, those of the regions where the pair pages lie for reading.  Answered by Y. Zhao on
2025-09-28: two ADDs whose pairs lie in each other's region wait for each other for ever.
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


def regions_to_read(region: int, pages: tuple[int, int]) -> list[int]:
    """The regions of the pair pages, each once, without the one that is locked for writing."""
    others = [page // PAGES_PER_2M for page in pages]
    return [other for other in dict.fromkeys(others) if other != region]


def read_lock_regions(kernel: Kernel, regions: list[int]) -> None:
    """In the order of the SEAMCALL's operands."""
    locks = kernel.pamt.region_rwlocks
    for index in range(len(regions)):
        lock = locks.at(regions[index])
        lock.read_lock()


def read_unlock_regions(kernel: Kernel, regions: list[int]) -> None:
    """All of them."""
    locks = kernel.pamt.region_rwlocks
    for index in range(len(regions)):
        lock = locks.at(regions[index])
        lock.read_unlock()


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """As merged, under the region's lock and, for the ADD, those of the pair."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    region = pfn // PAGES_PER_2M
    refcount = kernel.pamt_refcounts.at(region)
    lock = kernel.pamt.region_rwlocks.at(region)
    status = 0
    lock.write_lock()
    count = refcount.load()
    if not count:
        regions = regions_to_read(region, pages)
        read_lock_regions(kernel, regions)
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
        read_unlock_regions(kernel, regions)
    if not status:
        refcount.store(count + 1)
    lock.write_unlock()
    if status:
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """As merged, under the region's lock: PAMT.REMOVE locks no other region."""
    if not kernel.dynamic_pamt:
        return
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    lock = kernel.pamt.region_rwlocks.at(pfn // PAGES_PER_2M)
    lock.write_lock()
    count = refcount.load()
    if count > 1:
        refcount.store(count - 1)
        lock.write_unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        lock.write_unlock()
        kernel.log.warn_once("PAMT.REMOVE", f"PAMT.REMOVE of page {pfn:#x} failed: {status:#018x}")
        return
    refcount.store(0)
    lock.write_unlock()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """Under the lock of the split region and those of the pair."""
    region = pfn // PAGES_PER_2M
    lock = kernel.pamt.region_rwlocks.at(region)
    regions = regions_to_read(region, pages)
    lock.write_lock()
    read_lock_regions(kernel, regions)
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    read_unlock_regions(kernel, regions)
    lock.write_unlock()
    return status
