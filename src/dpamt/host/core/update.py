"""Another module over the one that runs, with its TDs: all CPUs stop and go through the same steps.

Feature bits, counts and pairs are taken to survive; only the version is read again.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdx_module_shutdown, tdx_module_run_update),
seamldr.c (do_seamldr_install_module, under stop_machine()).
"""

from collections.abc import Callable

from dpamt.abi.leaves import (
    TDH_SYS_INIT,
    TDH_SYS_LP_INIT,
    TDH_SYS_SHUTDOWN,
    TDH_SYS_UPDATE,
)
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.metadata import read_module_hv, read_version
from dpamt.host.core.seamcall import (
    tdh_sys_init,
    tdh_sys_lp_init,
    tdh_sys_shutdown,
    tdh_sys_update,
)
from dpamt.host.core.tdx_errno import EIO

SeamldrInstall = Callable[[Cpu], None]
"""SEAMLDR.INSTALL on a CPU; the last one replaces the module."""


def seamldr_install_module(kernel: Kernel, install: SeamldrInstall) -> int:
    """Shut down, install on every CPU, initialise every CPU, update; 0 or -EIO.

    After a failure the module is gone, and with it every TD.
    """
    lead = kernel.cpus[0]
    error = tdx_module_shutdown(kernel, lead)
    if error:
        return error
    for index in range(len(kernel.cpus)):
        install(kernel.cpus[index])
    status = tdh_sys_init(lead)
    if status:
        return _failed(kernel, TDH_SYS_INIT, status)
    for index in range(len(kernel.cpus)):
        status = tdh_sys_lp_init(kernel.cpus[index])
        if status:
            return _failed(kernel, TDH_SYS_LP_INIT, status)
    return tdx_module_run_update(kernel, lead)


def tdx_module_shutdown(kernel: Kernel, cpu: Cpu) -> int:
    """SYS.SHUTDOWN with the highest handoff version that this module can write; 0 or -EIO."""
    module_hv = read_module_hv(kernel, cpu)
    if module_hv < 0:
        return module_hv
    status = tdh_sys_shutdown(cpu, module_hv)
    return _failed(kernel, TDH_SYS_SHUTDOWN, status) if status else 0


def tdx_module_run_update(kernel: Kernel, cpu: Cpu) -> int:
    """SYS.UPDATE, and the new version; 0 or -EIO."""
    status = tdh_sys_update(cpu)
    if status:
        return _failed(kernel, TDH_SYS_UPDATE, status)
    error = read_version(kernel, cpu)
    if error:
        kernel.log.warn_on_once("tdx_module_run_update")
    return 0


def _failed(kernel: Kernel, leaf: int, status: int) -> int:
    kernel.log.info(f"SEAMCALL ({leaf:#018x}) failed: {status:#018x}")
    return -EIO
