"""Private or shared: KVM_SET_MEMORY_ATTRIBUTES, and the whole conversion as user space does it.

Source: Linux virt/kvm/kvm_main.c (kvm_vm_set_mem_attributes), arch/x86/kvm/mmu/mmu.c.
"""

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.tdx_errno import EINVAL, EIO
from dpamt.host.kvm.split import kvm_split_cross_boundary_leafs
from dpamt.host.kvm.vm import INVALIDATE_BEGIN, INVALIDATE_END, Vm
from dpamt.host.kvm.zap import punch_pages, tdp_mmu_zap_range


def kvm_set_memory_attributes(vm: Vm, cpu: Cpu, gpa: int, size: int, private: bool) -> int:
    """Make ``size`` bytes private or shared; 0, -EINVAL, -EIO, or the error of a split.

    To shared: large leafs across the ends are split, then the range is zapped; its pages stay with
    guest_memfd.  To private: pages come with the next fault.
    """
    if (gpa | size) % PAGE_SIZE or not size or gpa + size > vm.memory_pages << PAGE_SHIFT:
        return -EINVAL
    bugged = vm.bugged.load()
    if bugged:
        return -EIO
    first, end = gpa >> PAGE_SHIFT, gpa + size >> PAGE_SHIFT
    vm.lock.lock()
    vm.invalidate.add(INVALIDATE_BEGIN)
    error = 0
    if not private:
        error = kvm_split_cross_boundary_leafs(vm, cpu, first, end)
    if not error:
        vm.mmu_lock.write_lock()
        _mark(vm, first, end, 0 if private else 1)
        if not private:
            tdp_mmu_zap_range(vm, cpu, first, end)
        vm.mmu_lock.write_unlock()
    vm.invalidate.add(INVALIDATE_END)
    vm.lock.unlock()
    return error


def kvm_convert(vm: Vm, cpu: Cpu, gpa: int, size: int, private: bool) -> int:
    """What user space does for MapGPA: set the attributes, free the pages of what is shared now."""
    error = kvm_set_memory_attributes(vm, cpu, gpa, size, private)
    if not error and not private:
        punch_pages(vm, gpa >> PAGE_SHIFT, gpa + size >> PAGE_SHIFT)
    return error


def _mark(vm: Vm, first: int, end: int, shared: int) -> None:
    """Set the attribute of each page, and count the shared ones of each 2M range."""
    for gfn in range(first, end):
        mark = vm.shared_pages.at(gfn)
        changed = mark.compare_and_swap(1 - shared, shared)
        if changed:
            count = vm.shared_counts.at(gfn // PAGES_PER_2M)
            count.add(1 if shared else -1)
