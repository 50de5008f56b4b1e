"""Adding and removing a page pair, with the machine-wide count of pairs.

Source: `[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09), patches 4 and 10.
"""

from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.seamcall import tdh_phymem_pamt_add, tdh_phymem_pamt_remove


def tdx_pamt_add(kernel: Kernel, cpu: Cpu, pfn: int, first: int, second: int) -> int:
    """PAMT.ADD for the region of ``pfn``; the status.  Success counts the pair."""
    status = tdh_phymem_pamt_add(cpu, pfn, first, second)
    if not status:
        kernel.pamt_pairs.add(1)
    return status


def tdx_pamt_remove(kernel: Kernel, cpu: Cpu, pfn: int) -> tuple[int, int, int]:
    """PAMT.REMOVE for the region of ``pfn``: (status, first page, second page)."""
    removed = tdh_phymem_pamt_remove(cpu, pfn)
    if not removed[0]:
        kernel.pamt_pairs.add(-1)
    return removed
