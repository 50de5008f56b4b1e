"""What the kernel passed to the module at SYS.CONFIG, beside what dpamt's own host passes.

The host is booted on the same machine, in the same PAMT mode, and its SYS.CONFIG is taken down.
Which pages the kernel's allocator had free when TDX was initialised nobody can know from outside:
each TDMR's PAMT is put where the kernel put it, and everything else has to come out the same.
"""

import re
from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import RAX_LEAF_MASK, TDH_SYS_CONFIG
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.abi.tdmr import TDMR_INFO_BYTES, TdmrInfo
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Kernel
from dpamt.host.designs.load import load_design
from dpamt.module.module import TdxModule
from dpamt.platform.machine import Machine
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync import Shared

_ALLOCATED: Final = re.compile(r"virt/tdx: (\d+) KB allocated for PAMT")


@dataclass(frozen=True, slots=True)
class Told:
    """TDMR_INFO structures, and the KB of the line "allocated for PAMT" (None: not printed)."""

    tdmrs: tuple[TdmrInfo, ...]
    pamt_kib: int | None


def told_by_kernel(tdmr_infos: list[bytes], console: list[str]) -> Told:
    """What a booted kernel passed to its module, and its log."""
    return Told(tuple(TdmrInfo.unpack(data) for data in tdmr_infos), _pamt_kib(console))


class _PlacedAllocator(PageAllocator):
    """A page allocator whose contiguous allocations lie where another one put them, in order."""

    def __init__(self, machine: Machine, starts: list[int]) -> None:
        super().__init__(machine)
        self._starts = starts

    def alloc_contig(self, pages: int, nid: int, site: str) -> int | None:
        """The next of the starts; None when there is none left, or its pages are not free."""
        if not self._starts:
            return None
        return self.alloc_contig_at(self._starts.pop(0), pages)


def told_by_host(machine: Machine, dynamic: bool, kernel_told: Told | None = None) -> Told:
    """What dpamt's host tells its module on the same machine; ``dynamic``: Dynamic PAMT.

    ``kernel_told`` says where PAMT lies; without it the host's own allocator does.
    """
    memory, shared = PhysicalMemory(), Shared()
    module = TdxModule(memory, machine, shared=shared)
    seen: list[bytes] = []

    def wrapped(plain: SeamCall) -> SeamCall:
        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            if rax & RAX_LEAF_MASK == TDH_SYS_CONFIG:
                seen[:] = [
                    memory.read(memory.read64(args.rcx + 8 * index), TDMR_INFO_BYTES)
                    for index in range(args.rdx)
                ]
            return plain(rax, args)

        return seamcall

    allocator = PageAllocator(machine)
    if kernel_told is not None:
        starts = [tdmr.pamt_4k_base >> PAGE_SHIFT for tdmr in kernel_told.tdmrs]
        allocator = _PlacedAllocator(machine, starts)
    kernel = Kernel(
        machine,
        allocator,
        memory,
        shared,
        [wrapped(lp.seamcall) for lp in module.processors],
        load_design("merged" if dynamic else "static"),
    )
    tdx_enable(kernel)
    return told_by_kernel(seen, kernel.log.lines)


def _pamt_kib(lines: list[str]) -> int | None:
    found = [match for line in lines if (match := _ALLOCATED.search(line))]
    return int(found[-1].group(1)) if found else None


def differences(kernel: Told, host: Told) -> list[str]:
    """In what the two differ, a sentence each."""
    found = []
    if kernel.pamt_kib != host.pamt_kib:
        found.append(f"PAMT: the kernel allocated {kernel.pamt_kib} KB, dpamt {host.pamt_kib} KB")
    if len(kernel.tdmrs) != len(host.tdmrs):
        found.append(f"{len(kernel.tdmrs)} TDMRs by the kernel, {len(host.tdmrs)} by dpamt")
        return found
    for index, (ours, theirs) in enumerate(zip(host.tdmrs, kernel.tdmrs, strict=True)):
        for name in _FIELDS:
            mine, its = getattr(ours, name), getattr(theirs, name)
            if mine != its:
                found.append(
                    f"TDMR {index}: {name} {_shown(its)} by the kernel, {_shown(mine)} by dpamt"
                )
    return found


_FIELDS: Final = (
    *("base", "size", "pamt_1g_base", "pamt_1g_size", "pamt_2m_base", "pamt_2m_size"),
    *("pamt_4k_base", "pamt_4k_size", "reserved"),
)


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:#x}"
    assert isinstance(value, list | tuple)
    return "[" + ", ".join(f"{start:#x}+{size:#x}" for start, size in value if size) + "]"
