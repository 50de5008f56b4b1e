"""The page pool of a VCPU, filled outside locks and drawn from inside them; and page pairs.

v2 keeps it as a KVM memory cache (`pamt_page_cache`), merged as `tdx_pamt_cache`: a list of free
pages and its length.  No lock: only its VCPU's task uses it.

Source: `[PATCHv2 00/12] TDX: Enable Dynamic PAMT` (2025-06-09), patch 7; merged 2c8ca2ba9bb6
"x86/virt/tdx: Add APIs to support Dynamic PAMT ops from KVM's fault path" (2026-09-04).
"""

from typing import Final

from dpamt.abi.pages import PAMT_PAIR_PAGES
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Kernel
from dpamt.host.core.tdx_errno import ENOMEM

PT64_ROOT_MAX_LEVEL: Final = 5
"""Levels that one fault may need pairs for: S-EPT pages below the root, and the guest page."""

SITE_CACHE: Final = "PAMT page cache top-up"
SITE_PAIR: Final = ("tdx_pamt_get, first page", "tdx_pamt_get, second page")


class PamtCache:
    """Free pages, owned by one VCPU."""

    __slots__ = ("pages",)

    def __init__(self) -> None:
        self.pages: list[int] = []


def tdx_topup_pamt_cache(kernel: Kernel, cache: PamtCache, pairs: int) -> int:
    """Fill up to ``pairs`` pairs; 0, or -ENOMEM with what was added kept.

    Without Dynamic PAMT nobody may ask: a WARN, and 0.
    """
    helpers = kernel.design.helpers
    if helpers is not None and helpers.topup_pamt_cache is not None:
        return helpers.topup_pamt_cache(kernel, cache, pairs)
    if not kernel.dynamic_pamt:
        kernel.log.warn_on_once("tdx_topup_pamt_cache")
        return 0
    pages = cache.pages
    alloc_page = kernel.allocator.alloc_page
    wanted = PAMT_PAIR_PAGES * pairs
    while len(pages) < wanted:
        pfn = alloc_page(SITE_CACHE)
        if pfn is None:
            return -ENOMEM
        pages.append(pfn)
    return 0


def tdx_free_pamt_cache(kernel: Kernel, cache: PamtCache) -> None:
    """Give every page back to the allocator."""
    helpers = kernel.design.helpers
    if helpers is not None and helpers.free_pamt_cache is not None:
        helpers.free_pamt_cache(kernel, cache)
        return
    while cache.pages:
        kernel.allocator.free_page(cache.pages.pop())


def alloc_pamt_pages(kernel: Kernel, cache: PamtCache | None) -> tuple[int, int] | None:
    """Two pages, from the pool when one is given, else from the allocator; None on shortage.

    On a shortage a page already taken goes to the allocator, not back to the pool.
    """
    if cache is not None:
        pages = cache.pages
        if len(pages) >= PAMT_PAIR_PAGES:
            return pages.pop(), pages.pop()
        tdx_free_pamt_cache(kernel, cache)
        return None
    allocator = kernel.allocator
    first = allocator.alloc_page(SITE_PAIR[0])
    if first is None:
        return None
    second = allocator.alloc_page(SITE_PAIR[1])
    if second is None:
        allocator.free_page(first)
        return None
    return first, second


def reset_and_free_pamt_pages(kernel: Kernel, first: int, second: int) -> None:
    """As :func:`free_pamt_pages`, each page reset for the erratum first.

    Merged has this one helper for put and get, so a get that only counts resets two fresh pages.
    """
    tdx_quirk_reset_page(kernel, first)
    tdx_quirk_reset_page(kernel, second)
    free_pamt_pages(kernel, first, second)


def free_pamt_pages(kernel: Kernel, first: int, second: int) -> None:
    """Give both pages back to the allocator."""
    free_page = kernel.allocator.free_page
    free_page(first)
    free_page(second)
