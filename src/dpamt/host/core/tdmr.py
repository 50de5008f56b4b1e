"""TD memory regions: their ranges from the memory list, their array as the module reads it.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (construct_tdmrs).
"""

from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, SIZE_1G
from dpamt.abi.tdmr import MAX_RESERVED_PER_TDMR, TDMR_INFO_ALIGN, TdmrInfo
from dpamt.host.core.kernel import Kernel
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.core.pamt_areas import tdmrs_free_pamt_all, tdmrs_set_up_pamt_all
from dpamt.host.core.reserved_areas import tdmrs_populate_rsvd_areas_all
from dpamt.host.core.tdx_errno import ENOMEM, ENOSPC
from dpamt.platform.machine import MemoryBlock

TDMR_NR_WARN: Final = 4
"""A warning is printed when fewer TDMRs than this are left."""

SITE_TDMR_ARRAY: Final = "TDMR array"

_TDMR_INFO_HEADER_BYTES: Final = 64
_RESERVED_AREA_BYTES: Final = 16


def tdmr_size(max_reserved_per_tdmr: int) -> int:
    """Bytes of one TDMR_INFO, rounded up to its alignment."""
    size = _TDMR_INFO_HEADER_BYTES + _RESERVED_AREA_BYTES * max_reserved_per_tdmr
    return -(-size // TDMR_INFO_ALIGN) * TDMR_INFO_ALIGN


def alloc_tdmr_list(kernel: Kernel, sysinfo: TdxSysInfo) -> int:
    """alloc_pages_exact() of max_tdmrs TDMR_INFOs; 0 or -ENOMEM."""
    size = tdmr_size(sysinfo.max_reserved_per_tdmr) * sysinfo.max_tdmrs
    order = (-(-size // PAGE_SIZE) - 1).bit_length()
    pfn = kernel.allocator.alloc_pages(order, SITE_TDMR_ARRAY)
    if pfn is None:
        return -ENOMEM
    kernel.tdmr_array = pfn, order
    return 0


def free_tdmr_list(kernel: Kernel) -> None:
    """Give the array back."""
    if kernel.tdmr_array is not None:
        pfn, order = kernel.tdmr_array
        kernel.allocator.free_pages(pfn, order)
        for page in range(1 << order):
            kernel.memory.clear_page(pfn + page)
    kernel.tdmr_array = None
    kernel.tdmrs = ()


def construct_tdmrs(kernel: Kernel, sysinfo: TdxSysInfo) -> int:
    """Ranges, PAMTs, reserved areas; 0, -ENOSPC or -ENOMEM with the PAMTs freed."""
    tdmrs = fill_out_tdmrs(kernel.memory_list, sysinfo.max_tdmrs)
    if tdmrs is None:
        kernel.log.info("initialization failed: TDMRs exhausted.")
        return -ENOSPC
    if sysinfo.max_tdmrs - len(tdmrs) < TDMR_NR_WARN:
        kernel.log.info(
            f"consumed TDMRs reaching limit: {len(tdmrs)} used out of {sysinfo.max_tdmrs}"
        )
    kernel.tdmrs = tuple(tdmrs)
    error = tdmrs_set_up_pamt_all(kernel, sysinfo)
    if error:
        return error
    error = tdmrs_populate_rsvd_areas_all(kernel, sysinfo)
    if error:
        tdmrs_free_pamt_all(kernel)
        return error
    _write_tdmrs(kernel, sysinfo)
    return 0


def fill_out_tdmrs(memory: tuple[MemoryBlock, ...], max_tdmrs: int) -> list[TdmrInfo] | None:
    """TDMRs of 1 GiB granularity that cover the memory list; None when there are too many.

    Entries next to each other are not joined; one that the TDMR before covers has none of its own.
    """
    tdmrs: list[TdmrInfo] = []
    for entry in memory:
        start = (entry.start_pfn << PAGE_SHIFT) // SIZE_1G * SIZE_1G
        end = -(-(entry.end_pfn << PAGE_SHIFT) // SIZE_1G) * SIZE_1G
        if tdmrs:
            if end <= tdmrs[-1].end:
                continue
            start = max(start, tdmrs[-1].end)
            if len(tdmrs) >= max_tdmrs:
                return None
        tdmrs.append(TdmrInfo(start, end - start))
    return tdmrs


def tdmr_address(kernel: Kernel, sysinfo: TdxSysInfo, index: int) -> int:
    """Physical address of a TDMR_INFO in the array."""
    assert kernel.tdmr_array is not None
    return (kernel.tdmr_array[0] << PAGE_SHIFT) + index * tdmr_size(sysinfo.max_reserved_per_tdmr)


def _write_tdmrs(kernel: Kernel, sysinfo: TdxSysInfo) -> None:
    assert sysinfo.max_reserved_per_tdmr <= MAX_RESERVED_PER_TDMR
    for index, tdmr in enumerate(kernel.tdmrs):
        kernel.memory.write(tdmr_address(kernel, sysinfo, index), tdmr.pack())
