"""The TDX memory list: which memory the kernel gives to TDX, one entry per memory block.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (build_tdx_memlist).
"""

from dpamt.host.core.kernel import Kernel
from dpamt.platform.machine import LOW_MEMORY_PFN, MemoryBlock


def build_tdx_memlist(kernel: Kernel) -> int:
    """All memory blocks from 1 MiB up, not merged; 0 or what the design's counters report."""
    entries: list[MemoryBlock] = []
    for index in range(len(kernel.machine.memory)):
        block = kernel.machine.memory[index]
        start_pfn = max(block.start_pfn, LOW_MEMORY_PFN)
        if start_pfn >= block.end_pfn:
            continue
        error = kernel.design.populate_pamt_metadata(kernel, start_pfn, block.end_pfn)
        if error:
            return error
        entries.append(MemoryBlock(start_pfn, block.end_pfn, block.nid))
    kernel.memory_list = tuple(entries)
    return 0
