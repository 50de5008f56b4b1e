"""TDH.MNG.CREATE and KEY.CONFIG: the first two steps of a TD's life."""

from typing import Final

from dpamt.abi.operands import OPERAND_KET, OPERAND_KOT, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import PT_TDR
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    HKID_ASSIGNED,
    HKID_FREE,
    TD_HKID_ASSIGNED,
    TD_KEYS_CONFIGURED,
)
from dpamt.abi.status import (
    TDX_HKID_NOT_FREE,
    TDX_KEY_CONFIGURED,
    TDX_KEY_GENERATION_FAILED,
    TDX_LIFECYCLE_STATE_INCORRECT,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_TD_FATAL,
)
from dpamt.module.checks import lock_new_page, lock_tdr
from dpamt.module.keys import KOT_STATE_MASK
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import (
    HEADER_FATAL,
    HEADER_HKID_SHIFT,
    HEADER_LIFECYCLE_MASK,
    HEADER_LIFECYCLE_SHIFT,
    HEADER_PACKAGES_MASK,
    HEADER_PACKAGES_SHIFT,
)
from dpamt.sync import EXCLUSIVE

_NEW: Final = TD_HKID_ASSIGNED << HEADER_LIFECYCLE_SHIFT
_CONFIGURED: Final = TD_KEYS_CONFIGURED << HEADER_LIFECYCLE_SHIFT


def tdh_mng_create(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page for the TDR, RDX = KeyID.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.1).
    """
    module = lp.module
    keyid = args.rdx
    if not module.keys.is_private(keyid):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)

    page = lock_new_page(lp, args.rcx, OPERAND_RCX)
    busy = lp.locks.exclusive(module.keys.kot_lock)
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_KOT)
    owner = module.kot.at(keyid).load()
    if owner & KOT_STATE_MASK != HKID_FREE:
        raise Refused(TDX_HKID_NOT_FREE)
    if not module.entropy_available:
        raise Refused(TDX_RND_NO_ENTROPY)
    td = module.tds.at(page)
    td.clear()
    td.header.store(keyid << HEADER_HKID_SHIFT | _NEW)
    module.kot.at(keyid).store(HKID_ASSIGNED)
    module.pamt.use_4k(page, PT_TDR)


def tdh_mng_key_config(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR; configures the TD's key on this package.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.2).
    """
    module = lp.module
    package = 1 << lp.package + HEADER_PACKAGES_SHIFT

    td = lock_tdr(lp, args.rcx, OPERAND_RCX, EXCLUSIVE)
    header = td.header.load()
    if header & HEADER_FATAL:
        raise Refused(TDX_TD_FATAL)
    if header & HEADER_LIFECYCLE_MASK != _NEW:
        raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
    if header & package:
        raise Refused(TDX_KEY_CONFIGURED)
    busy = lp.locks.exclusive(module.keys.key_engines.at(lp.package))
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_KET)
    if not module.key_engine_works:
        raise Refused(TDX_KEY_GENERATION_FAILED)
    header |= package
    if header & HEADER_PACKAGES_MASK == module.all_packages << HEADER_PACKAGES_SHIFT:
        header += _CONFIGURED - _NEW
    td.header.store(header)
