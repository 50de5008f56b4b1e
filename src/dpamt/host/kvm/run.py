"""KVM_RUN: entering the guest and handling what makes it leave.

Source: Linux arch/x86/kvm/vmx/tdx.c (tdx_vcpu_load, tdx_vcpu_run, tdx_to_vmx_exit_reason,
tdx_handle_exit), arch/x86/kvm/x86.c (__kvm_emulate_halt); the level that a guest accepts at:
`[PATCH v3 00/24] KVM: TDX huge page support for private memory` (2026-01-06).
"""

from typing import Final

from dpamt.abi.exits import (
    EXIT_REASON_CPUID,
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_HLT,
    EXIT_REASON_IO_INSTRUCTION,
    EXIT_REASON_MASK,
    EXIT_REASON_MSR_READ,
    EXIT_REASON_MSR_WRITE,
    EXIT_REASON_TDCALL,
    EXIT_UNDEFINED,
    EXTENDED_LEVEL_MASK,
    EXTENDED_REQUESTED_LEVEL_SHIFT,
    EXTENDED_TYPE_ACCEPT,
    EXTENDED_TYPE_MASK,
    EXTENDED_TYPE_PENDING,
)
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.seamcall import tdh_vp_enter
from dpamt.host.core.tdx_errno import EINTR, EINVAL, EIO, is_tdx_operand_busy
from dpamt.host.kvm.metadata import kvm_mmu_reload, tdx_protected_apic_has_interrupt
from dpamt.host.kvm.mmu import RET_PF_SPURIOUS, tdx_handle_ept_violation
from dpamt.host.kvm.split import kvm_split_huge_leaf
from dpamt.host.kvm.tdvmcall import GPA_SHARED, handle_tdvmcall
from dpamt.host.kvm.teardown import tdx_flush_vp
from dpamt.host.kvm.vm import IN_GUEST_MODE, OUTSIDE_GUEST_MODE, Vcpu, Vm, kvm_vm_dead

_HANDLED: Final = 0
_INSTRUCTIONS: Final = frozenset(
    {
        EXIT_REASON_CPUID,
        EXIT_REASON_HLT,
        EXIT_REASON_IO_INSTRUCTION,
        EXIT_REASON_MSR_READ,
        EXIT_REASON_MSR_WRITE,
    }
)
"""Exit reasons that a guest passes in R11 of a TDVMCALL (tdcall_to_vmx_exit_reason)."""


def tdx_vcpu_run(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> int:
    """KVM_RUN: until user space is needed.

    Returns the exit reason (:mod:`dpamt.abi.exits`; ``vcpu.registers`` has the registers),
    EXIT_UNDEFINED where VP.ENTER failed (KVM_EXIT_INTERNAL_ERROR; the VM is not bugged), or a
    negative errno: -EINTR a signal, -EINVAL not yet runnable, -EIO the VM is bugged, -ENOMEM.
    """
    runnable = vm.runnable.load()
    if not runnable or not vcpu.tdvpr:
        return -EINVAL
    if vcpu.cpu is not cpu:
        tdx_flush_vp(vm, vcpu)
        vcpu.cpu = cpu
    before, cpu.running_vcpu = cpu.running_vcpu, vcpu
    result = _run(vm, vcpu, cpu)
    cpu.running_vcpu = before
    return result


def _run(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> int:
    while True:
        bugged = vm.bugged.load()
        if bugged:
            return -EIO
        signal = vcpu.signal_pending.load()
        if signal:
            return -EINTR
        waiting = vm.wait_for_sept_zap.load()
        if waiting:
            continue
        kvm_mmu_reload(vm, vcpu, cpu)
        vcpu.mode.store(IN_GUEST_MODE)
        status = tdh_vp_enter(cpu, vcpu.tdvpr, vcpu.registers)
        vcpu.mode.store(OUTSIDE_GUEST_MODE)
        if status & STATUS_MASK:
            if is_tdx_operand_busy(status):
                continue
            return EXIT_UNDEFINED
        reason = _basic_reason(status & EXIT_REASON_MASK, vcpu.registers)
        result = _handle_exit(vm, vcpu, cpu, reason)
        if result != _HANDLED:
            return result


def _basic_reason(reason: int, registers: TdxModuleArgs) -> int:
    """What a TDVMCALL of an instruction stands for; of the others, the exit reason itself."""
    if reason == EXIT_REASON_TDCALL and not registers.r10 and registers.r11 in _INSTRUCTIONS:
        return registers.r11
    return reason


def _handle_exit(vm: Vm, vcpu: Vcpu, cpu: Cpu, reason: int) -> int:
    """0 to enter again, else what KVM_RUN returns."""
    registers = vcpu.registers
    if reason == EXIT_REASON_EXTERNAL_INTERRUPT:
        return _HANDLED
    if reason == EXIT_REASON_EPT_VIOLATION and not registers.r8 & GPA_SHARED:
        return _handle_ept_violation(vm, vcpu, cpu, registers.rdx, registers.r8)
    if reason == EXIT_REASON_TDCALL and not registers.r10:
        answered = handle_tdvmcall(vm, vcpu, cpu)
        if answered is not None:
            return answered
    if reason == EXIT_REASON_HLT and not registers.r12:
        waits = tdx_protected_apic_has_interrupt(vm, vcpu, cpu)
        if waits:
            return _HANDLED
    return reason


def _handle_ept_violation(vm: Vm, vcpu: Vcpu, cpu: Cpu, extended: int, gpa: int) -> int:
    """Map the page, at most at the level that the guest accepts; split what is mapped larger."""
    level = LEVEL_2M
    if extended & EXTENDED_TYPE_MASK == EXTENDED_TYPE_PENDING:
        vm.kernel.log.kvm(f"Guest access before accepting {gpa:#x} on vCPU {vcpu.index}")
        kvm_vm_dead(vm)
        return -EIO
    accepting = extended & EXTENDED_TYPE_MASK == EXTENDED_TYPE_ACCEPT
    if accepting:
        level = extended >> EXTENDED_REQUESTED_LEVEL_SHIFT & EXTENDED_LEVEL_MASK
    if not vm.huge_pages:
        level = LEVEL_4K
    ahead = vcpu.faults_ahead
    if ahead is not None and accepting and level == LEVEL_4K:
        done = ahead(vm, vcpu, cpu, gpa)
        if done < 0:
            return done
        gpa += done << PAGE_SHIFT
        vcpu.registers.r8 = gpa
    result = tdx_handle_ept_violation(vm, vcpu, cpu, gpa, level)
    if result == RET_PF_SPURIOUS and level == LEVEL_4K:
        result = kvm_split_huge_leaf(vm, cpu, gpa >> PAGE_SHIFT)
    return result if result < 0 else _HANDLED
