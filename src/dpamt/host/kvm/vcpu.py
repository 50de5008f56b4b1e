"""Creating and initialising a VCPU of a TD.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c (tdx_vcpu_create, tdx_td_vcpu_init); patch 7 of
`[PATCH v6 00/11] Dynamic PAMT` (2026-05-25), whose merged form (86305da521d1, 2026-09-04) has not
been seen.
"""

from typing import Final

from dpamt.host.core.control_pages import tdx_alloc_control_page, tdx_free_control_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_repeat
from dpamt.host.core.seamcall import tdh_vp_addcx, tdh_vp_create, tdh_vp_init
from dpamt.host.core.tdx_errno import EINVAL, EIO, ENOMEM
from dpamt.host.kvm.metadata import tdx_write_vcpu_controls
from dpamt.host.kvm.vm import Vcpu, Vm, tdx_bug

SITE_TDVPR: Final = "TDVPR"
SITE_TDCX: Final = "TDCX"


def tdx_vcpu_create(vm: Vm) -> Vcpu | int:
    """KVM_CREATE_VCPU: state only; -EIO unless the TD is being built, -EINVAL for one too many."""
    bugged = vm.bugged.load()
    runnable = vm.runnable.load()
    if bugged or runnable or not vm.tdr:
        return -EIO
    if len(vm.vcpus) >= vm.max_vcpus:
        return -EINVAL
    vcpu = Vcpu(vm, len(vm.vcpus))
    vm.vcpus.append(vcpu)
    return vcpu


def tdx_vcpu_init(vm: Vm, vcpu: Vcpu, cpu: Cpu, initial_rcx: int = 0) -> int:
    """KVM_TDX_INIT_VCPU; 0, -EINVAL, -ENOMEM, or -EIO with the VM bugged.

    0 as well where only VP.WR failed, which bugs the VM.
    """
    kernel = vm.kernel
    bugged = vm.bugged.load()
    if bugged:
        return -EIO
    sysinfo = kernel.sysinfo
    runnable = vm.runnable.load()
    if sysinfo is None or runnable or vcpu.tdvpr:
        return -EINVAL
    vm.lock.lock()
    error = _init(vm, vcpu, cpu, sysinfo.tdcx_pages_per_vcpu, initial_rcx)
    if not error:
        tdx_write_vcpu_controls(vm, vcpu, cpu)
    vm.lock.unlock()
    return error


def _init(vm: Vm, vcpu: Vcpu, cpu: Cpu, tdcx_pages: int, initial_rcx: int) -> int:
    kernel = vm.kernel
    vcpu.cache_ready = True
    pages: list[int] = []
    for index in range(1 + tdcx_pages):
        pfn = tdx_alloc_control_page(kernel, cpu, SITE_TDCX if index else SITE_TDVPR)
        if pfn is None:
            _free_pages(kernel, cpu, pages[1:], pages[0] if pages else 0)
            return -ENOMEM
        pages.append(pfn)
    tdvpr, tdcx = pages[0], pages[1:]
    again = REPEAT
    while again == REPEAT:
        status = tdh_vp_create(cpu, vm.tdr, tdvpr)
        again = tdx_pamt_repeat(kernel, cpu, tdvpr, None, status)
    if status:
        if not again:
            tdx_bug(vm, "TDH.VP.CREATE", status)
        _free_pages(kernel, cpu, tdcx, tdvpr)
        return again if again else -EIO
    vcpu.tdvpr = tdvpr
    for index in range(len(tdcx)):
        again = REPEAT
        while again == REPEAT:
            status = tdh_vp_addcx(cpu, tdvpr, tdcx[index])
            again = tdx_pamt_repeat(kernel, cpu, tdcx[index], None, status)
        if status:
            if not again:
                tdx_bug(vm, "TDH.VP.ADDCX", status)
            _free_pages(kernel, cpu, tdcx[index:])
            return again if again else -EIO
        vcpu.tdcx.append(tdcx[index])
    vm.mmu_lock.write_lock()
    status = tdh_vp_init(cpu, tdvpr, initial_rcx, vcpu.index)
    vm.mmu_lock.write_unlock()
    if status:
        tdx_bug(vm, "TDH.VP.INIT", status)
        return -EIO
    vcpu.cpu = cpu
    return 0


def _free_pages(kernel: Kernel, cpu: Cpu, tdcx: list[int], tdvpr: int = 0) -> None:
    """Pages that the module never had: TDCX pages in their order, then the TDVPR, if any."""
    for index in range(len(tdcx)):
        tdx_free_control_page(kernel, cpu, tdcx[index])
    if tdvpr:
        tdx_free_control_page(kernel, cpu, tdvpr)
