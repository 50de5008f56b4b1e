"""The locks of the module as another CPU in it takes them: the one behind an operand of BUSY.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (d.2).
"""

from collections.abc import Callable
from typing import Final

from dpamt.abi import leaf_table as formats
from dpamt.abi.leaf_table import LEAF_OPERANDS, SYS
from dpamt.abi.leaves import TDH_MEM_PAGE_AUG, TDH_SYS_TDMR_INIT
from dpamt.abi.pages import (
    INFO_LEVEL_MASK,
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    MAX_PA_LIMIT,
    PAGE_SHIFT,
    PT_TDR,
    PT_TDVPR,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.pamt import OWNER_SHIFT, TYPE_MASK
from dpamt.module.processor import LogicalProcessor
from dpamt.module.sept_checks import descend
from dpamt.module.td import EPTP_LEVELS_MASK, Td
from dpamt.sync import EntryPage, HostPriorityWord, SharedExclusiveLock

_INDEX_MASK: Final = 511
_TD_TYPES: Final = {
    formats.TDR: PT_TDR,
    formats.TDR_FLAG: PT_TDR,
    formats.TDVPR: PT_TDVPR,
}
_TD_OPERANDS: Final = {
    leaf: (register, _TD_TYPES[kind])
    for leaf, operands in LEAF_OPERANDS.items()
    for register, kind in operands.items()
    if kind in _TD_TYPES
}
"""By leaf: the register that names a TD, and the type of the page in it."""


class EntryLock:
    """One entry of a page, with the methods of a lock; equal to any other for this entry."""

    __slots__ = ("_index", "_page")

    def __init__(self, page: EntryPage, index: int) -> None:
        self._page = page
        self._index = index

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, EntryLock)
            and other._page is self._page
            and other._index == self._index
        )

    def __hash__(self) -> int:
        return hash((id(self._page), self._index))

    def try_shared(self) -> int:
        """Host shared acquire."""
        return self._page.try_shared(self._index)

    def try_exclusive(self) -> int:
        """Host exclusive acquire."""
        return self._page.try_exclusive(self._index)

    def release_shared(self) -> None:
        """Drop a shared hold."""
        self._page.release_shared(self._index)

    def release_exclusive(self) -> None:
        """Drop the exclusive hold; the host-priority flag stays."""
        self._page.release_exclusive(self._index)

    def raise_host_priority(self) -> None:
        """Set the host-priority flag alone."""
        self._page.raise_host_priority(self._index)


Lock = HostPriorityWord | SharedExclusiveLock | EntryLock
_Finder = Callable[[LogicalProcessor, int, TdxModuleArgs], Lock | None]


def lock_behind(lp: LogicalProcessor, leaf: int, operand: str, args: TdxModuleArgs) -> Lock | None:
    """The lock whose holder makes this call answer TDX_OPERAND_BUSY with that operand.

    Of ``SYS`` the answer is TDX_SYS_BUSY.  None when the operands name nothing that can be locked.
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
        lock, _ = _pamt_entry(lp, value >> PAGE_SHIFT, value & INFO_LEVEL_MASK)
        return lock
    level = args.rcx & INFO_LEVEL_MASK if leaf == TDH_MEM_PAGE_AUG else LEVEL_4K
    lock, _ = _pamt_entry(lp, page_of(lp, value), level)
    return lock


def page_of(lp: LogicalProcessor, hpa: int) -> int:
    """Frame number of an operand; that of PAGE.WBINVD has a KeyID, others have flags."""
    return (hpa & MAX_PA_LIMIT - 1 & ~lp.module.hkid_mask) >> PAGE_SHIFT


def _pamt_entry(lp: LogicalProcessor, page: int, target: int) -> tuple[Lock | None, int]:
    """The PAMT entry that a walk to level ``target`` ends at, and its payload."""
    region = lp.pamt.find_region(page >> 9)
    if region is None:
        return None, 0
    entry = region.top.load()
    if entry or target == LEVEL_1G:
        return region.top, entry
    entry = region.first.load()
    if target == LEVEL_2M or entry != lp.pamt.node_type:
        return region.first, entry
    entry = region.entries.load(page & _INDEX_MASK)
    return EntryLock(region.entries, page & _INDEX_MASK), entry


def _sept_entry(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Lock | None:
    td = _td_of(lp, leaf, args)
    level = args.rcx & INFO_LEVEL_MASK
    if td is None:
        return None
    return sept_entry_lock(lp, td, level, args.rcx >> PAGE_SHIFT)


def sept_entry_lock(lp: LogicalProcessor, td: Td, level: int, gfn: int) -> EntryLock | None:
    """The S-EPT entry of a guest frame at that level; None where the tree does not reach it."""
    eptp = td.eptp.load()
    if not eptp & EPTP_LEVELS_MASK:
        return None
    page, index, reached = descend(lp, eptp, level, gfn)
    return EntryLock(page, index) if reached == level else None


def _td_of(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Td | None:
    """The TD that the call names: by its TDR or by a VCPU of it."""
    named = _TD_OPERANDS.get(leaf)
    if named is None:
        return None
    register, wanted = named
    page = page_of(lp, getattr(args, register))
    _, entry = _pamt_entry(lp, page, LEVEL_4K)
    if entry & TYPE_MASK != wanted:
        return None
    return lp.tds.at(page if wanted == PT_TDR else entry >> OWNER_SHIFT)


def _owner_tdr(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Lock | None:
    """The TDR of the TD that owns the VCPU, or the page in RCX."""
    td = _td_of(lp, leaf, args)
    owner = td.page if td is not None else -1
    if td is None:
        _, entry = _pamt_entry(lp, page_of(lp, args.rcx), LEVEL_4K)
        owner = entry >> OWNER_SHIFT if entry & TYPE_MASK != PT_TDR else 0
    if owner <= 0:
        return None
    lock, _ = _pamt_entry(lp, owner, LEVEL_4K)
    return lock


def _of_td(name: str) -> _Finder:
    def find(lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> Lock | None:
        td = _td_of(lp, leaf, args)
        lock: Lock | None = getattr(td, name) if td is not None else None
        return lock

    return find


_SPECIAL: Final[dict[str, _Finder]] = {
    "OP_STATE": _of_td("op_state"),
    "SEPT_TREE": _of_td("tree"),
    "TD_EPOCH": _of_td("epoch_lock"),
    "TDR": _owner_tdr,
    SYS: lambda lp, leaf, args: lp.module.global_lock,
    "KOT": lambda lp, leaf, args: lp.module.keys.kot_lock,
    "KET": lambda lp, leaf, args: lp.module.keys.key_engines.at(lp.package),
    "WBCACHE": lambda lp, leaf, args: lp.module.keys.write_back_lock.at(lp.package),
}
