"""What the threads of a verification do: the host's own functions, on a machine set up for them."""

from collections.abc import Callable
from typing import Final

from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.seamcall import tdh_mem_page_aug, tdh_mem_page_remove, tdh_mem_sept_add
from dpamt.host.designs.base import Design
from dpamt.verify.automaton import Body
from dpamt.verify.properties import AT_REST, LEAK
from dpamt.verify.setting import OwnWord, Setting, ThreadClass
from dpamt.verify.world import ObservedAllocator, World

EAUG: Final = 1000
EREMOVE: Final = 1001
"""What a thread ends with when its SEAMCALL was refused; that it was is an event already."""


def get_use_put(world: World, cpu: Cpu, tdr: int, pfn: int, gpa: int) -> int:
    """Back a page, give it to the TD, take it back, drop the backing."""
    kernel = world.kernel
    error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    if error:
        return error
    status = tdh_mem_page_aug(cpu, tdr, gpa, LEVEL_4K, pfn)
    if status:
        kernel.tdx_pamt_put(kernel, cpu, pfn)
        return 0
    status = tdh_mem_page_remove(cpu, tdr, gpa, LEVEL_4K)
    if status:
        return 0
    kernel.tdx_pamt_put(kernel, cpu, pfn)
    return 0


def one_region(design: Design, cpus: int) -> Setting:
    """``cpus`` threads, each with a page of its own in one 2M region: get, use, put."""
    return regions(design, (cpus,))


def regions(design: Design, cpus: tuple[int, ...]) -> Setting:
    """Threads in several 2M regions, so many in each: get, use, put.

    Pages that get takes for a pair are the same two for all threads of a region, and others for
    another region.  At most one pair can be installed for a region, so no thread can tell.
    """
    world = World(design)
    vm = world.make_td()
    septs = world.alloc_backed(3)
    boot_cpu = world.kernel.cpus[0]
    for level, sept in zip((3, 2, 1), septs, strict=True):
        status = tdh_mem_sept_add(boot_cpu, vm.tdr, 0, level, sept)
        assert status == 0, hex(status)
    allocator = ObservedAllocator(world)
    world.kernel.allocator = allocator  # type: ignore[assignment]
    kinds = []
    gfn = 0
    for number, count in enumerate(cpus):
        first = world.free_region(number)
        pages = tuple(first + n for n in range(count))
        gfns = tuple(range(gfn, gfn + count))
        gfn += count
        pair = (world.free_region(100) + 2 * number, world.free_region(100) + 2 * number + 1)
        kinds.append(
            ThreadClass(
                f"region {number}",
                _start(world, allocator, vm.tdr, pages[0], gfns[0], pair),
                count,
                (
                    OwnWord("module.pamt.4k", pages),
                    OwnWord("module.pamt.4k.bepoch", pages),
                    OwnWord(
                        "module.td.sept",
                        tuple(septs[2] << 9 | g % PAGES_PER_2M for g in gfns),
                        8 + 16,
                    ),
                ),
                pages,
            )
        )

    def at_rest() -> list[str]:
        lines = [f"{AT_REST}: {line}" for line in world.findings()]
        out = allocator.balance.load()
        for n in range(len(cpus)):
            region = world.free_region(n) >> 9
            if world.kernel.pamt_refcounts.at(region).load():
                lines.append(f"{LEAK}: region {region:#x} keeps a count and nobody uses it")
            if region in world.view.pairs():
                lines.append(f"{LEAK}: region {region:#x} keeps its pair and nobody uses it")
                out -= 2
        if out:
            lines.append(f"{LEAK}: {out} pages are not given back")
        return lines

    return Setting(
        f"get, use, put; CPUs by region: {'+'.join(map(str, cpus))}",
        world.shared,
        world.recorder,
        world.places,
        tuple(kinds),
        at_rest,
    )


def _start(
    world: World,
    allocator: ObservedAllocator,
    tdr: int,
    pfn: int,
    gfn: int,
    pair: tuple[int, int],
) -> Callable[[], Body]:
    def start() -> Body:
        allocator.pair_pages = pair
        cpu = world.cpu(0)

        def body() -> object:
            return get_use_put(world, cpu, tdr, pfn, gfn << PAGE_SHIFT)

        return body

    return start
