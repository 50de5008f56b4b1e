"""Get and put of a run of pages in one region that has its pair: the count moves at once.

Only where it is known what the design's own functions do with a region that stays counted; the last
page of a run always goes through the function itself.  A design that is not listed here, a user's
above all, goes page by page.
"""

from typing import Final

from dpamt.abi.pages import PAGES_PER_2M, PAMT_PAIR_PAGES
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.designs import merged, static, v2

_POOL_PAGES_BY_GET: Final[dict[object, int]] = {
    static.tdx_pamt_get: 0,
    v2.tdx_pamt_get: 0,
    merged.tdx_pamt_get: PAMT_PAIR_PAGES,
}
"""Pool pages that a get of a counted region takes, and gives to the allocator: its VCPU's next
fault has them back in the pool, in the same order, before it allocates anything else."""
_KNOWN_PUTS: Final[set[object]] = {static.tdx_pamt_put, v2.tdx_pamt_put, merged.tdx_pamt_put}


def may_get_run(kernel: Kernel) -> bool:
    """Whether pages of one region may be had as a run, once it counts one of them."""
    if kernel.tdx_pamt_get not in _POOL_PAGES_BY_GET:
        return False
    if not kernel.dynamic_pamt or not _POOL_PAGES_BY_GET[kernel.tdx_pamt_get]:
        return True
    return kernel.allocator.can_pass(PAMT_PAIR_PAGES)


def is_counted(kernel: Kernel, pfn: int) -> bool:
    """Whether a get in the region of ``pfn`` leaves the module alone."""
    if not kernel.dynamic_pamt:
        return True
    count = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M).load()
    return count > 0


def get_run(kernel: Kernel, cpu: Cpu, pfn: int, pages: int, cache: PamtCache) -> None:
    """``pages`` gets in the region of ``pfn``, after :func:`may_get_run`, each by a fault."""
    if not kernel.dynamic_pamt:
        return
    kernel.pamt_refcounts.at(pfn // PAGES_PER_2M).add(pages - 1)
    kernel.allocator.passed(_POOL_PAGES_BY_GET[kernel.tdx_pamt_get] * (pages - 1))
    kernel.tdx_pamt_get(kernel, cpu, pfn, cache)


def may_put_run(kernel: Kernel, pfn: int, pages: int) -> bool:
    """Whether ``pages`` pages of the region of ``pfn`` may be put as a run."""
    if kernel.tdx_pamt_put not in _KNOWN_PUTS:
        return False
    if not kernel.dynamic_pamt:
        return True
    count = kernel.pamt_refcounts.at(pfn // PAGES_PER_2M).load()
    return count >= pages and not kernel.pamt_lock.is_locked()


def put_run(kernel: Kernel, cpu: Cpu, pfn: int, pages: int) -> None:
    """``pages`` puts in the region of ``pfn``, after :func:`may_put_run`."""
    if not kernel.dynamic_pamt:
        return
    kernel.pamt_refcounts.at(pfn // PAGES_PER_2M).add(1 - pages)
    kernel.tdx_pamt_put(kernel, cpu, pfn)
