"""Bringing the module up at boot, with every way to fail giving back what was taken.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdx_init, tdx_enable, init_tdx_module); merged
1e3d79135327 "x86/virt/tdx: Enable Dynamic PAMT" (2026-09-04).
"""

from typing import Final

from dpamt.abi.leaves import (
    TDH_SYS_CONFIG,
    TDH_SYS_INIT,
    TDH_SYS_KEY_CONFIG,
    TDH_SYS_LP_INIT,
    TDH_SYS_TDMR_INIT,
)
from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT, TDX_FEATURES0_NO_RBP_MOD
from dpamt.abi.pages import MAX_DYNAMIC_PAMT_HKID_START_BIT, PAGE_SHIFT, SIZE_1G
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.memory_list import build_tdx_memlist
from dpamt.host.core.metadata import TdxSysInfo, get_tdx_sys_info
from dpamt.host.core.pamt_areas import (
    tdmrs_count_pamt_kb,
    tdmrs_free_pamt_all,
    tdmrs_reset_pamt_all,
)
from dpamt.host.core.seamcall import (
    tdh_sys_config,
    tdh_sys_init,
    tdh_sys_key_config,
    tdh_sys_lp_init,
    tdh_sys_tdmr_init,
)
from dpamt.host.core.tdmr import alloc_tdmr_list, construct_tdmrs, free_tdmr_list, tdmr_address
from dpamt.host.core.tdx_errno import EINVAL, EIO, ENOMEM

SITE_TDMR_POINTERS: Final = "TDMR pointer array"


def tdx_enable(kernel: Kernel) -> int:
    """From power-on to a module that is ready: early boot lines, SYS.INIT, every CPU, the rest.

    Runs on the first CPU; 0 or a negative errno.
    """
    first, end = kernel.machine.private_keyids
    kernel.log.info(f"BIOS enabled: private KeyID range [{first}, {end})")
    kernel.log.info("Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.")
    status = tdh_sys_init(kernel.cpus[0])
    if status:
        return _seamcall_failed(kernel, TDH_SYS_INIT, status)
    for index in range(len(kernel.cpus)):
        status = tdh_sys_lp_init(kernel.cpus[index])
        if status:
            return _seamcall_failed(kernel, TDH_SYS_LP_INIT, status)
    return init_tdx_module(kernel, kernel.cpus[0])


def init_tdx_module(kernel: Kernel, cpu: Cpu) -> int:
    """Configure the module for this machine's memory; 0, or a negative errno with all freed."""
    error = _init(kernel, cpu)
    if error:
        kernel.log.info(f"TDX-Module initialization failed ({error})")
    else:
        kernel.log.info("TDX-Module initialized")
    return error


def _init(kernel: Kernel, cpu: Cpu) -> int:
    error = get_tdx_sys_info(kernel, cpu)
    if error:
        return error
    sysinfo = kernel.sysinfo
    assert sysinfo is not None
    if not sysinfo.supports(TDX_FEATURES0_NO_RBP_MOD):
        kernel.log.info("frame pointer (RBP) clobber bug present, upgrade TDX module")
        return -EINVAL
    kernel.dynamic_pamt = use_dynamic_pamt(kernel, sysinfo)
    # From here to the end of the set-up, Linux holds the memory hot-plug lock for reading.
    design = kernel.design
    error = design.init_pamt_metadata(kernel)
    if error:
        return error
    error = _set_up(kernel, cpu, sysinfo)
    if error:
        kernel.memory_list = ()
        design.free_pamt_metadata(kernel)
    return error


def use_dynamic_pamt(kernel: Kernel, sysinfo: TdxSysInfo) -> bool:
    """Whether design, module and (in v6) the width of physical addresses allow it."""
    if not kernel.design.dynamic_pamt or not sysinfo.supports(TDX_FEATURES0_DYNAMIC_PAMT):
        return False
    if kernel.behaviour.dynamic_pamt_check == "feature-bit":
        return True
    return kernel.machine.hkid_start_bit <= MAX_DYNAMIC_PAMT_HKID_START_BIT


def _set_up(kernel: Kernel, cpu: Cpu, sysinfo: TdxSysInfo) -> int:
    """Memory list, TDMRs, and the module's own set-up, each undone when a later one fails."""
    error = build_tdx_memlist(kernel)
    if error:
        return error
    error = alloc_tdmr_list(kernel, sysinfo)
    if error:
        return error
    error = construct_tdmrs(kernel, sysinfo)
    if error:
        free_tdmr_list(kernel)
        return error
    error = config_tdx_module(kernel, cpu, sysinfo)
    if not error:
        error = _start_module(kernel, cpu)
        if error:
            # Caches of all CPUs are written back here; then the pages the module wrote are reset.
            tdmrs_reset_pamt_all(kernel)
    if error:
        tdmrs_free_pamt_all(kernel)
        free_tdmr_list(kernel)
        return error
    kernel.log.info(f"{tdmrs_count_pamt_kb(kernel)} KB allocated for PAMT")
    return 0


def _start_module(kernel: Kernel, cpu: Cpu) -> int:
    error = config_global_keyid(kernel)
    if error:
        return error
    return init_tdmrs(kernel, cpu)


def config_tdx_module(kernel: Kernel, cpu: Cpu, sysinfo: TdxSysInfo) -> int:
    """SYS.CONFIG with an array of pointers to the TDMRs; 0, -ENOMEM or -EIO."""
    pfn = kernel.allocator.alloc_page(SITE_TDMR_POINTERS)
    if pfn is None:
        return -ENOMEM
    array = pfn << PAGE_SHIFT
    for index in range(len(kernel.tdmrs)):
        kernel.memory.write64(array + 8 * index, tdmr_address(kernel, sysinfo, index))
    mode = 0
    if kernel.dynamic_pamt:
        kernel.log.info("Enable Dynamic PAMT")
        mode = SYS_CONFIG_DYNAMIC_PAMT
    status = tdh_sys_config(cpu, array, len(kernel.tdmrs), kernel.global_keyid | mode)
    kernel.memory.clear_page(pfn)
    kernel.allocator.free_page(pfn)
    if status:
        return _seamcall_failed(kernel, TDH_SYS_CONFIG, status)
    return 0


def config_global_keyid(kernel: Kernel) -> int:
    """SYS.KEY.CONFIG on one CPU of each package, one after another; 0 or -EIO."""
    cpus = kernel.package_cpus()
    for index in range(len(cpus)):
        status = tdh_sys_key_config(cpus[index])
        if status:
            return _seamcall_failed(kernel, TDH_SYS_KEY_CONFIG, status)
    return 0


def init_tdmrs(kernel: Kernel, cpu: Cpu) -> int:
    """SYS.TDMR.INIT until each TDMR is done; progress is reported in GiB.  0 or -EIO."""
    total = sum(tdmr.size for tdmr in kernel.tdmrs) // SIZE_1G
    done = 0
    for index in range(len(kernel.tdmrs)):
        tdmr = kernel.tdmrs[index]
        position = tdmr.base
        while position < tdmr.end:
            status, reached = tdh_sys_tdmr_init(cpu, tdmr.base)
            if status:
                return _seamcall_failed(kernel, TDH_SYS_TDMR_INIT, status)
            if reached != position:
                position = reached
                kernel.report("TDMR.INIT", done + (position - tdmr.base) // SIZE_1G, total)
        done += tdmr.size // SIZE_1G
    return 0


def _seamcall_failed(kernel: Kernel, leaf: int, status: int) -> int:
    kernel.log.info(f"SEAMCALL ({leaf:#018x}) failed: {status:#018x}")
    return -EIO
