"""TDH.MNG.ADDCX and MNG.INIT: give a TD its TDCS pages, and make it from TD_PARAMS."""

from typing import Final

from dpamt.abi.leaves import TDH_MNG_INIT
from dpamt.abi.operands import (
    OPERAND_ATTRIBUTES,
    OPERAND_EPTP_CONTROLS,
    OPERAND_EXEC_CONTROLS,
    OPERAND_IA32_ARCH_CAPABILITIES_CONFIG,
    OPERAND_MAX_VCPUS,
    OPERAND_NUM_L2_VMS,
    OPERAND_RCX,
    OPERAND_RDX,
    OPERAND_TSC_FREQUENCY,
    OPERAND_XFAM,
)
from dpamt.abi.pages import PT_TDCX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED, OP_STATE_INITIALIZED, OP_STATE_UNINITIALIZED
from dpamt.abi.status import (
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_TDCS_NOT_ALLOCATED,
    TDX_TDCX_NUM_INCORRECT,
)
from dpamt.abi.td_params import (
    ATTRIBUTES_MAY_BE_SET,
    CONFIG_FLAGS_GPAW,
    CONFIG_FLAGS_MAY_BE_SET,
    EPTP_4_LEVELS,
    EPTP_5_LEVELS,
    MAX_L2_VMS,
    MAX_VCPUS_PER_TD,
    MSR_CONFIG_CTLS_MAY_BE_SET,
    TD_PARAMS_ALIGN,
    TD_PARAMS_BYTES,
    TSC_FREQUENCY_MAX,
    TSC_FREQUENCY_MIN,
    XFAM_MAY_BE_SET,
    XFAM_MUST_BE_SET,
    TdParams,
)
from dpamt.abi.td_params import EPTP_LEVELS_SHIFT as PARAMS_LEVELS_SHIFT
from dpamt.module.checks import check_keys, check_state_unlocked, lock_new_page, lock_tdr
from dpamt.module.pamt import OWNER_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.shared_memory import check_shared_hpa
from dpamt.module.td import (
    EPTP_LEVELS_SHIFT,
    EPTP_ROOT_SHIFT,
    HEADER_TDCX_MASK,
    HEADER_TDCX_ONE,
    HEADER_TDCX_SHIFT,
)
from dpamt.module.td_cpuid import TdCpu, check_cpuid
from dpamt.sync import EXCLUSIVE

_INIT_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MNG_INIT]
_EVENT_FILTERS: Final = 1
"""RCX bit 0 of MNG.INIT: R8 points to event filters."""


