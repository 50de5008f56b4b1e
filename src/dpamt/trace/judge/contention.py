"""Who can have held a lock that a SEAMCALL found busy.

A lock named by a page operand is a PAMT entry: of the page, or of its 2M region where somebody
works on that as a whole (PAMT.ADD, PAMT.REMOVE, AUG at 2M), or where this call does.  Only other
SEAMCALLs hold it.  Locks of a TD (OP_STATE, SEPT_TREE, TD_EPOCH, an S-EPT entry, its TDR) are also
held by TDH.VP.ENTER and, some of them, by the guest's own calls, which no recording has.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_locks.h and the leaves].
"""

from typing import Final

from dpamt.abi import leaf_table as form
from dpamt.abi import leaves as leaf
from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.trace.judge.pages_of import REGISTER, Touched, page_of
from dpamt.trace.recording.model import Call

GUEST: Final = "VP.ENTER or the guest itself"
NOBODY: Final = "nobody in the recording"

_KEY_OWNERS: Final = frozenset(
    {
        leaf.TDH_MNG_CREATE,
        leaf.TDH_MNG_VPFLUSHDONE,
        leaf.TDH_MNG_KEY_FREEID,
        leaf.TDH_PHYMEM_CACHE_WB,
    }
)
_GLOBAL: Final[dict[str, frozenset[int]]] = {
    "KOT": _KEY_OWNERS,
    "KET": frozenset({leaf.TDH_MNG_KEY_CONFIG, leaf.TDH_SYS_KEY_CONFIG}),
    "WBCACHE": frozenset({leaf.TDH_PHYMEM_CACHE_WB}),
    "SYS": frozenset(
        {
            leaf.TDH_SYS_INIT,
            leaf.TDH_SYS_LP_INIT,
            leaf.TDH_SYS_CONFIG,
            leaf.TDH_SYS_KEY_CONFIG,
            leaf.TDH_SYS_SHUTDOWN,
            leaf.TDH_SYS_UPDATE,
        }
    ),
}
"""Locks of the whole module, and the leaves that take them."""


def page_operand(call: Call, operand: str) -> int | None:
    """The page whose PAMT entry a busy operand names; None where it names something else."""
    kind = LEAF_OPERANDS.get(call.leaf, {}).get(operand.lower())
    if kind not in (form.PAGE, form.HPA_LEVEL):
        return None
    return page_of(call.before[REGISTER[operand.lower()]])


def may_hold(call: Call, mine: Touched, operand: str, other: Call, theirs: Touched) -> bool:
    """Whether ``other``, under way at the same time, can hold what ``call`` found busy."""
    leaves = _GLOBAL.get(operand)
    if leaves is not None:
        return other.leaf in leaves
    page = page_operand(call, operand)
    if page is None:
        return mine.td is not None and mine.td == theirs.td
    region = page >> 9
    if page in theirs.pages or region in theirs.whole:
        return True
    return region in mine.whole and region in theirs.regions


def guest_may_hold(call: Call, operand: str) -> bool:
    """Whether VP.ENTER, or the guest of the TD, can hold it."""
    return operand not in _GLOBAL and page_operand(call, operand) is None
