"""Dynamic PAMT and huge pages in one, January 2026: S-EPT pages backed early and put late.

`[RFC PATCH v5 00/45] TDX: Dynamic PAMT + S-EPT Hugepage` (2026-01-28): get and put as in v4, with
PAMT.ADD's failure an error; S-EPT pages get their PAMT when a VCPU's cache of them is filled, up to
the 40 that a KVM cache holds, and are put by the RCU callback that frees them, in softirq context.
Found in review (2026-02): that put takes ``pamt_lock``, which tasks take with softirqs enabled
(Y. Zhao, 2026-02-06); pages that wait in caches keep pairs; a split forgets to back its S-EPT page,
and its DEMOTE runs under no lock, whatever the kernel does otherwise.
"""

from typing import Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD
from dpamt.abi.status import TDX_HPA_RANGE_NOT_FREE
from dpamt.host.core.demote import demote_and_count
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add
from dpamt.host.core.tdx_errno import EIO, ENOMEM, is_tdx_hpa_range_not_free
from dpamt.host.designs import v2, v3, v4

DYNAMIC_PAMT: Final = True
COUNTS: Final = "at-least"
SEPT_BACKING: Final = "top-up"
SEPT_CACHE_PAGES: Final = 40
SEPT_PUT: Final = "rcu"
SPLIT_BACKS_SEPT: Final = False
TOLERATED: Final = ((TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """A count that is not 0 is raised without lock or allocation."""
    if not kernel.dynamic_pamt:
        return 0
    refcount = v2.tdx_get_pamt_refcount(kernel, pfn)
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
        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
        if not status or is_tdx_hpa_range_not_free(status):
            refcount.store(1)
    lock.unlock()
    if count or status:
        free_pamt_pages(kernel, pages[0], pages[1])
    if status and not is_tdx_hpa_range_not_free(status):
        kernel.log.warn_once("PAMT.ADD", f"PAMT.ADD of page {pfn:#x} failed: {status:#018x}")
        return -EIO
    return 0


tdx_pamt_put = v3.tdx_pamt_put
tdx_pamt_demote = demote_and_count
init_pamt_metadata = v2.init_pamt_metadata
populate_pamt_metadata = v4.populate_pamt_metadata
free_pamt_metadata = v4.free_pamt_metadata
