"""A machine for programs of whole TDs: every page comes from pools, in regions that are chosen.

The threads' TDs are made by the host's own functions before the threads begin, from the same pools
that the threads use, so that a TD can end and all of its pages be counted.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K
from dpamt.host.core.kernel import Cpu, KernelBehaviour
from dpamt.host.core.leftovers import kept_pages, stays
from dpamt.host.core.page_cache import PamtCache, tdx_free_pamt_cache
from dpamt.host.core.tdx_errno import EINTR, ENOMEM
from dpamt.host.designs.base import SEPT_CACHE_PAGES, Design
from dpamt.host.kvm.build import tdx_td_finalize
from dpamt.host.kvm.mmu import RET_PF_RETRY, free_sept_cache, kvm_tdp_mmu_page_fault
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.verify.learn.automaton import Body, Start
from dpamt.verify.programs.ground import Choices, locks_held, must
from dpamt.verify.programs.page_pools import PoolAllocator
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.worker import with_worker
from dpamt.verify.programs.world import StandingVm, World
from dpamt.verify.properties.named import AT_REST, LEAK, OWNERS

TRIES_WITHOUT_COUNTS: Final = 2
"""Each try that meets the lock of an ADD or REMOVE leaves one more stray count in it, so that tries
without a bound would be places without a bound."""

_FIRST_OF_PAIRS: Final = 400
"""Index in a region of the first page that is kept for pairs."""
_POOL: Final = 40
_PAIRS: Final = 28
"""Pages of one pool: what a TD with its VCPU takes, and what a VCPU's pool of pairs does."""


@dataclass(frozen=True, slots=True)
class Pools:
    """The pages that one thread and its TD take: those of pairs, and all others."""

    pages: tuple[int, ...]
    for_pairs: tuple[int, ...]


class TdMachine:
    """The machine, its pools, and the TDs that are there before the threads begin."""

    def __init__(
        self,
        design: Design,
        choices: Choices | None = None,
        behaviour: KernelBehaviour | None = None,
    ) -> None:
        self.design = design
        self.world = World(short_pools(design), behaviour)
        self.choices = choices or Choices()
        self.choices.settle(self.world)
        self.allocator = self.world.use_pools()

    def pools(self, number: int, region: int, pairs_in: int) -> Pools:
        """Pools of the ``number``-th thread: pages of one region, pages for pairs in another."""
        first = self.world.free_region(region) + number * _POOL
        pairs = self.world.free_region(pairs_in) + _FIRST_OF_PAIRS + number * _PAIRS
        pools = Pools(tuple(range(first, first + _POOL)), tuple(range(pairs, pairs + _PAIRS)))
        self.allocator.own(pools.pages, pools.for_pairs)
        return pools

    def blank_td(self, memory_bytes: int) -> Vm:
        """A VM that is no TD yet."""
        return StandingVm(self.world.kernel, memory_bytes)

    def running_td(
        self, pools: Pools, memory_bytes: int, vcpus: int = 1, page: int = 0, folio: int = 0
    ) -> Vm:
        """A TD that runs, from these pools, with the page at that GPA mapped.

        With ``folio``, the first page of a region, that is a 2M page.
        """
        kernel = self.world.kernel
        cpu = kernel.cpus[0]
        self.allocator.use(pools.pages, pools.for_pairs)
        self.allocator.folio = folio
        vm = StandingVm(kernel, memory_bytes, folio != 0)
        must(tdx_td_init(vm, cpu) == 0)
        for _ in range(vcpus):
            vcpu = tdx_vcpu_create(vm)
            must(isinstance(vcpu, Vcpu) and tdx_vcpu_init(vm, vcpu, cpu) == 0)
        must(tdx_td_finalize(vm, cpu) == 0)
        must(fault(vm, vm.vcpus[0], cpu, page, LEVEL_2M if folio else LEVEL_4K) == 0)
        give_back(vm, vm.vcpus[0], cpu)
        return vm

    def start(self, number: int, pools: Pools, vm: Vm, run: Callable[[Vm, Cpu], int]) -> Start:
        """A thread that has the VM for itself."""

        def start() -> Body:
            self.allocator.use(pools.pages, pools.for_pairs)
            cpu = self.world.cpu(number)
            own = own_vm(vm)

            def body() -> object:
                result = run(own, cpu)
                return self.world.ended(result)

            return body

        return start

    def problem(
        self, name: str, classes: tuple[ThreadClass, ...], bounds: dict[str, str], gone: bool
    ) -> Problem:
        """The threads on this machine; ``gone``: at the end there is no TD any more."""
        world = self.world
        problem = Problem(
            name,
            world.shared,
            world.recorder,
            world.places,
            classes,
            lambda: self.at_rest(gone),
            bounds={
                "design": world.design.source,
                **bounds,
                **cut_short(self.design),
                **self.choices.told(),
                "memory model": "sequentially consistent",
            },
            world=world,
        )
        return with_worker(problem)

    def at_rest(self, gone: bool) -> list[str]:
        """What is wrong when every thread has ended."""
        world = self.world
        lines = at_rest(world, self.allocator)
        tds = world.view.tds()
        keys = sum(1 for _ in world.kernel.keyid_words.non_zero())
        if keys != len(tds):
            lines.append(f"{LEAK}: {keys} guest KeyIDs are in use, and there are {len(tds)} TDs")
        if gone:
            lines += [f"{LEAK}: TD {tdr:#x} is still there" for tdr in tds]
        return lines


