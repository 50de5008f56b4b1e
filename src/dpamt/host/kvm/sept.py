"""The hooks by which KVM's MMU changes the S-EPT: link, set, remove, split.

Pages get their PAMT right before the SEAMCALL that uses them, and lose it right after the one that
gave them back, or when the first one failed; but a design may back S-EPT pages earlier.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c; patch 9 of `[PATCH v6 00/11] Dynamic PAMT` (2026-05-25)
for get and put, whose merged form (d7fe610e6a66, 2026-09-04) has not been seen; split: `[PATCH v3
00/24] KVM: TDX huge page support for private memory` (2026-01-06).
"""

from dpamt.abi.pages import LEVEL_4K, LEVEL_PAGES
from dpamt.host.core.demote import tdx_mem_page_demote
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_removed, tdx_pamt_repeat
from dpamt.host.core.page_cache import PamtCache
from dpamt.host.core.seamcall import (
    tdh_mem_page_add,
    tdh_mem_page_aug,
    tdh_mem_page_remove,
    tdh_mem_range_block,
    tdh_mem_sept_add,
    tdh_mem_track,
    tdh_phymem_page_wbinvd,
)
from dpamt.host.core.tdx_errno import EBUSY, EIO, is_tdx_operand_busy
from dpamt.host.kvm.vm import IN_GUEST_MODE, Vm, kvm_vm_bugged, tdx_bug


def tdx_sept_link_private_spt(vm: Vm, cpu: Cpu, gpa: int, level: int, sept: int) -> int:
    """SEPT.ADD of a new S-EPT page; 0, -EBUSY to try again, or an error."""
    kernel = vm.kernel
    vcpu = cpu.running_vcpu
    if vcpu is None:
        kvm_vm_bugged(vm, "S-EPT page linked without a running VCPU")
        return -EIO
    at_link = kernel.design.sept_backing == "link"
    if at_link:
        error = kernel.tdx_pamt_get(kernel, cpu, sept, vcpu.pamt_cache)
        if error:
            return error
    again = REPEAT
    while again == REPEAT:
        status = tdh_mem_sept_add(cpu, vm.tdr, gpa, level, sept)
        if not status:
            return 0
        again = tdx_pamt_repeat(kernel, cpu, sept, vcpu.pamt_cache, status)
    if at_link:
        kernel.tdx_pamt_put(kernel, cpu, sept)
    if again:
        return again
    if is_tdx_operand_busy(status):
        return -EBUSY
    tdx_bug(vm, "TDH.MEM.SEPT.ADD", status)
    return -EIO


def tdx_sept_set_private_spte(vm: Vm, cpu: Cpu, gpa: int, level: int, pfn: int, source: int) -> int:
    """AUG of a page, or PAGE.ADD from ``source`` while the TD is built.

    0, -EBUSY to try again, or an error.
    """
    kernel = vm.kernel
    vcpu = cpu.running_vcpu
    if vcpu is None:
        kvm_vm_bugged(vm, "page mapped without a running VCPU")
        return -EIO
    if level == LEVEL_4K:
        error = kernel.tdx_pamt_get(kernel, cpu, pfn, vcpu.pamt_cache)
        if error:
            return error
    return tdx_sept_set_backed_spte(vm, cpu, gpa, level, pfn, source, vcpu.pamt_cache)


def tdx_sept_set_backed_spte(
    vm: Vm, cpu: Cpu, gpa: int, level: int, pfn: int, source: int, cache: PamtCache
) -> int:
    """The SEAMCALL of :func:`tdx_sept_set_private_spte`; without success, the put of its get.

    A refusal bugs the VM before the put; the other way round than with an S-EPT page.
    """
    kernel = vm.kernel
    again = REPEAT
    while again == REPEAT:
        if source:
            status = tdh_mem_page_add(cpu, vm.tdr, gpa, pfn, source)
        else:
            status = tdh_mem_page_aug(cpu, vm.tdr, gpa, level, pfn)
        if not status:
            return 0
        again = tdx_pamt_repeat(kernel, cpu, pfn, cache, status)
    error = again
    if not again:
        error = -EBUSY
        if not is_tdx_operand_busy(status):
            tdx_bug(vm, "TDH.MEM.PAGE.ADD" if source else "TDH.MEM.PAGE.AUG", status)
            error = -EIO
    if level == LEVEL_4K:
        kernel.tdx_pamt_put(kernel, cpu, pfn)
    return error


