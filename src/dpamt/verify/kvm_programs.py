"""Threads that go the whole of KVM's way: faults and zaps of TDs that run, under their locks.

Each thread has a VCPU and a GPA, and a pool of pages; the guest pages of all threads come from one
2M region of host memory, so that they meet in its count and its pair.
"""

from collections.abc import Callable

from dpamt.abi.pages import LEVEL_4K, PAGE_SIZE
from dpamt.errors import ModelError
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.page_cache import tdx_free_pamt_cache
from dpamt.host.designs.base import Design
from dpamt.host.kvm.build import tdx_td_finalize
from dpamt.host.kvm.mmu import (
    RET_PF_RETRY,
    free_sept_cache,
    kvm_tdp_mmu_page_fault,
    tdx_handle_ept_violation,
)
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.verify.automaton import Body
from dpamt.verify.pool import PoolAllocator
from dpamt.verify.properties import AT_REST, LEAK, OWNERS
from dpamt.verify.setting import Setting, ThreadClass
from dpamt.verify.world import World

_POOL_PAGES = 24
"""What the pools of a VCPU take, with a guest page and something to spare."""
_BACKED_POOL_PAGES = 60
"""The same where S-EPT pages wait in a pool of 40."""


def fault_and_zap(world: World, vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int) -> int:
    """A fault until it is done, then the page is punched out of guest_memfd; the pools go back."""
    cpu.running_vcpu = vcpu
    result = RET_PF_RETRY
    while result == RET_PF_RETRY:
        result = kvm_tdp_mmu_page_fault(vm, vcpu, cpu, gpa, LEVEL_4K, 0)
    cpu.running_vcpu = None
    if result < 0:
        return result
    error = kvm_gmem_punch_hole(vm, cpu, gpa, PAGE_SIZE)
    kernel = world.kernel
    free_sept_cache(kernel, cpu, vcpu.sept_cache, kernel.design.sept_backing == "top-up")
    tdx_free_pamt_cache(kernel, vcpu.pamt_cache)
    return error


def faults(design: Design, tds: int, vcpus: int = 1) -> Setting:
    """``tds`` TDs, each with ``vcpus`` VCPUs that fault a page each and have it zapped."""
    world = World(design)
    runners = [_running_td(world, vcpus) for _ in range(tds)]
    allocator = PoolAllocator(world.shared, world.recorder)
    first = world.free_region(0)
    size = _BACKED_POOL_PAGES if design.sept_backing == "top-up" else _POOL_PAGES
    kinds = []
    every = [(vm, vcpu) for vm in runners for vcpu in vm.vcpus]
    for n, (vm, vcpu) in enumerate(every):
        pool = tuple(range(first + n * size, first + (n + 1) * size))
        allocator.pages.update(pool)
        gpa = (1 + n) * PAGE_SIZE
        kinds.append(
            ThreadClass(
                f"VCPU {vcpu.index} of VM {vm.vm_id}: fault, zap",
                _start(world, allocator, pool, vm, vcpu, gpa),
            )
        )
    world.kernel.allocator = allocator  # type: ignore[assignment]
    return Setting(
        f"fault and zap; {tds} TDs of {vcpus} VCPUs",
        world.shared,
        world.recorder,
        world.places,
        tuple(kinds),
        lambda: _at_rest(world, allocator),
        bounds={
            "design": design.source,
            "TDs": f"{tds}, of {vcpus} VCPUs",
            "each VCPU": "has a page mapped by a fault, and zapped again",
            "guest pages": "all in one 2M region",
            "memory model": "sequentially consistent",
        },
        world=world,
    )


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
    backed = world.kernel.design.sept_backing == "top-up"
    free_sept_cache(world.kernel, cpu, vcpu.sept_cache, backed)
    tdx_free_pamt_cache(world.kernel, vcpu.pamt_cache)
    return vm


def _start(
    world: World, allocator: PoolAllocator, pool: tuple[int, ...], vm: Vm, vcpu: Vcpu, gpa: int
) -> Callable[[], Body]:
    def start() -> Body:
        allocator.pool = pool
        vcpu.sept_cache.clear()
        vcpu.pamt_cache.pages.clear()
        cpu = world.cpu(0)

        def body() -> object:
            return fault_and_zap(world, vm, vcpu, cpu, gpa)

        return body

    return start


def _at_rest(world: World, allocator: PoolAllocator) -> list[str]:
    """Every page of the pools is back, unless it is in a pair that somebody needs."""
    lines = []
    for line in world.findings():
        name = OWNERS if " is of TD " in line or " free in the page allocator" in line else AT_REST
        lines.append(f"{name}: {line}")
    used = {page >> 9 for page in world.view.used_pages()}
    needed = {
        page
        for region, pair in world.view.pairs().items()
        if region in used
        for page in (pair.pfn0, pair.pfn1)
    }
    lines += [
        f"{LEAK}: page {pfn:#x} is not given back" for pfn in allocator.taken() if pfn not in needed
    ]
    return lines
