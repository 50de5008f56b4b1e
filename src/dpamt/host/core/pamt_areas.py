"""The PAMT that is allocated at boot: sizes, contiguous chunks, layout, and giving it back.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdmr_set_up_pamt); merged 01a43c55ae5f
"x86/virt/tdx: Simplify PAMT layout calculation", eadde434aa9d "x86/virt/tdx: Allocate page bitmap
for Dynamic PAMT" (2026-09-04).
"""

from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, SIZE_1G, SIZE_2M
from dpamt.abi.tdmr import TdmrInfo
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Kernel, PamtArea
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.core.tdx_errno import ENOMEM

SITE_PAMT: Final = "PAMT of a TDMR"


def pamt_bytes(size: int, sysinfo: TdxSysInfo, dynamic: bool) -> tuple[int, int, int]:
    """Bytes of the 4K, 2M and 1G level of a TDMR of ``size`` bytes, each rounded up to 4 KiB.

    With Dynamic PAMT the first is the page bitmap.
    """
    pages = size >> PAGE_SHIFT
    if dynamic:
        level_4k = -(-pages * sysinfo.pamt_page_bitmap_entry_bits // 8)
    else:
        level_4k = pages * sysinfo.pamt_4k_entry_size
    level_2m = size // SIZE_2M * sysinfo.pamt_2m_entry_size
    level_1g = size // SIZE_1G * sysinfo.pamt_1g_entry_size
    return _page_align(level_4k), _page_align(level_2m), _page_align(level_1g)


def tdmrs_set_up_pamt_all(kernel: Kernel, sysinfo: TdxSysInfo) -> int:
    """One contiguous chunk for each TDMR; 0, or -ENOMEM with all freed."""
    areas: list[PamtArea] = []
    for tdmr in kernel.tdmrs:
        level_4k, level_2m, level_1g = pamt_bytes(tdmr.size, sysinfo, kernel.dynamic_pamt)
        pages = (level_4k + level_2m + level_1g) >> PAGE_SHIFT
        pfn = kernel.allocator.alloc_contig(pages, _node_of(kernel, tdmr), SITE_PAMT)
        if pfn is None:
            kernel.pamt_areas = tuple(areas)
            tdmrs_free_pamt_all(kernel)
            return -ENOMEM
        areas.append(PamtArea(pfn, pages, level_4k, level_2m, level_1g))
        tdmr.pamt_4k_base, tdmr.pamt_4k_size = pfn << PAGE_SHIFT, level_4k
        tdmr.pamt_2m_base, tdmr.pamt_2m_size = tdmr.pamt_4k_base + level_4k, level_2m
        tdmr.pamt_1g_base, tdmr.pamt_1g_size = tdmr.pamt_2m_base + level_2m, level_1g
    kernel.pamt_areas = tuple(areas)
    return 0


def tdmrs_free_pamt_all(kernel: Kernel) -> None:
    """Give every chunk back."""
    for area in kernel.pamt_areas:
        kernel.allocator.free_contig(area.pfn, area.pages)
    kernel.pamt_areas = ()


def tdmrs_reset_pamt_all(kernel: Kernel) -> None:
    """Clear what the module may have written with its KeyID, where the erratum demands it."""
    for area in kernel.pamt_areas:
        for pfn in range(area.pfn, area.pfn + area.pages):
            tdx_quirk_reset_page(kernel, pfn)


def tdmrs_count_pamt_kb(kernel: Kernel) -> int:
    """KiB of PAMT allocated at boot."""
    return sum(area.pages for area in kernel.pamt_areas) * PAGE_SIZE >> 10


def _node_of(kernel: Kernel, tdmr: TdmrInfo) -> int:
    """The node of the first memory entry that ends above the TDMR's base."""
    for entry in kernel.memory_list:
        if entry.end_pfn > tdmr.base >> PAGE_SHIFT:
            return entry.nid
    kernel.log.info(
        f"TDMR [{tdmr.base:#x}, {tdmr.end:#x}): unable to find local NUMA node for PAMT "
        "allocation, fallback to use node 0."
    )
    return 0


def _page_align(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE
