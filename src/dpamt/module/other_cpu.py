"""The lock behind each operand of TDX_OPERAND_BUSY, for another CPU in the module to hold.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (d.2).
"""

from collections.abc import Callable
from typing import Final, Protocol

from dpamt.abi import leaf_operands as formats
from dpamt.abi.leaf_operands import LEAF_OPERANDS
from dpamt.abi.leaves import TDH_SYS_TDMR_INIT
from dpamt.abi.pages import (
    INFO_LEVEL_MASK,
    LEVEL_2M,
    LEVEL_4K,
    LEVEL_SHIFTS,
    MAX_PA_LIMIT,
    PAGE_SHIFT,
    PT_TDR,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.pamt import OWNER_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.sept_checks import descend
from dpamt.module.td import EPTP_ROOT_SHIFT, Td
from dpamt.sync import EntryPage

_INDEX_MASK: Final = 511
_PAGE_FORMATS: Final = (formats.PAGE, formats.TDR, formats.TDR_FLAG, formats.TDVPR)


class Lock(Protocol):
    """What a holder needs of a lock."""

    def try_exclusive(self) -> int:
        """Negative: somebody else has it."""

    def release_exclusive(self) -> None:
        """Drop it; a host-priority flag stays."""


class _EntryLock:
    """One entry of a page, as a lock of its own."""

    __slots__ = ("_index", "_page")

    def __init__(self, page: EntryPage, index: int) -> None:
        self._page = page
        self._index = index

    def try_exclusive(self) -> int:
        return self._page.try_exclusive(self._index)

    def release_exclusive(self) -> None:
        self._page.release_exclusive(self._index)


def lock_behind(lp: LogicalProcessor, leaf: int, operand: str, args: TdxModuleArgs) -> Lock | None:
    """The lock whose holder makes this call answer TDX_OPERAND_BUSY with that operand.

    None when the operands name nothing that can be locked.
    """
    special = _SPECIAL.get(operand)
    if special is not None:
        return special(lp, leaf, args)
    value = getattr(args, operand.lower())
    kind = LEAF_OPERANDS[leaf].get(operand.lower(), "")
    if leaf == TDH_SYS_TDMR_INIT:
        tdmr = lp.module.tdmrs.at(value)
        return tdmr.lock if tdmr is not None else None
    if kind == formats.GPA_LEVEL:
        return _sept_entry(lp, leaf, args)
    if kind == formats.HPA_LEVEL:
        return _pamt_entry(lp, value >> PAGE_SHIFT, value & INFO_LEVEL_MASK)
    if kind in _PAGE_FORMATS:
        return _pamt_entry(lp, _page(lp, value), LEVEL_4K)
    return None


def _page(lp: LogicalProcessor, hpa: int) -> int:
    """Frame number of an HPA, which of PAGE.WBINVD carries a KeyID."""
    return (hpa & MAX_PA_LIMIT - 1 & ~lp.module.hkid_mask) >> PAGE_SHIFT


def _pamt_entry(lp: LogicalProcessor, page: int, level: int) -> Lock | None:
    """The PAMT entry that a walk to ``level`` ends at."""
    region = lp.pamt.find_region(page >> 9)
    if region is None:
        return None
    if level == LEVEL_2M or region.first.load() != lp.pamt.node_type:
        return region.first
    return _EntryLock(region.entries, page & _INDEX_MASK)


def _sept_entry(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Lock | None:
    td = _td_of(lp, leaf, args)
    level = args.rcx & INFO_LEVEL_MASK
    if td is None or level >= len(LEVEL_SHIFTS):
        return None
    eptp = td.eptp.load()
    if not eptp >> EPTP_ROOT_SHIFT:
        return None
    page, index, reached = descend(lp, eptp, level, args.rcx >> PAGE_SHIFT)
    return _EntryLock(page, index) if reached == level else None


def _td_of(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Td | None:
    """The TD that the call is about: named by its TDR, or the owner of a page that is named."""
    for register, kind in LEAF_OPERANDS[leaf].items():
        page = _page(lp, getattr(args, register))
        region = lp.pamt.find_region(page >> 9)
        if kind in (formats.TDR, formats.TDR_FLAG):
            return lp.tds.at(page) if region is not None else None
        if kind == formats.TDVPR and region is not None:
            entry = region.entries.load(page & _INDEX_MASK)
            return lp.tds.at(entry >> OWNER_SHIFT) if entry else None
    return None


def _owner_tdr(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Lock | None:
    """The TDR of the TD that owns the page in RCX (or the VCPU in RDX)."""
    td = _td_of(lp, leaf, args)
    page = _page(lp, args.rcx)
    if td is None:
        region = lp.pamt.find_region(page >> 9)
        if region is None:
            return None
        entry = region.first.load()
        if entry == lp.pamt.node_type:
            entry = region.entries.load(page & _INDEX_MASK)
        if not entry or entry & 0xFF == PT_TDR:
            return None
        td = lp.tds.at(entry >> OWNER_SHIFT)
    return _pamt_entry(lp, td.page, LEVEL_4K)


def _of_td(name: str) -> "Callable[[LogicalProcessor, int, TdxModuleArgs], Lock | None]":
    def find(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Lock | None:
        td = _td_of(lp, leaf, args)
        lock: Lock | None = getattr(td, name) if td is not None else None
        return lock

    return find


_SPECIAL: Final[dict[str, Callable[[LogicalProcessor, int, TdxModuleArgs], Lock | None]]] = {
    "OP_STATE": _of_td("op_state"),
    "SEPT_TREE": _of_td("tree"),
    "TD_EPOCH": _of_td("epoch_lock"),
    "TDR": _owner_tdr,
    "KOT": lambda lp, leaf, args: lp.module.keys.kot_lock,
    "KET": lambda lp, leaf, args: lp.module.keys.key_engines.at(lp.package),
    "WBCACHE": lambda lp, leaf, args: lp.module.keys.write_back_lock.at(lp.package),
}
