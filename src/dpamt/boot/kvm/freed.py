"""Pages that the module has and the kernel's page allocator has too.

A page is the module's from the SEAMCALL that gives it until the one that takes it back has been
answered.  All that time the kernel has to hold it: ``_refcount`` of its ``struct page`` is above 0,
and nobody else is given the page.  So a count of 0 is wrong at any moment, whatever the other CPUs
do meanwhile.  The module's tree cannot show this: it stays right until somebody uses the page.

Migration, reclaim and splits of a folio hold a count at 0 for a moment (folio_ref_freeze).  Pages
of guest_memfd are not moved (AS_INACCESSIBLE, unevictable), and the others have no mapping.

The tail of a compound page has no count of its own (bit 0 of the word behind its flags says so);
such a page is not judged.  Nor is any where the kernel has no ``vmemmap_base``.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_TYPE_NAMES, PAGES_PER_2M, PT_NDA, PT_PAMT, PT_RSVD
from dpamt.boot.page_state import is_free
from dpamt.boot.stack import KernelMemory
from dpamt.kernel_image.vmlinux import KernelImage
from dpamt.module.module import TdxModule
from dpamt.module.pamt import TYPE_MASK
from dpamt.module.view import ModuleView

_MOST: Final = 8
_OPERANDS: Final = 3
"""RCX, RDX and R8 name pages."""
_HPA_BITS: Final = 46
"""Above them a KeyID may be."""
_NOBODYS: Final = (PT_NDA, PT_RSVD)


class FreedPages:
    """One guest's pages, by its own account, held against the module's."""

    def __init__(self, kernel: KernelMemory, image: KernelImage) -> None:
        self._kernel = kernel
        self._image = image
        self.reported: dict[int, int] = {}
        """Page to its type, of those found so far: each is reported once."""

    def named(self, module: TdxModule, registers: Iterable[int]) -> dict[int, int]:
        """4K page to its type, of the module's pages that a SEAMCALL names."""
        found = {}
        for value in tuple(registers)[:_OPERANDS]:
            page = (value & (1 << _HPA_BITS) - 1) >> PAGE_SHIFT
            region = module.pamt.find_region(page // PAGES_PER_2M)
            if region is None:
                continue
            kind = region.entries.payloads()[page % PAGES_PER_2M] & TYPE_MASK
            if kind not in _NOBODYS:
                found[page] = kind
        return found

    def held(self, module: TdxModule) -> dict[int, int]:
        """4K page to its type, of all pages that the module has."""
        view = ModuleView(module)
        found = {page: use.type for page, use in view.used_pages().items()}
        if module.pamt.dynamic:
            found |= dict.fromkeys(view.pamt_pages(), PT_PAMT)
        return {page: kind for page, kind in found.items() if kind not in _NOBODYS}

    def free_among(self, pages: dict[int, int]) -> list[int]:
        """Those that the page allocator has; ascending."""
        return [page for page in sorted(pages) if is_free(self._kernel, self._image, page)]

    def wrong(self, pages: dict[int, int]) -> list[str]:
        """A sentence for each kind of page that the allocator has, each page once."""
        new = [page for page in self.free_among(pages) if page not in self.reported]
        self.reported |= {page: pages[page] for page in new}
        return list(_by_kind(new, pages))


def _by_kind(free: list[int], pages: dict[int, int]) -> Iterator[str]:
    for kind in sorted({pages[page] for page in free}):
        listed = [f"{page << PAGE_SHIFT:#x}" for page in free if pages[page] == kind]
        more = f" and {len(listed) - _MOST:,} more" if len(listed) > _MOST else ""
        plural = "" if len(listed) == 1 else "s"
        yield (
            f"freed: the kernel has freed the page{plural} {', '.join(listed[:_MOST])}{more}, "
            f"and the module still has {'them' if plural else 'it'} "
            f"({PAGE_TYPE_NAMES.get(kind, kind)})"
        )
