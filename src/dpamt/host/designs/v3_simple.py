"""The kernel between two patches of September 2025: the helpers under a plain lock, as posted.

`[PATCH v3 00/16] TDX: Enable Dynamic PAMT` (2025-09-18), the helpers before the patch that
optimises them.  Get does not raise a count that is not 0, and put removes the pair whenever it is
not 0: with two users of a region the first put takes the pair from under the second (X. Li), unless
the module finds its page in use and refuses.  The other errors are those of v3.
"""

from typing import Final

from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.tdx_errno import ENOMEM, is_tdx_hpa_range_not_free
from dpamt.host.designs import v2, v3

DYNAMIC_PAMT: Final = True
CACHE_FROM_CREATE: Final = False
TOLERATED: Final = v3.TOLERATED

init_pamt_metadata = v2.init_pamt_metadata
populate_pamt_metadata = v2.populate_pamt_metadata
free_pamt_metadata = v2.free_pamt_metadata


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Nothing but a lock decides; the count is 0 or 1."""
    if not kernel.dynamic_pamt:
        return 0
    pages = v3.alloc_pamt_array(kernel, cache)
    if pages is None:
        return -ENOMEM
    refcount = v2.tdx_get_pamt_refcount(kernel, pfn)
    lock = kernel.pamt_lock
    status = 0
    lock.lock()
    count = refcount.load()
    if not count:
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
    """Removes the pair, whoever else uses it."""
    if not kernel.dynamic_pamt:
        return
    refcount = v2.tdx_get_pamt_refcount(kernel, pfn)
    lock = kernel.pamt_lock
    lock.lock()
    count = refcount.load()
    if not count:
        lock.unlock()
        return
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if status:
        lock.unlock()
        kernel.log.info(f"PAMT.REMOVE failed: {status:#x}")
        return
    refcount.store(0)
    lock.unlock()
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)
