"""Splitting a 2M leaf: the page pair goes in with the SEAMCALL, the count from 0 to 512.

The pair pages of a DEMOTE may lie in a region that another CPU is adding a pair to, so without
``pamt_lock`` either side may find the other's lock (Y. Zhao, 2026-06-11).

Source: `[PATCH v3 00/24] KVM: TDX huge page support for private memory` (2026-01-06);
`[RFC PATCH v5 00/45] TDX: Dynamic PAMT + S-EPT Hugepage` (2026-01-28) and its thread.
"""

from dpamt.abi.pages import LEVEL_2M, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.seamcall import tdh_mem_page_demote


def tdx_mem_page_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """MEM.PAGE.DEMOTE of the 2M page ``pfn`` at ``gpa``, as the design does it; the status.

    ``pages`` becomes the pair of the region; after a failure it still is the caller's.  Without
    Dynamic PAMT it is not used.
    """
    if not kernel.dynamic_pamt:
        return tdh_mem_page_demote(cpu, tdr, gpa, LEVEL_2M, sept, 0, 0)
    return kernel.tdx_pamt_demote(kernel, cpu, tdr, gpa, pfn, sept, pages)


def tdx_pamt_demote(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """What a design does that says nothing of its own: under ``pamt_lock``, or under no lock."""
    locked = kernel.behaviour.demote_lock == "pamt-lock"
    lock = kernel.pamt_lock
    if locked:
        lock.lock()
    status = demote_and_count(kernel, cpu, tdr, gpa, pfn, sept, pages)
    if locked:
        lock.unlock()
    return status


def demote_and_count(
    kernel: Kernel, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int, pages: tuple[int, int]
) -> int:
    """DEMOTE and the steps of the counters, under whatever the caller holds; the status."""
    status = tdh_mem_page_demote(cpu, tdr, gpa, LEVEL_2M, sept, pages[0], pages[1])
    if status:
        return status
    kernel.pamt_pairs.add(1)
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    counted = refcount.compare_and_swap(0, PAGES_PER_2M)
    if not counted:
        kernel.log.warn(f"PAMT refcount of page {pfn:#x} was not 0 before its DEMOTE")
    return 0
