"""Taking private pages out of a TD: by range, and all of them when guest_memfd goes.

Source: Linux arch/x86/kvm/mmu/tdp_mmu.c, virt/kvm/guest_memfd.c (kvm_gmem_release,
kvm_gmem_punch_hole).
"""

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.tdx_errno import EINVAL
from dpamt.host.kvm.bulk import zap_run
from dpamt.host.kvm.mirror import LEAF, PFN_SHIFT, PRESENT
from dpamt.host.kvm.sept import tdx_sept_remove_private_spte
from dpamt.host.kvm.split import kvm_split_cross_boundary_leafs
from dpamt.host.kvm.vm import INVALIDATE_BEGIN, INVALIDATE_END, Vm, kvm_vm_bugged


def kvm_gmem_release(vm: Vm, cpu: Cpu) -> None:
    """The last file reference is gone: zap all guest pages, then free them."""
    vm.invalidate.add(INVALIDATE_BEGIN)
    vm.mmu_lock.write_lock()
    tdp_mmu_zap_range(vm, cpu, 0, vm.memory_pages)
    vm.mmu_lock.write_unlock()
    punch_pages(vm, 0, vm.memory_pages)
    vm.invalidate.add(INVALIDATE_END)


def kvm_gmem_punch_hole(vm: Vm, cpu: Cpu, gpa: int, size: int) -> int:
    """fallocate(FALLOC_FL_PUNCH_HOLE) of ``size`` bytes; 0, -EINVAL, or a failed split's error."""
    if (gpa | size) & ((1 << PAGE_SHIFT) - 1) or gpa + size > vm.memory_pages << PAGE_SHIFT:
        return -EINVAL
    first, end = gpa >> PAGE_SHIFT, gpa + size >> PAGE_SHIFT
    vm.invalidate.add(INVALIDATE_BEGIN)
    error = kvm_split_cross_boundary_leafs(vm, cpu, first, end)
    if not error:
        vm.mmu_lock.write_lock()
        tdp_mmu_zap_range(vm, cpu, first, end)
        vm.mmu_lock.write_unlock()
        punch_pages(vm, first, end)
    vm.invalidate.add(INVALIDATE_END)
    return error


def punch_pages(vm: Vm, first: int, end: int) -> None:
    """Free the backing of unmapped pages [first, end)."""
    gmem = vm.gmem
    gfn = first
    while gfn < end:
        if gfn % PAGES_PER_2M == 0 and gfn + PAGES_PER_2M <= end:
            gmem.punch_range(gfn)
            gfn += PAGES_PER_2M
        else:
            gmem.punch(gfn)
            gfn += 1


def tdp_mmu_zap_range(vm: Vm, cpu: Cpu, first: int, end: int) -> None:
    """Zap every leaf in [first, end), under mmu_lock for writing; it cannot fail.

    Large leafs that reach across an end have been split before.
    """
    tables = vm.mirror[LEVEL_2M]
    for index in range(first // PAGES_PER_2M, -(-end // PAGES_PER_2M)):
        entry = tables.at(index)
        spte = entry.load()
        if not spte & PRESENT:
            continue
        start = index * PAGES_PER_2M
        if not spte & LEAF:
            _zap_table(vm, cpu, max(first, start), min(end, start + PAGES_PER_2M))
        elif start < first or start + PAGES_PER_2M > end:
            kvm_vm_bugged(vm, f"2M leaf at page {start:#x} crosses the zapped range")
        else:
            entry.store(0)
            _zap_leaf(vm, cpu, start, LEVEL_2M, spte >> PFN_SHIFT)


def _zap_table(vm: Vm, cpu: Cpu, first: int, end: int) -> None:
    pages = vm.mirror[LEVEL_4K]
    bulk = cpu.bulk
    gfn = first
    while gfn < end:
        if bulk is not None:
            done = zap_run(vm, cpu, bulk, gfn, end)
            if done:
                gfn += done
                continue
        entry = pages.at(gfn)
        spte = entry.load()
        if spte & PRESENT:
            entry.store(0)
            _zap_leaf(vm, cpu, gfn, LEVEL_4K, spte >> PFN_SHIFT)
        gfn += 1


def _zap_leaf(vm: Vm, cpu: Cpu, gfn: int, level: int, pfn: int) -> None:
    error = tdx_sept_remove_private_spte(vm, cpu, gfn << PAGE_SHIFT, level, pfn)
    if error:
        # The module may still use the page: guest_memfd must never give it to anyone else.
        vm.gmem.leak(gfn)
