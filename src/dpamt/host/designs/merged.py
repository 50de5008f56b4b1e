"""What was merged: one lock around every get and put, the pair present while the count is not 0.

Merged commits of 2026-09-04: ad52ce8389d9 "x86/virt/tdx: Add helpers `__tdx_pamt_get()` /
`__tdx_pamt_put()`", 5386c5288001 "x86/virt/tdx: Allocate refcounts for Dynamic PAMT memory",
eca9d4a3f1f8 "x86/virt/tdx: Handle multiple callers in `tdx_pamt_get/put()`", 2c8ca2ba9bb6
"x86/virt/tdx: Add APIs to support Dynamic PAMT ops from KVM's fault path".

Get, put, counters, page pool and boot were held, on 2026-11-29, against a complete
arch/x86/virt/vmx/tdx/tdx.c of a 7.3-era tree with Dynamic PAMT and without the optimising patch.
KVM's half (:mod:`dpamt.host.kvm`) is known only from Linux 7.3.4 and patches 7 and 9 of `[PATCH v6
00/11] Dynamic PAMT` (2026-05-25): what was merged of it has not been seen.
"""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, reset_and_free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.refcounts import refcount_is_mapped
from dpamt.host.core.tdx_errno import EIO, ENOMEM
from dpamt.sync import Word

DYNAMIC_PAMT: Final = True
DPAMT_NAMES: Final = True


def tdx_find_dpamt_refcount(kernel: Kernel, pfn: int) -> Word:
    """The counter of the region; no bound is checked.

    Raises KernelOops where no memory is behind it.
    """
    refcount_is_mapped(kernel, pfn)
    return kernel.dpamt_refcounts.at(pfn // PAGES_PER_2M)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Two pages are taken on every get; reset and given back when the region has its pair."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = tdx_find_dpamt_refcount(kernel, pfn)
    lock = kernel.dpamt_lock
    lock.lock()
    raised = refcount.inc_not_zero()
    if raised:
        lock.unlock()
        reset_and_free_pamt_pages(kernel, pages[0], pages[1])
        return 0
    status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if status:
        kernel.log.warn_on_once("tdx_pamt_get", lock.name)
        lock.unlock()
        reset_and_free_pamt_pages(kernel, pages[0], pages[1])
        return -EIO
    refcount.store(1)
    lock.unlock()
    return 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The last put removes the pair; if the module refuses, count and pair stay for ever."""
    if not kernel.dynamic_pamt:
        return
    refcount = tdx_find_dpamt_refcount(kernel, pfn)
    lock = kernel.dpamt_lock
    lock.lock()
    count = refcount.load()
    if count > 1:
        refcount.add(-1)
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        kernel.log.warn_on_once("tdx_pamt_put", lock.name)
        lock.unlock()
        return
    refcount.store(0)
    lock.unlock()
    reset_and_free_pamt_pages(kernel, first, second)
