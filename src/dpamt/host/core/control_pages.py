"""Pages that a TD is built of (TDR, TDCS, TDVPR, TDCX): allocated with their PAMT, freed with it.

Source: `[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09), patch 4; merged 86305da521d1
"KVM/TDX: Allocate PAMT memory for TD and vCPU control structures" (2026-09-04).
"""

from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.missing_pair import tdx_pamt_removed

__all__ = ["tdx_alloc_control_page", "tdx_free_control_page", "tdx_quirk_reset_page"]
"""Designs of users import tdx_quirk_reset_page from here, where it once was."""


def tdx_alloc_control_page(kernel: Kernel, cpu: Cpu, site: str) -> int | None:
    """A page that the module may use; None when memory or the module fails."""
    helpers = kernel.design.helpers
    if helpers is not None and helpers.alloc_control_page is not None:
        return helpers.alloc_control_page(kernel, cpu, site)
    pfn = kernel.allocator.alloc_page(site)
    if pfn is None:
        return None
    error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    if error:
        kernel.allocator.free_page(pfn)
        return None
    return pfn


def tdx_free_control_page(kernel: Kernel, cpu: Cpu, pfn: int, hint: bool = False) -> None:
    """Give back a page that the module has let go, perhaps with its hint, or never had."""
    helpers = kernel.design.helpers
    if helpers is not None and helpers.free_control_page is not None:
        helpers.free_control_page(kernel, cpu, pfn)
        return
    tdx_pamt_removed(kernel, cpu, pfn, hint)
    kernel.allocator.free_page(pfn)