def tdh_mng_addcx(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page, RDX = TDR.

    One page of the TDCS is the root of the S-EPT, each optional one the root of an L2 VM's.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.3).
    """
    module = lp.module
    release = module.release

    td = lock_tdr(lp, args.rdx, OPERAND_RDX, EXCLUSIVE)
    header = check_keys(td)
    number = (header & HEADER_TDCX_MASK) >> HEADER_TDCX_SHIFT
    if number >= release.max_tdcs_pages:
        raise Refused(TDX_TDCX_NUM_INCORRECT)
    page = lock_new_page(lp, args.rcx, OPERAND_RCX)
    if number == release.min_tdcs_pages - 1 and not module.entropy_available:
        raise Refused(TDX_RND_NO_ENTROPY)
    op_state = td.op_state.load()
    if number >= release.min_tdcs_pages and op_state != OP_STATE_UNINITIALIZED:
        shown = op_state if release.late_addcx_shows_op_state else 0
        raise Refused(TDX_OP_STATE_INCORRECT | shown)

    if number == release.sept_root_page:
        module.tds.sept.at(page).fill(0)
        td.eptp.store(page << EPTP_ROOT_SHIFT)
    elif number >= release.min_tdcs_pages:
        module.tds.sept.at(page).fill(0)
        td.l2_roots[number - release.min_tdcs_pages + 1].store(page)
    td.header.store(header + HEADER_TDCX_ONE)
    td.children.add(1)
    lp.pamt.use_4k(page, td.page << OWNER_SHIFT | PT_TDCX)


def tdh_mng_init(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR (bit 0: event filters in R8), RDX = TD_PARAMS; RCX = 0, or the CPUID row at fault.

    Event filters are not modelled: R8 is not looked at.  The first epoch begins before TD_PARAMS
    are looked at, and stays where they are refused.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_mng_init.c]; reference
    (e.4).
    """
    handle = args.rcx
    args.rcx = 0

    td = lock_tdr(lp, handle & ~_EVENT_FILTERS, OPERAND_RCX, EXCLUSIVE)
    header = check_state_unlocked(lp, td, _INIT_OP_STATES)
    source = check_shared_hpa(
        lp, args.rdx, TD_PARAMS_ALIGN, TD_PARAMS_BYTES, TDX_OPERAND_INVALID | OPERAND_RDX
    )
    params = TdParams.unpack(lp.module.memory.read(source, TD_PARAMS_BYTES))
    td.vcpus.store(0)
    td.associated.store(0)
    td.epoch.store(1)
    td.epoch_readers[0].store(0)
    td.epoch_readers[1].store(0)
    _check_params(lp, params, (header & HEADER_TDCX_MASK) >> HEADER_TDCX_SHIFT)
    _check_cpuid(lp, params, args)

    levels = (params.eptp_controls >> PARAMS_LEVELS_SHIFT) + 1
    gpaw = params.config_flags & CONFIG_FLAGS_GPAW
    eptp = td.eptp.load()
    td.eptp.store(eptp | levels << EPTP_LEVELS_SHIFT | gpaw)
    td.know_ways(lp.tds.sept)
    td.attributes.store(params.attributes)
    td.xfam.store(params.xfam)
    td.config_flags.store(params.config_flags)
    td.tsc_frequency.store(params.tsc_frequency)
    td.cpuid.store(int.from_bytes(params.cpuid, "little"))
    td.max_vcpus.store(params.max_vcpus)
    td.l2_vms.store(params.num_l2_vms)
    td.op_state.store(OP_STATE_INITIALIZED)


def _check_params(lp: LogicalProcessor, params: TdParams, tdcx: int) -> None:
    """Every field of TD_PARAMS before the CPUID part, in the module's order."""
    if params.attributes & ~ATTRIBUTES_MAY_BE_SET:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_ATTRIBUTES)
    if params.xfam & ~XFAM_MAY_BE_SET or ~params.xfam & XFAM_MUST_BE_SET:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_XFAM)
    if not 0 < params.max_vcpus <= MAX_VCPUS_PER_TD:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_MAX_VCPUS)
    if params.num_l2_vms > MAX_L2_VMS:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_NUM_L2_VMS)
    if tdcx < lp.module.release.min_tdcs_pages + params.num_l2_vms:
        raise Refused(TDX_TDCS_NOT_ALLOCATED)
    if any(params.reserved0):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)
    if params.config_flags & ~CONFIG_FLAGS_MAY_BE_SET:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_EXEC_CONTROLS)
    gpaw = params.config_flags & CONFIG_FLAGS_GPAW
    if params.eptp_controls != EPTP_5_LEVELS and (gpaw or params.eptp_controls != EPTP_4_LEVELS):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_EPTP_CONTROLS)
    if not TSC_FREQUENCY_MIN <= params.tsc_frequency <= TSC_FREQUENCY_MAX:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_TSC_FREQUENCY)
    msr_config = params.msr_config_ctls & ~MSR_CONFIG_CTLS_MAY_BE_SET
    if any(params.reserved1) or msr_config or any(params.reserved2):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)


def _check_cpuid(lp: LogicalProcessor, params: TdParams, args: TdxModuleArgs) -> None:
    """CPUID, then IA32_ARCH_CAPABILITIES, of which no bit is configurable here."""
    cpu = TdCpu(
        params.cpuid,
        params.xfam,
        params.attributes,
        params.config_flags,
        params.tsc_frequency,
    )
    check_cpuid(lp.module.machine, cpu, args)
    if params.arch_capabilities:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_IA32_ARCH_CAPABILITIES_CONFIG)
