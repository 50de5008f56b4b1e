"""The end of a TD: guest pages, KeyID, S-EPT pages, VCPUs, control pages, in this order.

What the module does not give back stays lost, with its PAMT: nothing here frees a page on a guess.

Source: Linux arch/x86/kvm/vmx/tdx.c (tdx_mmu_release_hkid, tdx_reclaim_td_control_pages,
tdx_vcpu_free, tdx_vm_destroy).
"""

from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_SHIFTS, PAGE_SHIFT
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_FLUSHVP_NOT_DONE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_NO_HKID_READY_TO_WBCACHE,
    TDX_VCPU_NOT_ASSOCIATED,
)
from dpamt.host.core.control_pages import tdx_free_control_page
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel, KernelOops
from dpamt.host.core.page_cache import tdx_free_pamt_cache
from dpamt.host.core.rcu import call_rcu, rcu_softirq
from dpamt.host.core.seamcall import (
    tdh_mng_key_freeid,
    tdh_mng_vpflushdone,
    tdh_phymem_cache_wb,
    tdh_phymem_page_reclaim,
    tdh_phymem_page_wbinvd,
    tdh_vp_flush,
)
from dpamt.host.kvm.mirror import LEAF, PFN_SHIFT, PRESENT, TOP_LEVEL
from dpamt.host.kvm.mmu import free_sept_cache
from dpamt.host.kvm.vm import Vcpu, Vm, pr_tdx_error, tdx_bug
from dpamt.host.kvm.zap import kvm_gmem_release

CACHE_WB_RESUMES: Final = 10000


def kvm_destroy_vm(vm: Vm, cpu: Cpu) -> None:
    """The last reference is gone: the owning process closed everything, or crashed.

    Afterwards ``vm`` is no longer usable.  What could not be reclaimed is leaked.
    """
    kvm_gmem_release(vm, cpu)
    tdx_mmu_release_hkid(vm, cpu)
    tdx_reclaim_sept_pages(vm, cpu)
    for index in range(len(vm.vcpus)):
        tdx_vcpu_free(vm, vm.vcpus[index], cpu)
    tdx_reclaim_td_control_pages(vm, cpu)
    if vm.kernel.design.sept_put == "rcu":
        rcu_softirq(vm.kernel, cpu)
    vm.forget()


def tdx_hkid_free(kernel: Kernel, hkid: int) -> None:
    """The KeyID may be given to another TD."""
    kernel.keyid_words.at(hkid).store(0)


def tdx_flush_vp(vm: Vm, vcpu: Vcpu) -> None:
    """VP.FLUSH on the CPU where the VCPU was last; after a failure VPFLUSHDONE fails too."""
    cpu = vcpu.cpu
    if cpu is None:
        return
    status = tdh_vp_flush(cpu, vcpu.tdvpr)
    vcpu.cpu = None
    if status and status & STATUS_MASK != TDX_VCPU_NOT_ASSOCIATED:
        tdx_bug(vm, "TDH.VP.FLUSH", status)


def tdx_mmu_release_hkid(vm: Vm, cpu: Cpu) -> None:
    """Make the KeyID free; on failure it stays with the TD, and so does all the TD's memory."""
    if vm.hkid < 0:
        return
    kernel = vm.kernel
    for index in range(len(vm.vcpus)):
        tdx_flush_vp(vm, vm.vcpus[index])
    kernel.tdx_lock.lock()
    leaf = "TDH.MNG.VPFLUSHDONE"
    status = tdh_mng_vpflushdone(cpu, vm.tdr)
    if not status:
        _write_back_caches(kernel)
        leaf = "TDH.MNG.KEY.FREEID"
        status = tdh_mng_key_freeid(cpu, vm.tdr)
    kernel.tdx_lock.unlock()
    if not status:
        tdx_hkid_free(kernel, vm.hkid)
        vm.hkid = -1
    elif status & STATUS_MASK != TDX_FLUSHVP_NOT_DONE:  # VP.FLUSH has reported its cause
        tdx_bug(vm, leaf, status)
        name = leaf.lower().replace(".", "_")
        kernel.log.kvm(f"{name}() failed. HKID {vm.hkid} is leaked.")


def _write_back_caches(kernel: Kernel) -> None:
    """PHYMEM.CACHE.WB on one CPU of each package; when it fails, so will KEY.FREEID."""
    package_cpus = kernel.package_cpus()
    for index in range(len(package_cpus)):
        status = tdh_phymem_cache_wb(package_cpus[index], False)
        for _resume in range(CACHE_WB_RESUMES):
            if status & STATUS_MASK != TDX_INTERRUPTED_RESUMABLE:
                break
            status = tdh_phymem_cache_wb(package_cpus[index], True)
        if status and status & STATUS_MASK != TDX_NO_HKID_READY_TO_WBCACHE:
            kernel.log.warn("caches of a package are not written back")
            pr_tdx_error(kernel, "TDH.PHYMEM.CACHE.WB", status)