def tdx_sept_remove_private_spte(vm: Vm, cpu: Cpu, gpa: int, level: int, pfn: int) -> int:
    """BLOCK, TRACK, REMOVE, write back, put.  0, or -EIO with the VM bugged and the page lost.

    Under mmu_lock for writing.  A TRACK that fails stops nothing: where REMOVE then works, the page
    is put, and 0 is returned for a VM that is bugged.
    """
    kernel = vm.kernel
    error = tdx_sept_zap_private_spte(vm, cpu, gpa, level)
    if error:
        return error
    status, hint = tdh_mem_page_remove(cpu, vm.tdr, gpa, level)
    if is_tdx_operand_busy(status):
        tdx_no_vcpus_enter_start(vm)
        status, hint = tdh_mem_page_remove(cpu, vm.tdr, gpa, level)
        tdx_no_vcpus_enter_stop(vm)
    if status:
        tdx_bug(vm, "TDH.MEM.PAGE.REMOVE", status)
        return -EIO
    hkid = vm.hkid
    for page in range(pfn, pfn + LEVEL_PAGES[level]):
        status = tdh_phymem_page_wbinvd(cpu, page, hkid)
        if status:
            tdx_bug(vm, "TDH.PHYMEM.PAGE.WBINVD", status)
            return -EIO
        tdx_quirk_reset_page(kernel, page)
    if level == LEVEL_4K:
        tdx_pamt_removed(kernel, cpu, pfn, hint)
    return 0


def tdx_sept_zap_private_spte(vm: Vm, cpu: Cpu, gpa: int, level: int) -> int:
    """BLOCK, and TRACK once the TD runs; 0, or -EIO with the VM bugged because BLOCK failed."""
    status = tdh_mem_range_block(cpu, vm.tdr, gpa, level)
    if is_tdx_operand_busy(status):
        tdx_no_vcpus_enter_start(vm)
        status = tdh_mem_range_block(cpu, vm.tdr, gpa, level)
        tdx_no_vcpus_enter_stop(vm)
    if status:
        tdx_bug(vm, "TDH.MEM.RANGE.BLOCK", status)
        return -EIO
    tdx_track(vm, cpu)
    return 0


def tdx_track(vm: Vm, cpu: Cpu) -> None:
    """A new TLB epoch, then every VCPU out of the guest; nothing before the TD is finalised.

    When TRACK fails the VM is bugged, and its VCPUs are kicked out all the same.
    """
    runnable = vm.runnable.load()
    if not runnable:
        return
    status = tdh_mem_track(cpu, vm.tdr)
    if is_tdx_operand_busy(status):
        tdx_no_vcpus_enter_start(vm)
        status = tdh_mem_track(cpu, vm.tdr)
        tdx_no_vcpus_enter_stop(vm)
    if status:
        tdx_bug(vm, "TDH.MEM.TRACK", status)
    kvm_make_all_vcpus_leave(vm)


def tdx_sept_split_private_spte(
    vm: Vm,
    cpu: Cpu,
    gpa: int,
    level: int,
    pfn: int,
    sept: int,
    pages: tuple[int, int],
    cache: PamtCache,
) -> int:
    """BLOCK, TRACK, DEMOTE of a 2M leaf, under mmu_lock for writing.

    ``sept`` has its PAMT already, ``pages`` is the pair for the split region.  0, or -EIO with the
    VM bugged and both still the caller's.
    """
    error = tdx_sept_zap_private_spte(vm, cpu, gpa, level)
    if error:
        return error
    status = _demote(vm, cpu, gpa, pfn, sept, pages, cache)
    if is_tdx_operand_busy(status):
        tdx_no_vcpus_enter_start(vm)
        status = _demote(vm, cpu, gpa, pfn, sept, pages, cache)
        tdx_no_vcpus_enter_stop(vm)
    if status:
        tdx_bug(vm, "TDH.MEM.PAGE.DEMOTE", status)
        return -EIO
    return 0


def _demote(
    vm: Vm, cpu: Cpu, gpa: int, pfn: int, sept: int, pages: tuple[int, int], cache: PamtCache
) -> int:
    """DEMOTE; the region without a pair can only be that of ``sept``.  The status."""
    kernel = vm.kernel
    again = REPEAT
    while again == REPEAT:
        status = tdx_mem_page_demote(kernel, cpu, vm.tdr, gpa, pfn, sept, pages)
        again = tdx_pamt_repeat(kernel, cpu, sept, cache, status)
    return status


def tdx_no_vcpus_enter_start(vm: Vm) -> None:
    """Keep VCPUs out of the guest: the next try of the zap meets none of their locks."""
    vm.wait_for_sept_zap.store(1)
    kvm_make_all_vcpus_leave(vm)


def tdx_no_vcpus_enter_stop(vm: Vm) -> None:
    """Let them in again."""
    vm.wait_for_sept_zap.store(0)


def kvm_make_all_vcpus_leave(vm: Vm) -> None:
    """KVM_REQ_OUTSIDE_GUEST_MODE: interrupt every VCPU and wait until it is out."""
    for index in range(len(vm.vcpus)):
        mode_word = vm.vcpus[index].mode
        mode = mode_word.load()
        while mode == IN_GUEST_MODE:
            mode = mode_word.load()
