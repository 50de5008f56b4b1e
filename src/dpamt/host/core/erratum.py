"""The partial-write erratum: pages that TDX used are cleared before anybody else uses them.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdx_quirk_reset_paddr).
"""

from dpamt.host.core.kernel import Kernel


def tdx_quirk_reset_page(kernel: Kernel, pfn: int) -> None:
    """Clear a page with MOVDIR64B where the partial-write erratum makes that necessary."""
    if kernel.behaviour.partial_write_erratum:
        kernel.memory.clear_page(pfn)
