"""A host's kernel brought up as at boot, for the sizes it arrives at: no TDs, nothing initialised.

Everything is the kernel's and the module's own code; only SYS.TDMR.INIT, which writes the tables
whose sizes are known by then, is answered at the wall instead of carried out.
"""

from dataclasses import dataclass, replace

from dpamt.abi.leaves import TDH_SYS_TDMR_INIT
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.errors import Finding
from dpamt.host.core.init import tdx_enable, use_dynamic_pamt
from dpamt.host.core.kernel import Kernel, KernelBehaviour
from dpamt.host.core.memory_list import build_tdx_memlist
from dpamt.host.core.pamt_areas import tdmrs_set_up_pamt_all
from dpamt.host.core.reserved_areas import reserved_areas
from dpamt.host.core.tdmr import fill_out_tdmrs
from dpamt.host.designs.base import Design
from dpamt.module.module import TdxModule
from dpamt.module.releases import Release
from dpamt.platform.machine import Machine
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync import Shared


@dataclass(frozen=True, slots=True)
class ReservedAreas:
    """Reserved areas that a TDMR, [base, end) in bytes, needs: holes in memory, and PAMT."""

    base: int
    end: int
    holes: int
    pamts: int

    @property
    def used(self) -> int:
        """All of them."""
        return self.holes + self.pamts


@dataclass(frozen=True, slots=True)
class Booted:
    """A kernel after tdx_enable(): ``error`` is 0, or the negative errno it ended with.

    ``crash`` says how the kernel died, or is empty.
    """

    kernel: Kernel
    error: int
    crash: str

    @property
    def ready(self) -> bool:
        """Whether the module is initialised."""
        return not self.error and not self.crash


def boot(machine: Machine, design: Design, behaviour: KernelBehaviour, release: Release) -> Booted:
    """tdx_enable() of that kernel on that machine and module."""
    kernel = _power_on(machine, design, behaviour, release)
    try:
        error = tdx_enable(kernel)
    except Finding as finding:
        return Booted(kernel, 0, str(finding))
    return Booted(kernel, error, "")


def reserved_areas_needed(booted: Booted) -> tuple[ReservedAreas, ...] | None:
    """What each TDMR needs, however many the module's structure has room for.

    Of a kernel that failed, its steps up to that point are made again; None where one of those is
    what failed.
    """
    kernel = booted.kernel
    sysinfo = kernel.sysinfo
    if sysinfo is None or booted.crash:
        return None
    if not booted.ready:
        kernel.dynamic_pamt = use_dynamic_pamt(kernel, sysinfo)
        if kernel.design.init_pamt_metadata(kernel) or build_tdx_memlist(kernel):
            return None
        tdmrs = fill_out_tdmrs(kernel.memory_list, sysinfo.max_tdmrs)
        if tdmrs is None:
            return None
        kernel.tdmrs = tuple(tdmrs)
        if tdmrs_set_up_pamt_all(kernel, sysinfo):
            return None
    needed = []
    for tdmr in kernel.tdmrs:
        holes, pamts = reserved_areas(kernel, sysinfo, tdmr)
        needed.append(ReservedAreas(tdmr.base, tdmr.end, len(holes), len(pamts)))
    return tuple(needed)


def _power_on(
    machine: Machine, design: Design, behaviour: KernelBehaviour, release: Release
) -> Kernel:
    shared, memory = Shared(), PhysicalMemory()
    module = TdxModule(memory, machine, release, shared)
    kernel: Kernel

    def without_tdmr_init(processor: SeamCall) -> SeamCall:
        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            if rax != TDH_SYS_TDMR_INIT:
                return processor(rax, args)
            args.rdx = next(tdmr.end for tdmr in kernel.tdmrs if tdmr.base == args.rcx)
            return 0

        return seamcall

    kernel = Kernel(
        machine,
        PageAllocator(machine),
        memory,
        shared,
        [without_tdmr_init(lp.seamcall) for lp in module.processors],
        design,
        behaviour,
    )
    return kernel


def static_design(design: Design) -> Design:
    """The same kernel with Dynamic PAMT not asked for."""
    return replace(design, dynamic_pamt=False)
