"""TDH.SYS.CONFIG: the module learns its TDMRs, its KeyID and the PAMT mode."""

from dpamt.abi.operands import (
    OPERAND_R8,
    OPERAND_R9,
    OPERAND_R10,
    OPERAND_RAX,
    OPERAND_RCX,
    OPERAND_RDX,
)
from dpamt.abi.pages import MAX_DYNAMIC_PAMT_HKID_START_BIT
from dpamt.abi.registers import U64_MASK, TdxModuleArgs
from dpamt.abi.states import HKID_RESERVED, SYSCONFIG_DONE, SYSINIT_DONE
from dpamt.abi.status import (
    TDX_OPERAND_INVALID,
    TDX_SYS_BUSY,
    TDX_SYS_CONFIG_NOT_PENDING,
)
from dpamt.abi.tdmr import (
    MAX_TDMRS,
    SYS_CONFIG_DYNAMIC_PAMT,
    SYS_CONFIG_HKID_MASK,
    TDMR_INFO_ALIGN,
    TDMR_INFO_BYTES,
    TDMR_POINTER_ARRAY_ALIGN,
    TdmrInfo,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.shared_memory import check_shared_hpa
from dpamt.module.tdmr_checks import TdmrChecker


def tdh_sys_config(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = array of pointers to TDMR_INFO, RDX = their number, R8 = KeyID and mode.

    In version 1 R9 = features to enable, R10 = 0.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (k.1).
    """
    module = lp.module
    busy = lp.locks.exclusive(module.global_lock)
    if busy:
        raise Refused(TDX_SYS_BUSY)
    state = module.sys_state.load()
    if state != SYSINIT_DONE or not _all_lps_initialized(lp):
        raise Refused(TDX_SYS_CONFIG_NOT_PENDING)
    count = args.rdx
    array = check_shared_hpa(
        lp, args.rcx, TDMR_POINTER_ARRAY_ALIGN, 8, TDX_OPERAND_INVALID | OPERAND_RCX
    )
    if not 1 <= count <= MAX_TDMRS:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)
    dynamic = _check_mode(lp, args)

    checker = TdmrChecker(module.machine.cmrs, module.not_private, dynamic)
    for index in range(count):
        pointer = module.memory.read64(array + 8 * index)
        address = check_shared_hpa(
            lp, pointer, TDMR_INFO_ALIGN, TDMR_INFO_BYTES, TDX_OPERAND_INVALID | OPERAND_RCX
        )
        checker.check(TdmrInfo.unpack(module.memory.read(address, TDMR_INFO_BYTES)))
    module.tdmrs.configure(checker.accepted())
    module.pamt.configure(dynamic)
    module.kot.at(args.r8 & SYS_CONFIG_HKID_MASK).store(HKID_RESERVED)
    module.sys_state.store(SYSCONFIG_DONE)


def _all_lps_initialized(lp: LogicalProcessor) -> bool:
    module = lp.module
    for index in range(len(module.processors)):
        done = module.lps_initialized.at(index).load()
        if not done:
            return False
    return True


def _check_mode(lp: LogicalProcessor, args: TdxModuleArgs) -> bool:
    """R8, and R9 and R10 of version 1; whether Dynamic PAMT is asked for."""
    module = lp.module
    release = module.release
    keyid = args.r8 & SYS_CONFIG_HKID_MASK
    dynamic = args.r8 & SYS_CONFIG_DYNAMIC_PAMT != 0
    may_be_set = SYS_CONFIG_HKID_MASK
    if release.knows_dynamic_pamt:
        may_be_set |= SYS_CONFIG_DYNAMIC_PAMT
    if args.r8 & U64_MASK & ~may_be_set or not module.keys.is_private(keyid):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_R8)
    if release.hkid_reserved_early:
        module.kot.at(keyid).store(HKID_RESERVED)
    if lp.version > release.sys_config_max_version:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
    if lp.version and args.r9 & ~release.features0:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_R9)
    if lp.version and args.r10:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_R10)
    if dynamic and module.machine.hkid_start_bit > MAX_DYNAMIC_PAMT_HKID_START_BIT:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_R8)
    return dynamic
