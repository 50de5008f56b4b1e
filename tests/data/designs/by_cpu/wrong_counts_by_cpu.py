"""As right_counts_by_cpu, but a CPU that put more than it got is taken for one without users."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core import refcounts
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, reset_and_free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import EIO, ENOMEM

DYNAMIC_PAMT: Final = True
COUNTS: Final = "none"
CPUS: Final = 64


def init_pamt_metadata(kernel: Kernel) -> int:
    """The counts, a run of 64 for each region."""
    kernel.by_cpu = kernel.shared.words("host.by_cpu")
    return refcounts.init_pamt_metadata(kernel)


def users_of(kernel: Kernel, region: int) -> int:
    """Wrong: only what is above 0 is added up."""
    users = 0
    for cpu in range(len(kernel.cpus)):
        count = kernel.by_cpu.at(region * CPUS + cpu)
        own = count.load()
        users += max(own, 0)
    return users


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """The first user of a region adds its pair."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    region = pfn // PAGES_PER_2M
    count = kernel.by_cpu.at(region * CPUS + cpu.index)
    lock = kernel.pamt_lock
    lock.lock()
    users = users_of(kernel, region)
    status = 0
    if not users:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if not status:
        count.add(1)
    lock.unlock()
    if users or status:
        reset_and_free_pamt_pages(kernel, pages[0], pages[1])
    return -EIO if status else 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The last user removes it."""
    if not kernel.dynamic_pamt:
        return
    region = pfn // PAGES_PER_2M
    count = kernel.by_cpu.at(region * CPUS + cpu.index)
    lock = kernel.pamt_lock
    lock.lock()
    count.add(-1)
    users = users_of(kernel, region)
    if users:
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        count.add(1)
    lock.unlock()
    if not status:
        reset_and_free_pamt_pages(kernel, first, second)
