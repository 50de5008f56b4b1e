"""As v6, but a count that is not 0 is looked at and raised in two steps."""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.designs import v6

DYNAMIC_PAMT: Final = True

tdx_pamt_put = v6.tdx_pamt_put


def tdx_pamt_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
    refcount = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M)
    count = refcount.load()
    if count:
        refcount.add(1)
        return 0
    return v6.tdx_pamt_get(kernel, cpu, pfn, cache)
