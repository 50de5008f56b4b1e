"""Pages of a guest as its own kernel accounts for them: what an initialisation that failed kept.

Source: Linux include/linux/mm_types.h (struct page), arch/x86/include/asm/page_64.h (vmemmap).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.tdmr import TdmrInfo
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.stack import KernelMemory
from dpamt.kernel_image.vmlinux import KernelImage

MOST_PAGES: Final = 1 << 20
"""Of PAMT, in all; the static PAMT of 256 GiB."""
_VMEMMAP: Final = "vmemmap_base"
_STRUCT_PAGE_BYTES: Final = 64
_REFCOUNT_AT: Final = 52
"""_refcount: behind the flags, the union of five words, and _mapcount; on 64-bit without
CONFIG_KMSAN."""

_COMPOUND_AT: Final = 8
_TAIL: Final = 1
"""compound_info, the first word of that union, has bit 0 set in a tail page (Linux 7.3;
compound_head before)."""


class Kept(NamedTuple):
    """The PAMT of a TDMR: its first page, its pages, and how many of them are in use.

    A page that was given back may be in use again, for something else; all of many are not.
    """

    first: int
    pages: int
    held: int

    @property
    def is_kept(self) -> bool:
        """Whether it was not given back."""
        return self.held == self.pages


def references(kernel: KernelMemory, image: KernelImage, pfn: int) -> int | None:
    """_refcount of a page, 0 where the page allocator has it; None where it is unknown."""
    symbol = image.symbol(_VMEMMAP)
    base = kernel.read64(symbol.address) if symbol is not None else None
    if base is None:
        return None
    word = kernel.read64(base + pfn * _STRUCT_PAGE_BYTES + _REFCOUNT_AT & -8)
    return None if word is None else word >> 8 * (_REFCOUNT_AT % 8) & 0xFFFF_FFFF


def is_free(kernel: KernelMemory, image: KernelImage, pfn: int) -> bool:
    """Whether the page allocator has a page; False where that is unknown, as of the tail of a
    compound page."""
    if references(kernel, image, pfn) != 0:
        return False
    symbol = image.symbol(_VMEMMAP)
    base = kernel.read64(symbol.address) if symbol is not None else None
    if base is None:
        return False
    word = kernel.read64(base + pfn * _STRUCT_PAGE_BYTES + _COMPOUND_AT)
    return word is not None and not word & _TAIL


def pamt_areas(
    memory: GuestMemory, kernel: KernelMemory, image: KernelImage, tdmr_infos: Sequence[bytes]
) -> list[Kept]:
    """The PAMT of every TDMR that the kernel passed to the module, and what of it is in use.

    What lies outside the guest's memory is left out, and more than :data:`MOST_PAGES`: a guest may
    say anything.
    """
    found = []
    looked_at = 0
    for data in tdmr_infos:
        tdmr = TdmrInfo.unpack(data)
        pages: list[int] = []
        for base, size in (
            (tdmr.pamt_4k_base, tdmr.pamt_4k_size),
            (tdmr.pamt_2m_base, tdmr.pamt_2m_size),
            (tdmr.pamt_1g_base, tdmr.pamt_1g_size),
        ):
            looked_at += size >> PAGE_SHIFT
            if looked_at <= MOST_PAGES and memory.has(base, size):
                pages += range(base >> PAGE_SHIFT, base + size >> PAGE_SHIFT)
        if pages:
            held = sum(1 for pfn in pages if references(kernel, image, pfn))
            found.append(Kept(min(pages), len(pages), held))
    return found
