"""What a host does that asks the module first: a pair is added when missing, removed on a hint.

Only a design with the hooks does anything here; callers repeat a SEAMCALL when the hook says so.

Source: covers of `[RFC, PATCH 00/12] TDX: Enable Dynamic PAMT` (2025-05-02) and `[PATCHv2 00/12]`
(2025-06-09), which tell of the attempt without refcounts before them.
"""

from typing import Final

from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.core.tdx_errno import is_tdx_missing_pamt_page_pair

REPEAT: Final = 1


def tdx_pamt_repeat(
    kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None, status: int
) -> int:
    """After the SEAMCALL that was to use ``pfn``: REPEAT it, 0 for done, or a negative errno."""
    hook = kernel.design.tdx_pamt_missing
    if hook is None or not is_tdx_missing_pamt_page_pair(status):
        return 0
    error = hook(kernel, cpu, pfn, cache)
    return error if error else REPEAT


def tdx_pamt_removed(kernel: Kernel, cpu: Cpu, pfn: int, hint: bool) -> None:
    """The module let ``pfn`` go: put it, and pass on the hint that the region is empty now."""
    kernel.tdx_pamt_put(kernel, cpu, pfn)
    hook = kernel.design.tdx_pamt_hint
    if hint and hook is not None:
        hook(kernel, cpu, pfn)
