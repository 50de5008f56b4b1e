"""Creating a TD: KeyID, TDR, TDCS, MNG.INIT, with every way to fail.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c (__tdx_td_init); patch 7 of `[PATCH v6 00/11] Dynamic
PAMT` (2026-05-25), whose merged form (86305da521d1, 2026-09-04) has not been seen.
"""

from typing import Final

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.status import TDX_RND_NO_ENTROPY
from dpamt.abi.td_params import CONFIG_FLAGS_NO_RBP_MOD, TdParams
from dpamt.host.core.control_pages import tdx_alloc_control_page, tdx_free_control_page
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_repeat
from dpamt.host.core.seamcall import (
    tdh_mng_addcx,
    tdh_mng_create,
    tdh_mng_init,
    tdh_mng_key_config,
)
from dpamt.host.core.tdx_errno import (
    EAGAIN,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    is_tdx_operand_invalid,
    tdx_status,
)
from dpamt.host.kvm.metadata import tdx_read_td_tsc
from dpamt.host.kvm.teardown import (
    tdx_hkid_free,
    tdx_mmu_release_hkid,
    tdx_reclaim_td_control_pages,
)
from dpamt.host.kvm.vm import Vm, kvm_vm_bugged, tdx_bug

SITE_TDR: Final = "TDR"
SITE_TDCS: Final = "TDCS"
SITE_TD_PARAMS: Final = "TD_PARAMS"

TSC_FREQUENCY_25MHZ: Final = 40
"""1 GHz: the guest's time stamp counter matters to nothing here."""


def tdx_guest_keyid_alloc(kernel: Kernel) -> int:
    """A free guest KeyID, lowest first; -ENOSPC when all are in use."""
    keyids = kernel.guest_keyids
    for keyid in range(keyids.start, keyids.stop):
        word = kernel.keyid_words.at(keyid)
        won = word.compare_and_swap(0, 1)
        if won:
            return keyid
    return -ENOSPC


def tdx_td_init(vm: Vm, cpu: Cpu, max_vcpus: int = 4) -> int:
    """KVM_TDX_INIT_VM: 0, or a negative errno with everything given back.

    -ENOSPC no KeyID, -ENOMEM no memory (or no PAMT), -EAGAIN no entropy, -EINVAL parameters that
    the module refuses or a TD that exists already, -EIO any other refusal.
    """
    kernel = vm.kernel
    bugged = vm.bugged.load()
    if bugged:
        return -EIO
    sysinfo = kernel.sysinfo
    if sysinfo is None or vm.tdr:
        return -EINVAL
    hkid = tdx_guest_keyid_alloc(kernel)
    if hkid < 0:
        return hkid
    pages = _alloc_control_pages(kernel, cpu, sysinfo)
    if not pages:
        tdx_hkid_free(kernel, hkid)
        return -ENOMEM
    tdr, tdcs = pages[0], pages[1:]
    kernel.tdx_lock.lock()
    again = REPEAT
    while again == REPEAT:
        status = tdh_mng_create(cpu, tdr, hkid)
        again = tdx_pamt_repeat(kernel, cpu, tdr, None, status)
    kernel.tdx_lock.unlock()
    if status:
        error = again if again else _seamcall_error(vm, "TDH.MNG.CREATE", status)
        _free_control_pages(kernel, cpu, tdcs, tdr)
        tdx_hkid_free(kernel, hkid)
        return error
    vm.hkid = hkid
    vm.tdr = tdr
    vm.max_vcpus = max_vcpus
    error = _build_td(vm, cpu, tdcs, sysinfo)
    if error:
        _free_control_pages(kernel, cpu, tdcs[len(vm.tdcs) :])
        tdx_mmu_release_hkid(vm, cpu)
        tdx_reclaim_td_control_pages(vm, cpu)
        return error
    tdx_read_td_tsc(vm, cpu)
    return 0


def _alloc_control_pages(kernel: Kernel, cpu: Cpu, sysinfo: TdxSysInfo) -> list[int]:
    """TDR, then the TDCS pages; empty when one could not be had."""
    pages: list[int] = []
    for index in range(1 + sysinfo.tdcs_pages):
        pfn = tdx_alloc_control_page(kernel, cpu, SITE_TDCS if index else SITE_TDR)
        if pfn is None:
            _free_control_pages(kernel, cpu, pages[1:], pages[0] if pages else 0)
            return []
        pages.append(pfn)
    return pages


def _free_control_pages(kernel: Kernel, cpu: Cpu, tdcs: list[int], tdr: int = 0) -> None:
    """Pages that the module never had: TDCS pages as they were allocated, then the TDR, if any."""
    for index in range(len(tdcs)):
        tdx_free_control_page(kernel, cpu, tdcs[index])
    if tdr:
        tdx_free_control_page(kernel, cpu, tdr)


def _build_td(vm: Vm, cpu: Cpu, tdcs: list[int], sysinfo: TdxSysInfo) -> int:
    """From MNG.CREATE to MNG.INIT; ``vm.tdcs`` grows by each page that the module took."""
    kernel = vm.kernel
    package_cpus = kernel.package_cpus()
    for index in range(len(package_cpus)):
        status = tdh_mng_key_config(package_cpus[index], vm.tdr)
        if status:
            tdx_bug(vm, "TDH.MNG.KEY.CONFIG", status)
            return -EIO
    for index in range(len(tdcs)):
        again = REPEAT
        while again == REPEAT:
            status = tdh_mng_addcx(cpu, vm.tdr, tdcs[index])
            again = tdx_pamt_repeat(kernel, cpu, tdcs[index], None, status)
        if status:
            return again if again else _seamcall_error(vm, "TDH.MNG.ADDCX", status)
        vm.tdcs.append(tdcs[index])
    return _mng_init(vm, cpu, sysinfo)


def _mng_init(vm: Vm, cpu: Cpu, sysinfo: TdxSysInfo) -> int:
    kernel = vm.kernel
    pfn = kernel.allocator.alloc_page(SITE_TD_PARAMS)
    if pfn is None:
        return -ENOMEM
    params = TdParams(
        sysinfo.attributes_fixed1,
        sysinfo.xfam_fixed1,
        vm.max_vcpus,
        config_flags=CONFIG_FLAGS_NO_RBP_MOD,
        tsc_frequency=TSC_FREQUENCY_25MHZ,
    )
    kernel.memory.write(pfn << PAGE_SHIFT, params.pack())
    status, rcx = tdh_mng_init(cpu, vm.tdr, pfn << PAGE_SHIFT)
    kernel.memory.clear_page(pfn)
    kernel.allocator.free_page(pfn)
    if not status:
        return 0
    if is_tdx_operand_invalid(status):
        return -EINVAL  # user space chose the operands: it gets the error, not the log
    kvm_vm_bugged(vm, "TDH.MNG.INIT")
    kernel.log.kvm(f"SEAMCALL TDH_MNG_INIT failed: {status:#x}, rcx {rcx:#x}")
    return -EIO


def _seamcall_error(vm: Vm, leaf: str, status: int) -> int:
    if tdx_status(status) == TDX_RND_NO_ENTROPY:
        return -EAGAIN
    tdx_bug(vm, leaf, status)
    return -EIO
