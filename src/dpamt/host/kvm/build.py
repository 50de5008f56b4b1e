"""Building a TD before it runs: its first memory, its measurement, its finalisation, pre-faults.

Source: Linux arch/x86/kvm/vmx/tdx.c (tdx_vcpu_init_mem_region, tdx_td_finalize), mmu/mmu.c
(kvm_arch_vcpu_pre_fault_memory).
"""

from typing import Final

from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGE_SIZE
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.seamcall import tdh_mr_extend, tdh_mr_finalize
from dpamt.host.core.tdx_errno import (
    EBUSY,
    EINTR,
    EINVAL,
    EIO,
    ENOMEM,
    EOPNOTSUPP,
    is_tdx_operand_busy,
)
from dpamt.host.kvm.metadata import kvm_mmu_reload
from dpamt.host.kvm.mmu import (
    RET_PF_FIXED,
    RET_PF_RETRY,
    kvm_tdp_mmu_page_fault,
    tdx_handle_ept_violation,
)
from dpamt.host.kvm.vm import Vcpu, Vm, tdx_bug

SITE_SOURCE: Final = "INIT_MEM_REGION source page"

_EXTEND_BYTES: Final = 256


def tdx_init_mem_region(
    vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, pages: int, measure: bool = False
) -> int:
    """KVM_TDX_INIT_MEM_REGION: PAGE.ADD of ``pages`` pages from ``gpa`` on.

    0, -EIO for a dead VM or a refusal, -EINVAL, -ENOMEM, -EFAULT beyond the VM's memory, -EINTR.
    Pages added before an error stay.  The contents are zero: user space's buffer is one page here.
    """
    kernel = vm.kernel
    bugged = vm.bugged.load()
    if bugged:
        return -EIO
    runnable = vm.runnable.load()
    if runnable or gpa % PAGE_SIZE or pages <= 0 or not vcpu.tdvpr:
        return -EINVAL
    source = kernel.allocator.alloc_page(SITE_SOURCE)
    if source is None:
        return -ENOMEM
    vm.lock.lock()
    before, cpu.running_vcpu = cpu.running_vcpu, vcpu
    error = 0
    kvm_mmu_reload(vm, vcpu, cpu)
    for index in range(pages):
        error = _add_page(vm, vcpu, cpu, gpa + index * PAGE_SIZE, source, measure)
        if error:
            break
    cpu.running_vcpu = before
    vm.lock.unlock()
    kernel.allocator.free_page(source)
    return error


def _add_page(vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, source: int, measure: bool) -> int:
    while True:
        result = kvm_tdp_mmu_page_fault(vm, vcpu, cpu, gpa, LEVEL_4K, source)
        if result != RET_PF_RETRY:
            break
        signal = vcpu.signal_pending.load()
        if signal:
            return -EINTR
    if result != RET_PF_FIXED:
        return result if result < 0 else -EIO
    if measure:
        return _measure(vm, cpu, gpa)
    return 0


def _measure(vm: Vm, cpu: Cpu, gpa: int) -> int:
    """MR.EXTEND of a page in chunks; a failure bugs the VM and leaves the page mapped."""
    for chunk in range(0, 1 << PAGE_SHIFT, _EXTEND_BYTES):
        status = tdh_mr_extend(cpu, vm.tdr, gpa + chunk)
        if status:
            tdx_bug(vm, "TDH.MR.EXTEND", status)
            return -EIO
    return 0


def tdx_td_finalize(vm: Vm, cpu: Cpu) -> int:
    """KVM_TDX_FINALIZE_VM: the TD may run; 0, -EINVAL, -EBUSY, or -EIO with the VM bugged."""
    bugged = vm.bugged.load()
    if bugged:
        return -EIO
    runnable = vm.runnable.load()
    if runnable or not vm.tdr:
        return -EINVAL
    vm.lock.lock()
    status = tdh_mr_finalize(cpu, vm.tdr)
    if not status:
        vm.runnable.store(1)
    vm.lock.unlock()
    if not status:
        return 0
    if is_tdx_operand_busy(status):
        return -EBUSY
    tdx_bug(vm, "TDH.MR.FINALIZE", status)
    return -EIO


def kvm_pre_fault_memory(vm: Vm, vcpu: Vcpu, cpu: Cpu, gpa: int, pages: int) -> int:
    """KVM_PRE_FAULT_MEMORY: map ``pages`` private pages from ``gpa`` on, before the guest asks.

    0, also for pages that are mapped already; -EOPNOTSUPP before the TD is finalised, -EIO for a
    dead VM, -EINVAL, or the error of a fault, with the pages before it mapped.
    """
    bugged = vm.bugged.load()
    if bugged:
        return -EIO
    runnable = vm.runnable.load()
    if not runnable:
        return -EOPNOTSUPP
    if gpa % PAGE_SIZE or pages <= 0:
        return -EINVAL
    before, cpu.running_vcpu = cpu.running_vcpu, vcpu
    kvm_mmu_reload(vm, vcpu, cpu)
    error = 0
    for index in range(pages):
        result = tdx_handle_ept_violation(vm, vcpu, cpu, gpa + index * PAGE_SIZE, LEVEL_4K)
        if result < 0:
            error = result
            break
    cpu.running_vcpu = before
    return error
