"""TDH.MNG.VPFLUSHDONE, KEY.FREEID and KEY.RECLAIMID: how a TD gives up its KeyID."""

from typing import Final

from dpamt.abi.operands import OPERAND_KOT, OPERAND_RCX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    HKID_FLUSHED,
    HKID_FREE,
    TD_BLOCKED,
    TD_HKID_ASSIGNED,
    TD_KEYS_CONFIGURED,
    TD_TEARDOWN,
)
from dpamt.abi.status import (
    TDX_FLUSHVP_NOT_DONE,
    TDX_LIFECYCLE_STATE_INCORRECT,
    TDX_OPERAND_BUSY,
    TDX_WBCACHE_NOT_COMPLETE,
)
from dpamt.module.checks import lock_tdr
from dpamt.module.keys import KOT_PACKAGES_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import (
    HEADER_HKID_SHIFT,
    HEADER_LIFECYCLE_MASK,
    HEADER_LIFECYCLE_SHIFT,
)
from dpamt.sync import EXCLUSIVE

_RUNNING: Final = (
    TD_HKID_ASSIGNED << HEADER_LIFECYCLE_SHIFT,
    TD_KEYS_CONFIGURED << HEADER_LIFECYCLE_SHIFT,
)
_BLOCKED: Final = TD_BLOCKED << HEADER_LIFECYCLE_SHIFT
_TORN_DOWN: Final = TD_TEARDOWN << HEADER_LIFECYCLE_SHIFT


def tdh_mng_vpflushdone(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR; no VCPU of the TD may be associated with a logical processor any more.

    A VCPU can be associated only once TDCS is complete and initialised.  Every package that had
    SYS.KEY.CONFIG is to write back its caches, whether or not it has the TD's key.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_mng_vpflushdone.c];
    reference (e.18).
    """
    module = lp.module
    td = lock_tdr(lp, args.rcx, OPERAND_RCX, EXCLUSIVE)
    busy = lp.locks.exclusive(module.keys.kot_lock)
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_KOT)
    header = td.header.load()
    if header & HEADER_LIFECYCLE_MASK not in _RUNNING:
        raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
    associated = td.associated.load()
    if associated:
        raise Refused(TDX_FLUSHVP_NOT_DONE)
    packages = module.sys_packages.load()
    module.kot.at(header >> HEADER_HKID_SHIFT).store(HKID_FLUSHED | packages << KOT_PACKAGES_SHIFT)
    td.header.store(header & ~HEADER_LIFECYCLE_MASK | _BLOCKED)


def tdh_mng_key_freeid(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR; every package must have written back its caches.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.18).
    """
    module = lp.module
    td = lock_tdr(lp, args.rcx, OPERAND_RCX, EXCLUSIVE)
    header = td.header.load()
    if header & HEADER_LIFECYCLE_MASK != _BLOCKED:
        raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
    busy = lp.locks.exclusive(module.keys.kot_lock)
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_KOT)
    keyid = header >> HEADER_HKID_SHIFT
    entry = module.kot.at(keyid).load()
    if entry >> KOT_PACKAGES_SHIFT:
        raise Refused(TDX_WBCACHE_NOT_COMPLETE)
    module.kot.at(keyid).store(HKID_FREE)
    td.header.store(header & ~HEADER_LIFECYCLE_MASK | _TORN_DOWN)


def tdh_mng_key_reclaimid(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = TDR.  Kept by the module for old hosts: it does nothing and looks at nothing.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.18).
    """
