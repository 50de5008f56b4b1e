"""What each leaf may meet that is no fault of its caller: a lock held, no entropy, an interrupt.

Operand names are those of :mod:`dpamt.abi.operands`, as in the low half of TDX_OPERAND_BUSY.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (d.2), (e), (f), (h).
"""

from typing import Final

from dpamt.abi import leaves as leaf

_IN_TD: Final = ("RDX", "OP_STATE", "SEPT_TREE", "RCX")
_L2_PAGES: Final = ("R9", "R10", "R11")

SYS: Final = "SYS"
"""The module's global lock: its status is TDX_SYS_BUSY, which names no operand."""

BUSY_OPERANDS: Final[dict[int, tuple[str, ...]]] = {
    leaf.TDH_VP_ENTER: ("RCX", "TDR", "OP_STATE", "TD_EPOCH"),
    leaf.TDH_MNG_ADDCX: ("RDX", "RCX"),
    leaf.TDH_MEM_PAGE_ADD: ("RDX", "R8"),
    leaf.TDH_MEM_SEPT_ADD: (*_IN_TD, "R8", *_L2_PAGES),
    leaf.TDH_VP_ADDCX: ("RDX", "TDR", "OP_STATE", "RCX"),
    leaf.TDH_MEM_PAGE_RELOCATE: (*_IN_TD, "R8"),
    leaf.TDH_MEM_PAGE_AUG: (*_IN_TD, "R8"),
    leaf.TDH_MEM_RANGE_BLOCK: _IN_TD,
    leaf.TDH_MNG_KEY_CONFIG: ("RCX", "KET"),
    leaf.TDH_MNG_CREATE: ("RCX", "KOT"),
    leaf.TDH_VP_CREATE: ("RDX", "OP_STATE", "RCX"),
    leaf.TDH_MEM_PAGE_DEMOTE: (*_IN_TD, "R8", *_L2_PAGES, "R12", "R13"),
    leaf.TDH_MR_EXTEND: ("RDX",),
    leaf.TDH_MR_FINALIZE: ("RCX",),
    leaf.TDH_VP_FLUSH: ("RCX", "TDR"),
    leaf.TDH_MNG_VPFLUSHDONE: ("RCX", "KOT"),
    leaf.TDH_MNG_KEY_FREEID: ("RCX", "KOT"),
    leaf.TDH_MNG_INIT: ("RCX",),
    leaf.TDH_VP_INIT: ("RCX", "TDR", "OP_STATE"),
    leaf.TDH_MEM_PAGE_PROMOTE: _IN_TD,
    leaf.TDH_PHYMEM_PAGE_RDMD: ("RCX",),
    leaf.TDH_MEM_SEPT_RD: _IN_TD,
    leaf.TDH_PHYMEM_PAGE_RECLAIM: ("RCX", "TDR"),
    leaf.TDH_MEM_PAGE_REMOVE: _IN_TD,
    leaf.TDH_MEM_SEPT_REMOVE: _IN_TD,
    leaf.TDH_SYS_KEY_CONFIG: (SYS, "KET"),
    leaf.TDH_SYS_INIT: (SYS,),
    leaf.TDH_SYS_LP_INIT: (SYS,),
    leaf.TDH_SYS_TDMR_INIT: ("RCX",),
    leaf.TDH_MEM_TRACK: ("RCX", "OP_STATE", "TD_EPOCH"),
    leaf.TDH_MEM_RANGE_UNBLOCK: _IN_TD,
    leaf.TDH_PHYMEM_CACHE_WB: ("WBCACHE", "KOT"),
    leaf.TDH_PHYMEM_PAGE_WBINVD: ("RCX",),
    leaf.TDH_SYS_CONFIG: (SYS,),
    leaf.TDH_SYS_SHUTDOWN: (SYS,),
    leaf.TDH_SYS_UPDATE: (SYS,),
    leaf.TDH_SYS_DISABLE: (SYS,),
    leaf.TDH_PHYMEM_PAMT_ADD: ("RCX", "RDX", "R8"),
    leaf.TDH_PHYMEM_PAMT_REMOVE: ("RCX",),
}
"""Operands that TDX_OPERAND_BUSY of a leaf can name, in any version, in the order of its locks."""

DRAWS_ENTROPY: Final = frozenset({leaf.TDH_MNG_CREATE, leaf.TDH_MNG_ADDCX})
"""Leaves that draw random numbers: TDX_RND_NO_ENTROPY."""

INTERRUPTIBLE: Final = frozenset(
    {
        leaf.TDH_PHYMEM_CACHE_WB,
        leaf.TDH_MEM_PAGE_DEMOTE,
        leaf.TDH_MEM_PAGE_PROMOTE,
        leaf.TDH_MEM_SEPT_ADD,
    }
)
"""Leaves that look for a pending interrupt, in some release, version or shape of the TD."""

CONFIGURES_KEYS: Final = frozenset({leaf.TDH_MNG_KEY_CONFIG, leaf.TDH_SYS_KEY_CONFIG})
"""Leaves that program the key engine: TDX_KEY_GENERATION_FAILED."""
