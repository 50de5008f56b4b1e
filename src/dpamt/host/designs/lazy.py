"""The attempt before the first posting: no counts; the module says when a pair is missing or idle.

Never found as a full posting; see the covers of `[RFC, PATCH 00/12] TDX: Enable Dynamic PAMT`
(2025-05-02), `[PATCHv2 00/12]` (2025-06-09) and `[PATCH v3 00/16]` (2025-09-18).  The real SEAMCALL
is made first; when it answers TDX_MISSING_PAMT_PAGE_PAIR the pair is added and the call repeated;
when a removal gives its hint the pair is removed.  Given up, as neither may fail and both may:
another CPU's removal takes a pair away between ADD and use, and each meets the other's locks.  A
SEAMCALL that fails for another reason after the ADD leaves a pair that no hint speaks of.
"""

from typing import Final

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_SEPT_ADD,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
)
from dpamt.abi.pages import LEVEL_2M
from dpamt.abi.status import (
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_PAMT_PAGE_NOT_EMPTY,
)
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache, alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.pairs import tdx_pamt_add, tdx_pamt_remove
from dpamt.host.core.seamcall import tdh_mem_page_demote
from dpamt.host.core.tdx_errno import (
    EBUSY,
    EIO,
    ENOMEM,
    is_tdx_hpa_range_not_free,
    is_tdx_operand_busy,
    tdx_status,
)

DYNAMIC_PAMT: Final = True
COUNTS: Final = "none"

_BENIGN_REMOVE: Final = (TDX_PAMT_PAGE_NOT_EMPTY, TDX_NO_PAMT_PAGE_PAIR)
"""A hint that came too late: somebody uses the region again, or took the pair out already."""

TOLERATED: Final = (
    (TDH_MNG_CREATE, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_MNG_ADDCX, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_VP_CREATE, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_VP_ADDCX, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_MEM_SEPT_ADD, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_MEM_PAGE_ADD, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_MEM_PAGE_AUG, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_MEM_PAGE_DEMOTE, TDX_MISSING_PAMT_PAGE_PAIR),
    (TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),
    (TDH_PHYMEM_PAMT_REMOVE, TDX_PAMT_PAGE_NOT_EMPTY),
    (TDH_PHYMEM_PAMT_REMOVE, TDX_NO_PAMT_PAGE_PAIR),
)


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Nothing is done ahead."""
    return 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """Nothing is done without a hint."""


def tdx_pamt_missing(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Add the pair; that another CPU was faster is as good."""
    pages = alloc_pamt_pages(kernel, cache)
    if pages is None:
        return -ENOMEM
    status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])
    if not status:
        return 0
    if cache is not None:
        cache.pages.extend(pages)
    else:
        free_pamt_pages(kernel, pages[0], pages[1])
    if is_tdx_hpa_range_not_free(status):
        return 0
    if is_tdx_operand_busy(status):
        return -EBUSY
    kernel.log.info(f"PAMT.ADD failed: {status:#x}")
    return -EIO


def tdx_pamt_hint(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """Remove the pair.  A removal cannot fail: what the module refuses stays installed."""
    status, first, second = tdx_pamt_remove(kernel, cpu, pfn)
    if not status:
        free_pamt_pages(kernel, first, second)
    elif tdx_status(status) not in _BENIGN_REMOVE:
        kernel.log.info(f"PAMT.REMOVE failed: {status:#x}")


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """DEMOTE brings its own pair; there is no count to set, and no lock."""
    status = tdh_mem_page_demote(cpu, tdr, gpa, LEVEL_2M, sept, pages[0], pages[1])
    if not status:
        kernel.pamt_pairs.add(1)
    return status


def init_pamt_metadata(kernel: Kernel) -> int:
    """No counters, no memory for them."""
    return 0
