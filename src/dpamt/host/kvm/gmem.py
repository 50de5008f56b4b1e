"""guest_memfd: where the private pages of a VM come from, and when they go back.

4K pages, or 2M folios where the VM asks for them and memory has one; without one, 4K pages.  Pages
of a folio that were punched out stay with the VM until the folio's last page is punched: a folio
goes back to the allocator whole.

A page's word is its frame, 0 for none.  The word of a 2M range of the file::

    63:10 first frame of its folio, 0 for none | 9:0 folio: pages not punched; else: 4K pages

Source: Linux virt/kvm/guest_memfd.c; `[PATCH v3 00/24] KVM: TDX huge page support for private
memory` (2026-01-06).
"""

from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGES_PER_2M
from dpamt.host.core.kernel import Kernel
from dpamt.sync import Word

FOLIO_ORDER: Final = 9

SITE_PAGE: Final = "guest_memfd page"
SITE_FOLIO: Final = "guest_memfd 2M folio"

COUNT_MASK: Final = (1 << 10) - 1
BASE_SHIFT: Final = 10
_SLOT_MASK: Final = PAGES_PER_2M - 1

NO_MEMORY: Final = -1


class GuestMemfd:
    """The file behind one VM's private memory."""

    __slots__ = ("huge", "kernel", "pages", "punched", "ranges", "vm_id")

    def __init__(self, kernel: Kernel, vm_id: int, huge: bool) -> None:
        self.kernel = kernel
        self.vm_id = vm_id
        self.huge = huge
        self.pages = kernel.shared.words(f"kvm.{vm_id}.gmem.pages")
        self.ranges = kernel.shared.words(f"kvm.{vm_id}.gmem.ranges")
        self.punched = kernel.shared.words(f"kvm.{vm_id}.gmem.punched")

    def forget(self) -> None:
        """The file is gone: drop its words."""
        for name in ("pages", "ranges", "punched"):
            self.kernel.shared.forget(f"kvm.{self.vm_id}.gmem.{name}")

    def get_pfn(self, gfn: int) -> tuple[int, int]:
        """The frame that backs ``gfn``, allocated if need be, and the largest level it allows.

        The frame is :data:`NO_MEMORY` when memory has run out.
        """
        if self.huge:
            in_range = self.ranges.at(gfn // PAGES_PER_2M)
            state = in_range.load()
            if not state:
                state = self._allocate_folio(gfn)
            if state > COUNT_MASK:
                pfn = self._folio_page(gfn, state)
                # A folio with holes is mapped page by page.
                return pfn, LEVEL_2M if state & COUNT_MASK == PAGES_PER_2M else LEVEL_4K
        page = self.pages.at(gfn)
        pfn = page.load()
        if pfn:
            return pfn, LEVEL_4K
        pfn = self._allocate_page(gfn, page)
        return pfn, LEVEL_4K

    def _allocate_folio(self, gfn: int) -> int:
        """Back an empty range with a folio, if memory has one; the range's word after that."""
        base = self.kernel.allocator.alloc_pages(FOLIO_ORDER, SITE_FOLIO)
        in_range = self.ranges.at(gfn // PAGES_PER_2M)
        if base is None:
            return 0
        state = base << BASE_SHIFT | PAGES_PER_2M
        won = in_range.compare_and_swap(0, state)
        if won:
            return state
        self.kernel.allocator.free_pages(base, FOLIO_ORDER)
        return in_range.load()

    def _folio_page(self, gfn: int, state: int) -> int:
        """A page of a folio; one that was punched out is back."""
        mark = self.punched.at(gfn)
        was_punched = mark.compare_and_swap(1, 0)
        if was_punched:
            in_range = self.ranges.at(gfn // PAGES_PER_2M)
            in_range.add(1)
        return (state >> BASE_SHIFT) + (gfn & _SLOT_MASK)

    def _allocate_page(self, gfn: int, page: Word) -> int:
        """Back ``gfn`` with a page of its own; another CPU may be faster."""
        allocated = self.kernel.allocator.alloc_page(SITE_PAGE)
        if allocated is None:
            return NO_MEMORY
        in_range = self.ranges.at(gfn // PAGES_PER_2M)
        state = in_range.add(1)
        if state > COUNT_MASK:
            # A folio came in between, and all of its pages are counted already.
            in_range.add(-1)
            self.kernel.allocator.free_page(allocated)
            return self._folio_page(gfn, state - 1)
        won = page.compare_and_swap(0, allocated)
        if won:
            return allocated
        in_range.add(-1)
        self.kernel.allocator.free_page(allocated)
        return page.load()

    def punch(self, gfn: int) -> None:
        """Take one page out of the file; no error when there is none.  It must not be mapped."""
        in_range = self.ranges.at(gfn // PAGES_PER_2M)
        state = in_range.load()
        if not state:
            return
        if state > COUNT_MASK:
            self._punch_folio_page(gfn)
            return
        page = self.pages.at(gfn)
        pfn = page.load()
        if pfn:
            page.store(0)
            in_range.add(-1)
            self.kernel.allocator.free_page(pfn)

    def _punch_folio_page(self, gfn: int) -> None:
        mark = self.punched.at(gfn)
        won = mark.compare_and_swap(0, 1)
        if not won:
            return
        in_range = self.ranges.at(gfn // PAGES_PER_2M)
        state = in_range.add(-1)
        if not state & COUNT_MASK:
            self._clear_marks(gfn)
            in_range.store(0)
            self.kernel.allocator.free_pages(state >> BASE_SHIFT, FOLIO_ORDER)

    def _clear_marks(self, gfn: int) -> None:
        first = gfn & ~_SLOT_MASK
        for slot in range(PAGES_PER_2M):
            mark = self.punched.at(first + slot)
            mark.store(0)

    def punch_range(self, gfn: int) -> None:
        """Punch the whole 2M range that begins at ``gfn``."""
        in_range = self.ranges.at(gfn // PAGES_PER_2M)
        state = in_range.load()
        if state > COUNT_MASK:
            if state & COUNT_MASK != PAGES_PER_2M:
                self._clear_marks(gfn)
            in_range.store(0)
            self.kernel.allocator.free_pages(state >> BASE_SHIFT, FOLIO_ORDER)
            return
        slot = 0
        while state and slot < PAGES_PER_2M:
            self.punch(gfn + slot)
            slot += 1

    def leak(self, gfn: int) -> None:
        """Forget the page without freeing it: the module did not give it back."""
        in_range = self.ranges.at(gfn // PAGES_PER_2M)
        state = in_range.load()
        if state > COUNT_MASK:
            in_range.store(0)
            self._clear_marks(gfn)
            return
        page = self.pages.at(gfn)
        pfn = page.load()
        if pfn:
            page.store(0)
            in_range.add(-1)
