"""TDH.VP.CREATE, VP.ADDCX, VP.INIT and VP.FLUSH: make a VCPU, and take it off its processor."""

from typing import Final

from dpamt.abi.leaves import TDH_VP_ADDCX, TDH_VP_CREATE, TDH_VP_INIT
from dpamt.abi.operands import OPERAND_R8, OPERAND_RAX, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import PT_TDCX, PT_TDVPR
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    TD_KEYS_CONFIGURED,
    VCPU_READY,
    VCPU_UNINITIALIZED,
)
from dpamt.abi.status import (
    TDX_MAX_VCPUS_EXCEEDED,
    TDX_OPERAND_INVALID,
    TDX_TD_KEYS_NOT_CONFIGURED,
    TDX_TDCX_NUM_INCORRECT,
    TDX_VCPU_NOT_ASSOCIATED,
    TDX_VCPU_STATE_INCORRECT,
    TDX_X2APIC_ID_NOT_UNIQUE,
)
from dpamt.abi.td_params import TDVPS_MAX_PAGES
from dpamt.module.checks import (
    check_state,
    check_tdvps,
    lock_new_page,
    lock_owner,
    lock_tdr,
    lock_tdvpr,
)
from dpamt.module.pamt import OWNER_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import HEADER_LIFECYCLE_MASK, HEADER_LIFECYCLE_SHIFT, NO_LP, Td
from dpamt.sync import EXCLUSIVE, SHARED

_CREATE_OP_STATES: Final = OP_STATE_ALLOWED[TDH_VP_CREATE]
_ADDCX_OP_STATES: Final = OP_STATE_ALLOWED[TDH_VP_ADDCX]
_INIT_OP_STATES: Final = OP_STATE_ALLOWED[TDH_VP_INIT]
_KEYS_CONFIGURED: Final = TD_KEYS_CONFIGURED << HEADER_LIFECYCLE_SHIFT
_X2APIC_ID_BITS: Final = 32


def tdh_vp_create(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page for the TDVPR, RDX = TDR.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.5).
    """
    td = lock_tdr(lp, args.rdx, OPERAND_RDX, SHARED)
    check_state(lp, td, _CREATE_OP_STATES)
    page = lock_new_page(lp, args.rcx, OPERAND_RCX)

    lp.tds.vcpu(page).clear()
    td.children.add(1)
    lp.pamt.use_4k(page, td.page << OWNER_SHIFT | PT_TDVPR)


def tdh_vp_addcx(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page, RDX = TDVPR.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.6).
    """
    vcpu, entry = lock_tdvpr(lp, args.rdx, OPERAND_RDX, EXCLUSIVE)
    td = lock_owner(lp, entry, SHARED)
    check_state(lp, td, _ADDCX_OP_STATES)
    state = vcpu.state.load()
    if state != VCPU_UNINITIALIZED:
        raise Refused(TDX_VCPU_STATE_INCORRECT | state)
    pages = vcpu.pages.load()
    if pages >= TDVPS_MAX_PAGES:
        raise Refused(TDX_TDCX_NUM_INCORRECT)
    page = lock_new_page(lp, args.rcx, OPERAND_RCX)

    vcpu.pages.store(pages + 1)
    td.children.add(1)
    lp.pamt.use_4k(page, td.page << OWNER_SHIFT | PT_TDCX)


def tdh_vp_init(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDVPR, RDX = what the guest finds in RCX, R8 = x2APIC ID (version 1).

    A VCPU made by version 0 has x2APIC ID 0 for those that come after it.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_vp_init.c]; reference
    (e.7).
    """
    if lp.version > 1:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)

    vcpu, entry = lock_tdvpr(lp, args.rcx, OPERAND_RCX, EXCLUSIVE)
    td = lock_owner(lp, entry, EXCLUSIVE if lp.version else SHARED)
    check_state(lp, td, _INIT_OP_STATES)
    check_tdvps(vcpu, td)
    state = vcpu.state.load()
    if state != VCPU_UNINITIALIZED:
        raise Refused(TDX_VCPU_STATE_INCORRECT | state)
    index = _take_vcpu_index(td)
    if lp.version:
        _check_x2apic_id(lp, td, index, args.r8)

    lp.tds.x2apic_id(td, index).store(args.r8 if lp.version else 0)
    vcpu.fields.store(0)
    vcpu.state.store(VCPU_READY)
    vcpu.lp.store(lp.index + 1)
    td.associated.add(1)


def _take_vcpu_index(td: Td) -> int:
    """Count one VCPU more: its index.  The count goes back where MAX_VCPUS is exceeded."""
    limit = td.max_vcpus.load()
    count = td.vcpus.add(1)
    if count > limit:
        td.vcpus.add(-1)
        raise Refused(TDX_MAX_VCPUS_EXCEEDED)
    return count - 1


def _check_x2apic_id(lp: LogicalProcessor, td: Td, index: int, wanted: int) -> None:
    """The x2APIC ID fits and no other VCPU of the TD has it; the TDR is held exclusively."""
    if wanted >> _X2APIC_ID_BITS:
        td.vcpus.add(-1)
        raise Refused(TDX_OPERAND_INVALID | OPERAND_R8)
    for other in range(index):
        known = lp.tds.x2apic_id(td, other).load()
        if known == wanted:
            td.vcpus.add(-1)
            raise Refused(TDX_X2APIC_ID_NOT_UNIQUE | wanted)


def tdh_vp_flush(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDVPR.  Neither FATAL nor OP_STATE is looked at.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.7).
    """
    vcpu, entry = lock_tdvpr(lp, args.rcx, OPERAND_RCX, EXCLUSIVE)
    td = lock_owner(lp, entry, SHARED)
    header = td.header.load()
    if header & HEADER_LIFECYCLE_MASK != _KEYS_CONFIGURED:
        raise Refused(TDX_TD_KEYS_NOT_CONFIGURED)
    check_tdvps(vcpu, td)
    associated = vcpu.lp.load()
    if associated != lp.index + 1:
        raise Refused(TDX_VCPU_NOT_ASSOCIATED)

    vcpu.lp.store(NO_LP)
    td.associated.add(-1)