def at_rest(world: World, allocator: PoolAllocator) -> list[str]:
    """Every page of the pools is back, unless the module uses it or it is in a pair needed so."""
    lines = locks_held(world)
    for line in world.findings():
        name = OWNERS if " is of TD " in line or " free in the page allocator" in line else AT_REST
        lines.append(f"{name}: {line}")
    used = world.view.used_pages()
    regions = {page >> 9 for page in used}
    counts = world.kernel.pamt_refcounts
    stuck = world.pairs_that_stay()
    needed = {
        page
        for region, pair in world.view.pairs().items()
        if region in regions or region in stuck or stays(world.design, counts.at(region).load())
        for page in (pair.pfn0, pair.pfn1)
    }
    kept = [pfn for pfn in allocator.taken() if pfn not in needed and pfn not in used]
    wrong = kept_pages(world.design, kept)
    return [*lines, f"{LEAK}: {wrong}"] if wrong else lines


def own_vm(vm: Vm) -> Vm:
    """A VM whose fields are the thread's own; its words are those of the VM."""
    own = copy.copy(vm)
    own.__class__ = Vm
    own.tdcs = list(vm.tdcs)
    own.vcpus = [own_vcpu(vcpu) for vcpu in vm.vcpus]
    return own


def own_vcpu(vcpu: Vcpu) -> Vcpu:
    """The same of a VCPU."""
    own = copy.copy(vcpu)
    own.tdcx = list(vcpu.tdcx)
    own.sept_cache = list(vcpu.sept_cache)
    own.pamt_cache = PamtCache()
    own.pamt_cache.pages = list(vcpu.pamt_cache.pages)
    own.registers = copy.copy(vcpu.registers)
    return own


def fault(vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, level: int) -> int:
    """A fault on the page, again for as long as the MMU asks for it: what it says at last.

    With a design that has no counts a signal comes after :data:`TRIES_WITHOUT_COUNTS`, -EINTR.
    """
    left = TRIES_WITHOUT_COUNTS if vm.kernel.design.counts == "none" else -1
    cpu.running_vcpu = vcpu
    result = RET_PF_RETRY
    while result == RET_PF_RETRY and left:
        result = kvm_tdp_mmu_page_fault(vm, vcpu, cpu, gpa, level, 0)
        if left > 0:
            left -= 1
    cpu.running_vcpu = None
    return -EINTR if result == RET_PF_RETRY else result


def give_back(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> None:
    """What waits in the pools of a VCPU goes back."""
    kernel = vm.kernel
    free_sept_cache(kernel, cpu, vcpu.sept_cache, kernel.design.sept_backing == "top-up")
    tdx_free_pamt_cache(kernel, vcpu.pamt_cache)


def short_pools(design: Design) -> Design:
    """The design with no more S-EPT pages in a VCPU's pool than a fault takes.

    Those of v5's 40 that no fault takes are got at the top-up and put when the VCPU is freed, one
    like the other, as the few are that remain here.  A bound of the verdict: :func:`cut_short`.
    """
    return replace(design, sept_cache_pages=min(design.sept_cache_pages, SEPT_CACHE_PAGES))


def cut_short(design: Design) -> dict[str, str]:
    """What is cut short, as bounds of a verdict: pools of S-EPT pages, tries of a fault."""
    told = {}
    if design.sept_cache_pages > SEPT_CACHE_PAGES:
        pools = f"{SEPT_CACHE_PAGES}, not the {design.sept_cache_pages} of the design"
        told["S-EPT pages in a VCPU's pool"] = pools
    if design.counts == "none":
        told["tries of a fault"] = f"at most {TRIES_WITHOUT_COUNTS}, then a signal comes"
    return told


def no_harm(error: int) -> int:
    """The error of a thread; 0 where it may end so: out of memory, or a signal came."""
    return 0 if error in (-ENOMEM, -EINTR) else error
