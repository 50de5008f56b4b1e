"""No Dynamic PAMT: every 4K page has its entry from boot on, as in Linux 7.3.4."""

from typing import Final

from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache

DYNAMIC_PAMT: Final = False


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    """Nothing to do: the 4K level is there."""
    return 0


def tdx_pamt_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
    """Nothing to do."""