def tdx_reclaim_page(vm: Vm, cpu: Cpu, pfn: int) -> tuple[bool, bool]:
    """PAGE.RECLAIM and reset: (done, hint); when the module refuses, the page is lost."""
    status, hint = tdh_phymem_page_reclaim(cpu, pfn)
    if status:
        _reclaim_failed(vm.kernel, pfn, status)
        return False, False
    tdx_quirk_reset_page(vm.kernel, pfn)
    return True, hint


def _reclaim_failed(kernel: Kernel, pfn: int, status: int) -> None:
    kernel.log.warn(f"page {pfn:#x} is lost")
    pr_tdx_error(kernel, "TDH.PHYMEM.PAGE.RECLAIM", status)


def tdx_reclaim_control_page(vm: Vm, cpu: Cpu, pfn: int) -> None:
    """Reclaim, put and free a page."""
    reclaimed, hint = tdx_reclaim_page(vm, cpu, pfn)
    if reclaimed:
        tdx_free_control_page(vm.kernel, cpu, pfn, hint)


def tdx_reclaim_sept_page(vm: Vm, cpu: Cpu, pfn: int) -> None:
    """As a control page, but a design may leave put and free to an RCU callback."""
    if vm.kernel.design.sept_put == "at-once":
        tdx_reclaim_control_page(vm, cpu, pfn)
        return
    reclaimed, _hint = tdx_reclaim_page(vm, cpu, pfn)
    if reclaimed:
        call_rcu(vm.kernel, cpu, pfn)


def tdx_reclaim_sept_pages(vm: Vm, cpu: Cpu) -> None:
    """Every S-EPT page below the root; lost while the KeyID is still assigned."""
    if vm.hkid >= 0 or not vm.tdr:
        return
    for level in range(LEVEL_2M, TOP_LEVEL + 1):
        pages = 1 << LEVEL_SHIFTS[level] - PAGE_SHIFT
        entries = vm.mirror[level]
        for index in range(-(-vm.memory_pages // pages)):
            entry = entries.at(index)
            spte = entry.load()
            if spte & PRESENT and not spte & LEAF:
                tdx_reclaim_sept_page(vm, cpu, spte >> PFN_SHIFT)
                entry.store(0)


def tdx_vcpu_free(vm: Vm, vcpu: Vcpu, cpu: Cpu) -> None:
    """Pools, then control pages; those are lost while the KeyID is still assigned.

    Raises KernelOops when the list of the page pool was never initialised.
    """
    if not vcpu.cache_ready:
        raise KernelOops("NULL pointer dereference: page list of a VCPU that was never initialised")
    backed = vm.kernel.design.sept_backing == "top-up"
    free_sept_cache(vm.kernel, cpu, vcpu.sept_cache, backed)
    tdx_free_pamt_cache(vm.kernel, vcpu.pamt_cache)
    if vm.hkid >= 0:
        return
    for index in range(len(vcpu.tdcx)):
        tdx_reclaim_control_page(vm, cpu, vcpu.tdcx[index])
    if vcpu.tdvpr:
        tdx_reclaim_control_page(vm, cpu, vcpu.tdvpr)
    vcpu.tdcx.clear()
    vcpu.tdvpr = 0


def tdx_reclaim_td_control_pages(vm: Vm, cpu: Cpu) -> None:
    """TDCS pages, then the TDR, which the module has in its cache under its own KeyID."""
    if vm.hkid >= 0 or not vm.tdr:
        return
    kernel = vm.kernel
    for index in range(len(vm.tdcs)):
        tdx_reclaim_control_page(vm, cpu, vm.tdcs[index])
    vm.tdcs.clear()
    status, hint = tdh_phymem_page_reclaim(cpu, vm.tdr)
    if status:
        _reclaim_failed(kernel, vm.tdr, status)
        return
    status = tdh_phymem_page_wbinvd(cpu, vm.tdr, kernel.global_keyid)
    if status:
        tdx_bug(vm, "TDH.PHYMEM.PAGE.WBINVD", status)
        return
    tdx_quirk_reset_page(kernel, vm.tdr)
    tdx_free_control_page(kernel, cpu, vm.tdr, hint)
    vm.tdr = 0
