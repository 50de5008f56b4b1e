"""TDH.PHYMEM.CACHE.WB: write back and invalidate one package's caches for flushed KeyIDs."""

from typing import Final

from dpamt.abi.operands import OPERAND_KOT, OPERAND_RCX, OPERAND_WBCACHE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import HKID_FLUSHED
from dpamt.abi.status import (
    TDX_INTERRUPTED_RESUMABLE,
    TDX_NO_HKID_READY_TO_WBCACHE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_WBCACHE_RESUME_ERROR,
)
from dpamt.module.keys import KOT_PACKAGES_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused

_START: Final = 0
_RESUME: Final = 1


def tdh_phymem_cache_wb(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = 0 to start, 1 to resume after TDX_INTERRUPTED_RESUMABLE.

    It is for the KeyIDs that were flushed when it was started.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_phymem_cache_wb.c];
    reference (e.18).
    """
    keys = lp.module.keys
    if args.rcx not in (_START, _RESUME):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)

    busy = lp.locks.exclusive(keys.write_back_lock.at(lp.package))
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_WBCACHE)
    busy = lp.locks.shared(keys.kot_lock)
    if busy:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_KOT)
    if args.rcx == _START:
        keys.write_back.at(lp.package).store(0)
        flushed = keys.in_state(HKID_FLUSHED)
        if not flushed:
            raise Refused(TDX_NO_HKID_READY_TO_WBCACHE)
    else:
        flushed = keys.write_back.at(lp.package).load()
        if not flushed:
            raise Refused(TDX_WBCACHE_RESUME_ERROR)
    if lp.module.interrupt_pending:
        keys.write_back.at(lp.package).store(flushed)
        raise Refused(TDX_INTERRUPTED_RESUMABLE)

    keys.write_back.at(lp.package).store(0)
    mine = 1 << lp.package + KOT_PACKAGES_SHIFT
    keyid = keys.first
    while keyid < keys.end:
        if flushed >> keyid & 1:
            keys.kot.at(keyid).clear_bits(mine)
        keyid += 1
