"""The posting of September 2025, both of its patches, errors included.

`[PATCH v3 00/16] TDX: Enable Dynamic PAMT` (2025-09-18), the helpers and the patch that optimises
them; counters with v2's arithmetic and v2's crash on older modules.  Pages are taken before the
fast path looks at the count.  Found in review: a PAMT.ADD that fails is reported as success
(R. Edgecombe, 2025-11-26); when the second page of a pair cannot be had, the first is leaked; a
VCPU that is freed before KVM_TDX_INIT_VCPU has no list of pages yet (both Y. Zhao).
"""

from typing import Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.abi.status import TDX_HPA_RANGE_NOT_FREE
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import SITE_PAIR, PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import ENOMEM, is_tdx_hpa_range_not_free
from dpamt.host.designs import v2

DYNAMIC_PAMT: Final = True
CACHE_FROM_CREATE: Final = False
TOLERATED: Final = ((TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),)

init_pamt_metadata = v2.init_pamt_metadata
populate_pamt_metadata = v2.populate_pamt_metadata
free_pamt_metadata = v2.free_pamt_metadata


def alloc_pamt_array(kernel: Kernel, cache: PamtCache | None) -> tuple[int, int] | None:
    """Two pages; on a shortage of the allocator the first of them is lost."""
    if cache is not None:
        return alloc_pamt_pages(kernel, cache)
    first = kernel.allocator.alloc_page(SITE_PAIR[0])
    if first is None:
        return None
    second = kernel.allocator.alloc_page(SITE_PAIR[1])
    if second is None:
        return None
    return first, second


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """0 as well when PAMT.ADD fails, with the count still 0."""
    if not kernel.dynamic_pamt:
        return 0
    pages = alloc_pamt_array(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = v2.tdx_get_pamt_refcount(kernel, pfn)
    raised = refcount.inc_not_zero()
    if raised:
        free_pamt_pages(kernel, pages[0], pages[1])
        return 0
    lock = kernel.pamt_lock
    status = 0
    lock.lock()
    count = refcount.load()
    if count:
        refcount.add(1)
    else:
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
        if not status or is_tdx_hpa_range_not_free(status):
            refcount.store(1)
    lock.unlock()
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    if status and not is_tdx_hpa_range_not_free(status):
        kernel.log.info(f"PAMT.ADD failed: {status:#x}")
    return 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """The count falls to 0 before the lock is taken, so a get may come in between."""
    if not kernel.dynamic_pamt:
        return
    refcount = v2.tdx_get_pamt_refcount(kernel, pfn)
    count = refcount.add(-1)
    if count:
        return
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    if count:
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        refcount.add(1)
        lock.unlock()
        kernel.log.info(f"PAMT.REMOVE failed: {status:#x}")
        return
    lock.unlock()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)
