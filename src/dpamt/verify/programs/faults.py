"""Threads that go the whole of KVM's way: faults and zaps of TDs that run, under their locks.

Each thread has a VCPU and a GPA, and a pool of pages; the guest pages of all threads come from one
2M region of host memory, so that they meet in its count and its pair.
"""

from collections.abc import Callable

from dpamt.abi.pages import LEVEL_4K, PAGE_SIZE
from dpamt.errors import ModelError
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.tdx_errno import EIO
from dpamt.host.designs.base import Design
from dpamt.host.kvm.build import tdx_td_finalize
from dpamt.host.kvm.mmu import tdx_handle_ept_violation
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.verify.learn.automaton import Body
from dpamt.verify.programs.ground import Choices
from dpamt.verify.programs.page_pools import PoolAllocator
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.td_machine import (
    at_rest,
    cut_short,
    fault,
    give_back,
    no_harm,
    short_pools,
)
from dpamt.verify.programs.worker import with_worker
from dpamt.verify.programs.world import World

_POOL_PAGES = 24
"""What the pools of a VCPU take, with a guest page and something to spare."""


def fault_and_zap(vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int) -> int:
    """A fault until it is done, then the page is punched out of guest_memfd; the pools go back.

    After an error without remedy the page is punched too: guest_memfd has it, and nobody else.
    """
    result = fault(vm, vcpu, cpu, gpa, LEVEL_4K)
    if result in (0, -EIO):
        zapped = kvm_gmem_punch_hole(vm, cpu, gpa, PAGE_SIZE)
        result = result or zapped
    give_back(vm, vcpu, cpu)
    return no_harm(result)


def faults(design: Design, tds: int, vcpus: int = 1, choices: Choices | None = None) -> Problem:
    """``tds`` TDs, each with ``vcpus`` VCPUs that fault a page each and have it zapped."""
    world = World(short_pools(design), cpus=tds * vcpus)
    chosen = choices or Choices()
    runners = [_running_td(world, vcpus) for _ in range(tds)]
    chosen.settle(world)
    allocator = world.use_pools()
    first = world.free_region(0)
    size = _POOL_PAGES
    kinds = []
    every = [(vm, vcpu) for vm in runners for vcpu in vm.vcpus]
    for n, (vm, vcpu) in enumerate(every):
        pool = tuple(range(first + n * size, first + (n + 1) * size))
        allocator.own(pool)
        gpa = (1 + n) * PAGE_SIZE
        kinds.append(
            ThreadClass(
                f"VCPU {vcpu.index} of VM {vm.vm_id}: fault, zap",
                _start(world, allocator, pool, n, vm, vcpu, gpa),
            )
        )
    problem = Problem(
        f"fault and zap; {tds} TDs of {vcpus} VCPUs",
        world.shared,
        world.recorder,
        world.places,
        tuple(kinds),
        lambda: at_rest(world, allocator),
        bounds={
            "design": design.source,
            "TDs": f"{tds}, of {vcpus} VCPUs",
            "each VCPU": "has a page mapped by a fault, and zapped again",
            "guest pages": "all in one 2M region",
            **cut_short(design),
            **chosen.told(),
            "memory model": "sequentially consistent",
        },
        world=world,
    )
    return with_worker(problem)


def _running_td(world: World, vcpus: int) -> Vm:
    """A TD that runs, its S-EPT there for GPA 0 to 2M (a page at GPA 0 is mapped)."""
    cpu = world.kernel.cpus[0]
    vm = world.make_td()
    for _ in range(vcpus):
        vcpu = tdx_vcpu_create(vm)
        if not isinstance(vcpu, Vcpu) or tdx_vcpu_init(vm, vcpu, cpu):
            raise ModelError("the verifier's VCPU cannot be made")
    if tdx_td_finalize(vm, cpu):
        raise ModelError("the verifier's TD cannot be finalised")
    vcpu = vm.vcpus[0]
    cpu.running_vcpu = vcpu
    mapped = tdx_handle_ept_violation(vm, vcpu, cpu, 0, LEVEL_4K)
    cpu.running_vcpu = None
    if mapped:
        raise ModelError("the verifier's TD cannot map its first page")
    give_back(vm, vcpu, cpu)
    return vm


def _start(
    world: World,
    allocator: PoolAllocator,
    pool: tuple[int, ...],
    number: int,
    vm: Vm,
    vcpu: Vcpu,
    gpa: int,
) -> Callable[[], Body]:
    def start() -> Body:
        allocator.use(pool)
        vcpu.sept_cache.clear()
        vcpu.pamt_cache.pages.clear()
        cpu = world.cpu(number)

        def body() -> object:
            result = fault_and_zap(vm, vcpu, cpu, gpa)
            return world.ended(result)

        return body

    return start
