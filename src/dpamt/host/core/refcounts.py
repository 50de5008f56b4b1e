"""The memory behind the refcounts of a design that has no arrangement of its own.

One 4-byte counter for each 2M region from 0 to max_pfn, zeroed vmalloc memory: whole pages.

Source: merged 5386c5288001 "x86/virt/tdx: Allocate refcounts for Dynamic PAMT memory" (2026-09-04).
"""

from typing import Final

from dpamt.abi.pages import PAGE_SIZE, PAGES_PER_2M
from dpamt.host.core.kernel import Kernel, KernelOops
from dpamt.host.core.tdx_errno import ENOMEM

REFCOUNT_BYTES: Final = 4
REFCOUNTS_PER_PAGE: Final = PAGE_SIZE // REFCOUNT_BYTES

SITE_REFCOUNTS: Final = "PAMT refcounts (vmalloc)"


def refcount_pages(max_pfn: int) -> int:
    """4K pages that hold ceil(max_pfn / 512) counters."""
    counters = -(-max_pfn // PAGES_PER_2M)
    return -(-counters // REFCOUNTS_PER_PAGE)


def refcount_is_mapped(kernel: Kernel, pfn: int) -> None:
    """A touch of the counter of ``pfn``; raises KernelOops where no page is behind it."""
    index = pfn // PAGES_PER_2M
    if index // REFCOUNTS_PER_PAGE not in kernel.refcount_pages:
        raise KernelOops(
            f"page fault on the PAMT refcount of page {pfn:#x}: no memory behind counter {index}"
        )


def init_dpamt_refcounts(kernel: Kernel) -> int:
    """vzalloc() of ceil(max_pfn / 512) counters; a no-op without Dynamic PAMT.  0 or -ENOMEM."""
    if not kernel.dynamic_pamt:
        return 0
    for index in range(refcount_pages(kernel.machine.max_pfn)):
        pfn = kernel.allocator.alloc_page(SITE_REFCOUNTS)
        if pfn is None:
            free_dpamt_refcounts(kernel)
            return -ENOMEM
        kernel.refcount_pages[index] = pfn
    return 0


def populate_pamt_metadata(kernel: Kernel, start_pfn: int, end_pfn: int) -> int:
    """Nothing: all counters have memory already."""
    return 0


def free_dpamt_refcounts(kernel: Kernel) -> None:
    """vfree()."""
    while kernel.refcount_pages:
        _index, pfn = kernel.refcount_pages.popitem()
        kernel.allocator.free_page(pfn)


init_pamt_metadata = init_dpamt_refcounts
free_pamt_metadata = free_dpamt_refcounts
"""The names of the contract (:mod:`dpamt.host.designs.base`)."""
