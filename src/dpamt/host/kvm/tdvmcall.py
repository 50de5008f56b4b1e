"""TDVMCALLs: what a guest asks its host for, and what KVM answers by itself.

User space answers the rest.  The guest finds the answer in R10, and more in R11 to R13.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c (handle_tdvmcall, tdx_map_gpa, __tdx_map_gpa,
tdx_get_td_vm_call_info, tdx_get_quote, tdx_setup_event_notify_interrupt),
arch/x86/include/asm/shared/tdx.h.
"""

from typing import Final

from dpamt.abi.exits import (
    TDVMCALL_GET_QUOTE,
    TDVMCALL_GET_TD_VM_CALL_INFO,
    TDVMCALL_MAP_GPA,
    TDVMCALL_REPORT_FATAL_ERROR,
    TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT,
    TDVMCALL_STATUS_ALIGN_ERROR,
    TDVMCALL_STATUS_INVALID_OPERAND,
    TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED,
)
from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.td_params import PRIVATE_GPA_BITS
from dpamt.host.core.kernel import Cpu
from dpamt.host.kvm.attributes import kvm_convert
from dpamt.host.kvm.vm import Vcpu, Vm

GPA_SHARED: Final = 1 << PRIVATE_GPA_BITS[0]
"""The SHARED bit of a guest with 48-bit addresses."""
TDX_MAP_GPA_MAX_LEN: Final = SIZE_2M
"""So much user space converts at once."""
_VECTORS: Final = range(32, 256)


def handle_tdvmcall(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> int | None:
    """0 to enter again, a negative errno of user space's, or None where user space is to answer.

    User space that is asked for a conversion makes it at once.
    """
    registers = vcpu.registers
    number = registers.r11
    if number == TDVMCALL_MAP_GPA:
        return _tdx_map_gpa(vm, vcpu, cpu)
    if number == TDVMCALL_REPORT_FATAL_ERROR:
        return None
    if number == TDVMCALL_GET_TD_VM_CALL_INFO:
        if registers.r12 == 1:
            return None
        if registers.r12:
            registers.r10 = TDVMCALL_STATUS_INVALID_OPERAND
        else:
            registers.r10 = registers.r11 = registers.r13 = 0
        return 0
    if number == TDVMCALL_GET_QUOTE and registers.r12 & GPA_SHARED:
        return None
    if number == TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT and registers.r12 in _VECTORS:
        return None
    known = number in (TDVMCALL_GET_QUOTE, TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT)
    registers.r10 = (
        TDVMCALL_STATUS_INVALID_OPERAND if known else TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED
    )
    return 0


def _tdx_map_gpa(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> int:
    """MapGPA: checked, then converted 2M at a time from where it begins."""
    gpa, size = vcpu.registers.r12, vcpu.registers.r13
    error = _wrong_range(gpa, size)
    if error:
        vcpu.registers.r10 = error
        vcpu.registers.r11 = gpa
        return 0
    private = not gpa & GPA_SHARED
    first = gpa & ~GPA_SHARED
    for start in range(first, first + size, TDX_MAP_GPA_MAX_LEN):
        length = min(TDX_MAP_GPA_MAX_LEN, first + size - start)
        failed = kvm_convert(vm, cpu, start, length, private)
        if failed:
            return failed
    vcpu.registers = TdxModuleArgs()
    return 0


def _wrong_range(gpa: int, size: int) -> int:
    """The status of a TDVMCALL that names no range of one kind; 0 of one that does."""
    end = gpa + size
    if not size or end > MAX_PA_LIMIT or (gpa ^ end - 1) & GPA_SHARED:
        return TDVMCALL_STATUS_INVALID_OPERAND
    return TDVMCALL_STATUS_ALIGN_ERROR if (gpa | size) % PAGE_SIZE else 0
