"""Metadata of TDs and VCPUs that KVM reads and writes: MNG.RD, VP.RD, VP.WR.

What KVM keeps outside of the pages that are modelled (a VCPU's posted-interrupt descriptor, the
root of the shared EPT) has an address in low memory, which nothing else uses; only VMs that are far
apart share one.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c (tdx_td_init, tdx_vcpu_init, tdx_load_mmu_pgd,
tdx_protected_apic_has_interrupt), vmx/tdx.h (TDX_BUILD_TDVPS_ACCESSORS), mmu/mmu.c
(kvm_mmu_reload).
"""

from typing import Final

from dpamt.abi import td_metadata as field
from dpamt.abi.pages import PAGE_SIZE
from dpamt.abi.registers import U64_MASK
from dpamt.abi.td_metadata import ScopedField
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.seamcall import tdh_mng_rd, tdh_vp_rd, tdh_vp_wr
from dpamt.host.kvm.vm import Vcpu, Vm, kvm_vm_bugged

POSTED_INTR_VECTOR: Final = 0xF2
"""Linux arch/x86/include/asm/irq_vectors.h."""

_KERNEL_MEMORY: Final = 0x1_0000
_ROOT: Final = 0x8_0000
_DESCRIPTORS: Final = (_ROOT - _KERNEL_MEMORY) // field.POSTED_INTERRUPT_DESCRIPTOR_BYTES
_VCPUS_APART: Final = 64


def tdx_read_td_tsc(vm: Vm, cpu: Cpu) -> None:
    """The end of KVM_TDX_INIT_VM: how the module runs the TD's clock.  A failure is logged only."""
    if not vm.kernel.behaviour.td_metadata:
        return
    vm.tsc_offset = _td_tdcs_exec_read64(vm, cpu, field.TSC_OFFSET)
    vm.tsc_multiplier = _td_tdcs_exec_read64(vm, cpu, field.TSC_MULTIPLIER)


def _td_tdcs_exec_read64(vm: Vm, cpu: Cpu, item: ScopedField) -> int:
    status, value = tdh_mng_rd(cpu, vm.tdr, item.id)
    if status:
        vm.kernel.log.kvm(f"TDH_MNG_RD[EXEC.{item.id & 0xFF:#x}] failed: {status:#x}")
        return 0
    return value


def tdx_write_vcpu_controls(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> None:
    """The end of KVM_TDX_INIT_VCPU: posted interrupts.  A failure bugs the VM, and goes on."""
    if not vm.kernel.behaviour.td_metadata:
        return
    descriptor = _KERNEL_MEMORY + field.POSTED_INTERRUPT_DESCRIPTOR_BYTES * (
        (vm.vm_id * _VCPUS_APART + vcpu.index) % _DESCRIPTORS
    )
    item = field.POSTED_INTERRUPT_VECTOR
    _td_vmcs_write(vm, vcpu, cpu, item, POSTED_INTR_VECTOR, item.mask)
    _td_vmcs_write(vm, vcpu, cpu, field.POSTED_INTERRUPT_DESCRIPTOR, descriptor, U64_MASK)
    bit = field.POSTED_INTERRUPTS
    _td_vmcs_write(vm, vcpu, cpu, field.PIN_BASED_CONTROLS, bit, bit)


def kvm_mmu_reload(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> None:
    """The VCPU's first use of the MMU: the module gets the root of the shared EPT."""
    if vcpu.root_loaded or not vm.kernel.behaviour.td_metadata:
        return
    vcpu.root_loaded = True
    root = _ROOT + PAGE_SIZE * (vm.vm_id % (_ROOT // PAGE_SIZE))
    _td_vmcs_write(vm, vcpu, cpu, field.SHARED_EPT_POINTER, root, U64_MASK)


def tdx_protected_apic_has_interrupt(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> bool:
    """Whether an interrupt waits for a VCPU that has halted.  A failure bugs the VM."""
    if not vm.kernel.behaviour.td_metadata:
        return False
    status, value = tdh_vp_rd(cpu, vcpu.tdvpr, field.VCPU_STATE_DETAILS.id)
    if status:
        kvm_vm_bugged(vm, "TDH.VP.RD")
        code = field.VCPU_STATE_DETAILS.id & 0xFFF
        vm.kernel.log.kvm(f"TDH_VP_RD[STATE_NON_ARCH.{code:#x}] failed {status:#x}")
        return False
    return value & field.VCPU_STATE_INTERRUPT_PENDING != 0


def _td_vmcs_write(vm: Vm, vcpu: Vcpu, cpu: Cpu, item: ScopedField, value: int, mask: int) -> None:
    status = tdh_vp_wr(cpu, vcpu.tdvpr, item.id, value, mask)
    if status:
        kvm_vm_bugged(vm, "TDH.VP.WR")
        sign = "|=" if item is field.PIN_BASED_CONTROLS else "="
        code = item.id & 0xFFFF
        vm.kernel.log.kvm(f"TDH_VP_WR[VMCS.{code:#x}] {sign} {value:#x} failed: {status:#x}")
