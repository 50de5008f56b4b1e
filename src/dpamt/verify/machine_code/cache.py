"""A VCPU's page cache in C: a list of struct pages and its length, as bytes of the thread's own.

Source: merged 2c8ca2ba9bb6 "x86/virt/tdx: Add APIs to support Dynamic PAMT ops from KVM's fault
path" (2026-09-04): struct tdx_pamt_cache { struct list_head page_list; int cnt; }; the pages are
linked by ``lru``, which lies behind ``flags`` in struct page (Linux 7.3.4
include/linux/mm_types.h).
"""

from typing import Final

from dpamt.errors import Finding
from dpamt.host.core.page_cache import PamtCache
from dpamt.verify.machine_code.memory import ARGUMENTS, STRUCT_PAGE, VMEMMAP
from dpamt.verify.machine_code.places import Places

_LRU: Final = 8
"""Offset of lru in struct page."""
_COUNT: Final = 16
"""Offset of cnt in struct tdx_pamt_cache."""
_MOST: Final = 256


def bytes_of_cache(cache: PamtCache | None) -> tuple[tuple[int, int], ...]:
    """The 64-bit words that a cache takes in memory, by address; the first page is drawn first."""
    if cache is None:
        return ()
    links = [ARGUMENTS, *(_link(pfn) for pfn in reversed(cache.pages))]
    own: dict[int, int] = {ARGUMENTS + _COUNT: len(cache.pages)}
    for n, link in enumerate(links):
        own[link] = links[(n + 1) % len(links)]
        own[link + 8] = links[n - 1]
    return tuple(sorted(own.items()))


def cache_after(places: Places, place: int, cache: PamtCache | None) -> None:
    """Put what the code has left in the list back into the cache.

    Raises Finding where the list is none, or its length is not ``cnt``.
    """
    if cache is None:
        return
    pages: list[int] = []
    link = places.own_at(place, ARGUMENTS)
    while link != ARGUMENTS and len(pages) < _MOST:
        offset = link - _LRU - VMEMMAP
        if offset % STRUCT_PAGE:
            raise Finding(f"the page cache has {link:#x} in its list, which is in no struct page")
        pages.append(offset // STRUCT_PAGE)
        link = places.own_at(place, link)
    count = places.own_at(place, ARGUMENTS + _COUNT) & 0xFFFF_FFFF
    if count != len(pages):
        raise Finding(f"the page cache has {len(pages)} pages in its list and {count} as cnt")
    cache.pages[:] = reversed(pages)


def _link(pfn: int) -> int:
    return VMEMMAP + STRUCT_PAGE * pfn + _LRU
