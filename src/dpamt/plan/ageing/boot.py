"""A host of `dpamt run`, booted with the allocator that ages: where an ageing simulation begins."""

from typing import Literal

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.errors import InputError
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Kernel, KernelBehaviour
from dpamt.host.designs.load import load_design
from dpamt.module.module import TdxModule
from dpamt.plan.ageing.allocator import AgeingAllocator
from dpamt.platform.machine import Machine
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync import Shared

Grouping = Literal["page-block", "scattered"]
"""Where pages lie that the kernel takes after boot.

``page-block``: together.  Linux takes unmovable pages from page blocks (of 2M) of their own as long
as there is one, so that they do not spoil others (mm/page_alloc.c, get_pfnblock_migratetype() and
find_suitable_fallback()).  ``scattered``: each in a 2M region of its own, as after weeks in which
such blocks ran out and unmovable pages fell back to others.
"""

DESIGN = "merged"
"""The design whose rules are simulated: what Linux merged."""
RELEASE = "2.0.18"


def boot_ageing(
    machine: Machine,
    seed: int = 0,
    fragmentation: float = 0.0,
    release: str = RELEASE,
    grouping: Grouping = "scattered",
) -> Kernel:
    """The machine's kernel after tdx_enable(), under Dynamic PAMT and the merged design.

    ``fragmentation`` is the share (0 to 1) of wholly free 2 MiB regions in which the kernel takes a
    page after boot, by ``seed``; with ``grouping`` by page blocks, as many pages come together
    instead, one after another.  Raises InputError when the machine does not come up with Dynamic
    PAMT, or for a share outside [0, 1].
    """
    kernel, up = _booted(machine, release, KernelBehaviour())
    if not up:
        # Where the map has too many holes, a kernel with the patch of 2024 comes up.
        patched, up = _booted(machine, release, KernelBehaviour(tdmr_holes="cmrs"))
        if up:
            kernel = patched
    if not up:
        why = "; ".join(kernel.log.lines[-2:])
        raise InputError(
            f"{machine.source}: expected a host that initialises with Dynamic PAMT: {why}"
        )
    if fragmentation:
        assert isinstance(kernel.allocator, AgeingAllocator)
        if grouping == "scattered":
            kernel.allocator.fragment(fragmentation, seed)
        else:
            regions = sum(block.pages for block in machine.memory) // PAGES_PER_2M
            for _ in range(round(fragmentation * regions)):
                kernel.allocator.page()
    return kernel


def _booted(machine: Machine, release: str, behaviour: KernelBehaviour) -> tuple[Kernel, bool]:
    """After tdx_enable(), and whether it is up with Dynamic PAMT."""
    shared, memory = Shared(), PhysicalMemory()
    module = TdxModule(memory, machine, release, shared)
    seamcalls = [processor.seamcall for processor in module.processors]
    kernel = Kernel(
        machine,
        AgeingAllocator(machine),
        memory,
        shared,
        seamcalls,
        load_design(DESIGN),
        behaviour,
    )
    error = tdx_enable(kernel)
    return kernel, not error and kernel.dynamic_pamt
