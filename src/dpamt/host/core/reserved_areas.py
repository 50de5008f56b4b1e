"""The parts of a TDMR that are not TDX memory: holes and PAMTs.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdmr_populate_rsvd_areas); holes between CMRs:
patch "x86/virt/tdx: Reduce TDMR's reserved areas by using CMRs to find memory holes", 2024.
"""

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.tdmr import TdmrInfo
from dpamt.host.core.kernel import Kernel, PamtArea
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.core.tdx_errno import ENOSPC


def tdmrs_populate_rsvd_areas_all(kernel: Kernel, sysinfo: TdxSysInfo) -> int:
    """Set the reserved areas of every TDMR; 0, or -ENOSPC with the TDMR logged."""
    for tdmr in kernel.tdmrs:
        holes, pamts = reserved_areas(kernel, sysinfo, tdmr)
        areas = sorted(holes + pamts)
        if len(areas) > sysinfo.max_reserved_per_tdmr:
            kernel.log.info(
                f"initialization failed: TDMR [{tdmr.base:#x}, {tdmr.end:#x}): "
                "reserved areas exhausted."
            )
            return -ENOSPC
        tdmr.reserved = [(start - tdmr.base, end - start) for start, end in areas]
    return 0


def reserved_areas(
    kernel: Kernel, sysinfo: TdxSysInfo, tdmr: TdmrInfo
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What of the TDMR is no memory, as this kernel looks for it, and what is PAMT; bytes."""
    if kernel.behaviour.tdmr_holes == "cmrs":
        memory = [(cmr.base, cmr.end) for cmr in sysinfo.cmrs]
    else:
        memory = [
            (entry.start_pfn << PAGE_SHIFT, entry.end_pfn << PAGE_SHIFT)
            for entry in kernel.memory_list
        ]
    return memory_holes(tdmr.base, tdmr.end, memory), _pamts_inside(tdmr, kernel.pamt_areas)


def memory_holes(base: int, end: int, memory: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of [base, end) no range of ``memory`` (ascending) covers; bytes, end exclusive."""
    holes: list[tuple[int, int]] = []
    cursor = base
    for start, stop in memory:
        if start >= end:
            break
        if stop < base:
            continue
        if start > cursor:
            holes.append((cursor, start))
        cursor = stop
    if cursor < end:
        holes.append((cursor, end))
    return holes


def _pamts_inside(tdmr: TdmrInfo, pamts: tuple[PamtArea, ...]) -> list[tuple[int, int]]:
    """The overlap with every TDMR's PAMT chunk."""
    inside = []
    for area in pamts:
        start = max(area.pfn << PAGE_SHIFT, tdmr.base)
        end = min(area.pfn + area.pages << PAGE_SHIFT, tdmr.end)
        if start < end:
            inside.append((start, end))
    return inside
