"""TDH.SYS.SHUTDOWN, UPDATE and DISABLE: how the module goes, for another one or for good."""

from dpamt.abi.operands import OPERAND_RAX, OPERAND_RCX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import SYS_READY, SYS_SHUTDOWN, SYSINIT_DONE
from dpamt.abi.status import (
    TDX_OPERAND_INVALID,
    TDX_SYS_BUSY,
    TDX_SYS_INVALID_HANDOFF,
    TDX_SYS_LP_INIT_NOT_DONE,
    TDX_SYS_STATE_INCORRECT,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused

_SYS_UPDATE_MAX_VERSION = 1


def tdh_sys_shutdown(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = handoff version.  The module answers nothing afterwards, until another one is loaded
    over it, which takes over its TDs and its PAMT.

    Another logical processor inside the module is seen by the global lock only.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.1).
    """
    module = lp.module
    if not module.release.min_update_hv <= args.rcx <= module.release.module_hv:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    busy = lp.locks.exclusive(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    module.handoff.store(args.rcx + 1)
    module.sys_state.store(SYS_SHUTDOWN)


def tdh_sys_update(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """In place of CONFIG, KEY.CONFIG and TDMR.INIT, after another module was loaded over this one.

    SYS.INIT once and LP.INIT on every logical processor come first.  PAMT, its mode, its pairs and
    all TDs are those of the module before.
    Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdx_module_run_update); reference (a.3) for its
    versions.  The order of its checks, and which status a wrong state or a missing LP.INIT gives,
    is not known.
    """
    module = lp.module

    if lp.version > _SYS_UPDATE_MAX_VERSION:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
    busy = lp.locks.exclusive(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    state = module.sys_state.load()
    if state != SYSINIT_DONE:
        raise Refused(TDX_SYS_STATE_INCORRECT)
    for index in range(len(module.processors)):
        done = module.lps_initialized.at(index).load()
        if not done:
            raise Refused(TDX_SYS_LP_INIT_NOT_DONE)
    handoff = module.handoff.load()
    version = handoff - 1
    if not module.release.min_update_hv <= version <= module.release.module_hv:
        raise Refused(TDX_SYS_INVALID_HANDOFF)
    module.handoff.store(0)
    module.sys_state.store(SYS_READY)


def tdh_sys_disable(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """The end of the module's use before a restart or a kexec: all of its memory is the host's.

    Only in releases with TDX_FEATURES0.SYS_DISABLE; no open one has it.
    Until it is loaded again, later calls are answered as after SYS.SHUTDOWN: that
    is not known.  Interruptions, and its order of checks, are not known either.
    Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdx_sys_disable); "x86/virt/tdx: Add SEAMCALL
    wrapper for TDH.SYS.DISABLE" (2026-03-23).
    """
    module = lp.module

    busy = lp.locks.exclusive(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    module.sys_state.store(SYS_SHUTDOWN)
