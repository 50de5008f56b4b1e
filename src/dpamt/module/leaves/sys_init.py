"""TDH.SYS.INIT, LP.INIT and KEY.CONFIG: how the module comes up."""

from typing import Final

from dpamt.abi.operands import OPERAND_KET, OPERAND_RAX, OPERAND_RCX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    MAX_HKIDS,
    SYS_READY,
    SYSCONFIG_DONE,
    SYSINIT_DONE,
    SYSINIT_PENDING,
)
from dpamt.abi.status import (
    TDX_KEY_CONFIGURED,
    TDX_KEY_GENERATION_FAILED,
    TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_SYS_BUSY,
    TDX_SYS_INIT_NOT_PENDING,
    TDX_SYS_KEY_CONFIG_NOT_PENDING,
    TDX_SYS_LP_INIT_DONE,
    TDX_SYS_LP_INIT_NOT_PENDING,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused

_SYS_INIT_MAX_VERSION: Final = 1


def tdh_sys_init(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = 0.  Once, on any logical processor.

    The platform's CPUID, MSR, SMRR and CMR checks have nothing to find here: a machine is checked
    when it is described.  Source: Intel TDX module source (open release), 2.0.08 to 2.0.18
    [tdh_sys_init.c]; reference (k.1).  Which statuses a version above 1 gives is not known; it is
    refused as in other leaves.
    """
    module = lp.module
    reserved = args.rcx
    args.rcx = args.rdx = args.r8 = args.r9 = args.r10 = 0

    if lp.version > _SYS_INIT_MAX_VERSION:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
    busy = lp.locks.exclusive(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    if reserved:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    state = module.sys_state.load()
    if state != SYSINIT_PENDING:
        raise Refused(TDX_SYS_INIT_NOT_PENDING)
    if module.keys.end > MAX_HKIDS:
        raise Refused(TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED)
    module.sys_state.store(SYSINIT_DONE)


def tdh_sys_lp_init(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """Once on every logical processor.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.1).
    """
    module = lp.module
    args.rcx = args.rdx = args.r8 = 0

    busy = lp.locks.shared(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    state = module.sys_state.load()
    if state != SYSINIT_DONE:
        raise Refused(TDX_SYS_LP_INIT_NOT_PENDING)
    done = module.lps_initialized.at(lp.index).load()
    if done:
        raise Refused(TDX_SYS_LP_INIT_DONE)
    module.lps_initialized.at(lp.index).store(1)


def tdh_sys_key_config(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """Once on each package; the last one makes the module READY.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.1).
    """
    module = lp.module
    package = 1 << lp.package

    busy = lp.locks.shared(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    state = module.sys_state.load()
    if state != SYSCONFIG_DONE:
        raise Refused(TDX_SYS_KEY_CONFIG_NOT_PENDING)
    done = module.sys_packages.load()
    if done & package:
        raise Refused(TDX_KEY_CONFIGURED)
    busy = lp.locks.exclusive(module.keys.key_engines.at(lp.package))
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_KET)
    if not module.key_engine_works:
        raise Refused(TDX_KEY_GENERATION_FAILED)
    before = module.sys_packages.set_bits(package)
    if before | package == module.all_packages:
        module.sys_state.store(SYS_READY)
