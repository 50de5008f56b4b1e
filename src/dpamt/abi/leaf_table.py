"""One row for each leaf that is modelled: its registers, what it can meet, when it is allowed.

Whoever adds a leaf writes its row here, and its handler in ``module/leaves/``.  The tables that
others read (here, in :mod:`dpamt.abi.contention` and in :mod:`dpamt.abi.states`) are made from the
rows.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (d.2), (e), (f), (h).
"""

from dataclasses import dataclass
from typing import Final

from dpamt.abi import leaves as leaf

GPA_LEVEL: Final = "GPA and level"
"""Page info: 2:0 level, 51:12 GPA."""
HPA_LEVEL: Final = "HPA and level"
"""Page size info: 2:0 level, 51:12 HPA."""
GPA: Final = "GPA"
TDR: Final = "TDR"
TDR_FLAG: Final = "TDR, flag in bit 0"
TDVPR: Final = "TDVPR"
PAGE: Final = "page"
"""HPA of a page that the module takes, or works on."""
HOST_PAGE: Final = "host memory"
"""HPA of memory that the host shares with the module."""
FIELD: Final = "metadata field"
KEYID: Final = "KeyID"
NUMBER: Final = "number"
KEYID_MODE: Final = "KeyID, Dynamic PAMT in bit 16"

SYS: Final = "SYS"
"""The module's global lock: its status is TDX_SYS_BUSY, which names no operand."""


@dataclass(frozen=True, slots=True)
class LeafRow:
    """What is known of a leaf beside its handler; versions other than 0 are included."""

    operands: dict[str, str]
    """Register to format, in the order of the registers; one that is not here is not looked at."""
    busy: tuple[str, ...] = ()
    """Operands that TDX_OPERAND_BUSY can name, in the order of its locks.

    The names are those of :mod:`dpamt.abi.operands`, as in the low half of the status.
    """
    op_states: frozenset[int] | None = None
    """The OP_STATEs that it is allowed in; None: it does not ask."""
    draws_entropy: bool = False
    """It draws random numbers: TDX_RND_NO_ENTROPY."""
    interruptible: bool = False
    """It looks for a pending interrupt, in some release, version or shape of the TD."""
    configures_keys: bool = False
    """It programs the key engine: TDX_KEY_GENERATION_FAILED."""


_GUEST_PAGE: Final = {"rcx": GPA_LEVEL, "rdx": TDR}
_TREE_LOCKS: Final = ("RDX", "OP_STATE", "SEPT_TREE", "RCX")
_L2_PAGES: Final = ("R9", "R10", "R11")

LEAF_ROWS: Final[dict[int, LeafRow]] = {
    leaf.TDH_VP_ENTER: LeafRow(
        {"rcx": TDVPR},
        ("RCX", "TDR", "OP_STATE", "TD_EPOCH"),
        op_states=frozenset({2, 3, 9}),
        interruptible=True,
    ),
    leaf.TDH_MNG_ADDCX: LeafRow(
        {"rcx": PAGE, "rdx": TDR}, ("RDX", "RCX"), op_states=frozenset({0}), draws_entropy=True
    ),
    leaf.TDH_MEM_PAGE_ADD: LeafRow(
        {**_GUEST_PAGE, "r8": PAGE, "r9": HOST_PAGE}, ("RDX", "R8"), op_states=frozenset({1})
    ),
    leaf.TDH_MEM_SEPT_ADD: LeafRow(
        {
            "rcx": GPA_LEVEL,
            "rdx": TDR_FLAG,
            "r8": PAGE,
            "r9": PAGE,
            "r10": PAGE,
            "r11": PAGE,
        },
        (*_TREE_LOCKS, "R8", *_L2_PAGES),
        op_states=frozenset({1, 2, 3, 6, 7, 8, 9}),
        interruptible=True,
    ),
    leaf.TDH_VP_ADDCX: LeafRow(
        {"rcx": PAGE, "rdx": TDVPR}, ("RDX", "TDR", "OP_STATE", "RCX"), op_states=frozenset({1, 7})
    ),
    leaf.TDH_MEM_PAGE_RELOCATE: LeafRow(
        {**_GUEST_PAGE, "r8": PAGE},
        (*_TREE_LOCKS, "R8"),
        op_states=frozenset({1, 2, 3, 4, 5, 8, 9}),
    ),
    leaf.TDH_MEM_PAGE_AUG: LeafRow(
        {**_GUEST_PAGE, "r8": PAGE}, (*_TREE_LOCKS, "R8"), op_states=frozenset({1, 2, 3, 9})
    ),
    leaf.TDH_MEM_RANGE_BLOCK: LeafRow(
        _GUEST_PAGE, _TREE_LOCKS, op_states=frozenset({1, 2, 3, 4, 5, 8, 9})
    ),
    leaf.TDH_MNG_KEY_CONFIG: LeafRow({"rcx": TDR}, ("RCX", "KET"), configures_keys=True),
    leaf.TDH_MNG_CREATE: LeafRow({"rcx": PAGE, "rdx": KEYID}, ("RCX", "KOT"), draws_entropy=True),
    leaf.TDH_VP_CREATE: LeafRow(
        {"rcx": PAGE, "rdx": TDR}, ("RDX", "OP_STATE", "RCX"), op_states=frozenset({1, 7})
    ),
    leaf.TDH_MNG_RD: LeafRow(
        {"rcx": TDR, "rdx": FIELD}, ("RCX", "OP_STATE"), op_states=frozenset(range(1, 11))
    ),
    leaf.TDH_MEM_PAGE_DEMOTE: LeafRow(
        {
            "rcx": GPA_LEVEL,
            "rdx": TDR_FLAG,
            "r8": PAGE,
            "r9": PAGE,
            "r10": PAGE,
            "r11": PAGE,
            "r12": PAGE,
            "r13": PAGE,
        },
        (*_TREE_LOCKS, "R8", *_L2_PAGES, "R12", "R13"),
        op_states=frozenset({1, 2, 3, 4, 5, 8, 9}),
        interruptible=True,
    ),
    leaf.TDH_MR_EXTEND: LeafRow({"rcx": GPA, "rdx": TDR}, ("RDX",), op_states=frozenset({1})),
    leaf.TDH_MR_FINALIZE: LeafRow({"rcx": TDR}, ("RCX",), op_states=frozenset({1})),
    leaf.TDH_VP_FLUSH: LeafRow({"rcx": TDVPR}, ("RCX", "TDR")),
    leaf.TDH_MNG_VPFLUSHDONE: LeafRow({"rcx": TDR}, ("RCX", "KOT")),
    leaf.TDH_MNG_KEY_FREEID: LeafRow({"rcx": TDR}, ("RCX", "KOT")),
    leaf.TDH_MNG_INIT: LeafRow(
        {"rcx": TDR_FLAG, "rdx": HOST_PAGE, "r8": HOST_PAGE}, ("RCX",), op_states=frozenset({0})
    ),
    leaf.TDH_VP_INIT: LeafRow(
        {"rcx": TDVPR, "rdx": NUMBER, "r8": NUMBER},
        ("RCX", "TDR", "OP_STATE"),
        op_states=frozenset({1}),
    ),
    leaf.TDH_MEM_PAGE_PROMOTE: LeafRow(
        _GUEST_PAGE, _TREE_LOCKS, op_states=frozenset({1, 2, 3, 4, 5, 8, 9}), interruptible=True
    ),
    leaf.TDH_PHYMEM_PAGE_RDMD: LeafRow({"rcx": HPA_LEVEL}, ("RCX",)),
    leaf.TDH_MEM_SEPT_RD: LeafRow(
        {"rcx": GPA_LEVEL, "rdx": TDR_FLAG},
        _TREE_LOCKS,
        op_states=frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}),
    ),
    leaf.TDH_VP_RD: LeafRow(
        {"rcx": TDVPR, "rdx": FIELD},
        ("RCX", "TDR", "OP_STATE"),
        op_states=frozenset(range(1, 11)),
    ),
    leaf.TDH_MNG_KEY_RECLAIMID: LeafRow({"rcx": TDR}),
    leaf.TDH_PHYMEM_PAGE_RECLAIM: LeafRow({"rcx": PAGE}, ("RCX", "TDR")),
    leaf.TDH_MEM_PAGE_REMOVE: LeafRow(
        _GUEST_PAGE, _TREE_LOCKS, op_states=frozenset({1, 2, 3, 4, 5, 8, 9, 10})
    ),
    leaf.TDH_MEM_SEPT_REMOVE: LeafRow(
        _GUEST_PAGE, _TREE_LOCKS, op_states=frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
    ),
    leaf.TDH_SYS_KEY_CONFIG: LeafRow({}, (SYS, "KET"), configures_keys=True),
    leaf.TDH_SYS_INIT: LeafRow({"rcx": NUMBER}, (SYS,)),
    leaf.TDH_SYS_RD: LeafRow({"rdx": FIELD}),
    leaf.TDH_SYS_LP_INIT: LeafRow({}, (SYS,)),
    leaf.TDH_SYS_TDMR_INIT: LeafRow({"rcx": PAGE}, ("RCX",)),
    leaf.TDH_MEM_TRACK: LeafRow(
        {"rcx": TDR},
        ("RCX", "OP_STATE", "TD_EPOCH"),
        op_states=frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9}),
    ),
    leaf.TDH_MEM_RANGE_UNBLOCK: LeafRow(
        _GUEST_PAGE, _TREE_LOCKS, op_states=frozenset({1, 2, 3, 4, 5, 8, 9})
    ),
    leaf.TDH_PHYMEM_CACHE_WB: LeafRow({"rcx": NUMBER}, ("WBCACHE", "KOT"), interruptible=True),
    leaf.TDH_PHYMEM_PAGE_WBINVD: LeafRow({"rcx": PAGE}, ("RCX",)),
    leaf.TDH_VP_WR: LeafRow(
        {"rcx": TDVPR, "rdx": FIELD, "r8": NUMBER, "r9": NUMBER},
        ("RCX", "TDR", "OP_STATE"),
        op_states=frozenset({1, 2, 3, 6, 7, 8, 9, 10}),
    ),
    leaf.TDH_SYS_CONFIG: LeafRow(
        {
            "rcx": HOST_PAGE,
            "rdx": NUMBER,
            "r8": KEYID_MODE,
            "r9": NUMBER,
            "r10": NUMBER,
        },
        (SYS,),
    ),
    leaf.TDH_SYS_SHUTDOWN: LeafRow({"rcx": NUMBER}, (SYS,)),
    leaf.TDH_SYS_UPDATE: LeafRow({}, (SYS,)),
    leaf.TDH_SYS_DISABLE: LeafRow({}, (SYS,)),
    leaf.TDH_PHYMEM_PAMT_ADD: LeafRow(
        {"rcx": HPA_LEVEL, "rdx": PAGE, "r8": PAGE}, ("RCX", "RDX", "R8")
    ),
    leaf.TDH_PHYMEM_PAMT_REMOVE: LeafRow({"rcx": HPA_LEVEL}, ("RCX",)),
}
"""Leaf to its row."""

LEAF_OPERANDS: Final = {number: row.operands for number, row in LEAF_ROWS.items()}
"""Leaf to register to format, in the order of the registers."""

PAGE_TYPE: Final = "page type"
OWNER: Final = "owner's TDR"
LEVEL: Final = "level"
NEXT_ADDRESS: Final = "next address to initialise"
CPUID_LEAF: Final = "CPUID leaf, subleaf in 63:32"
CPUID_MASK_AB: Final = "mask of EAX, EBX in 63:32"
CPUID_MASK_CD: Final = "mask of ECX, EDX in 63:32"
CPUID_VALUE_AB: Final = "expected EAX, EBX in 63:32"
CPUID_VALUE_CD: Final = "expected ECX, EDX in 63:32"

_PAGE_METADATA: Final = {"rcx": PAGE_TYPE, "rdx": OWNER, "r8": LEVEL}

LEAF_OUTPUTS: Final[dict[int, dict[str, str]]] = {
    leaf.TDH_PHYMEM_PAGE_RECLAIM: _PAGE_METADATA,
    leaf.TDH_PHYMEM_PAGE_RDMD: _PAGE_METADATA,
    leaf.TDH_SYS_TDMR_INIT: {"rdx": NEXT_ADDRESS},
}
"""Leaf to the registers that it writes once its own checks begin, whatever becomes of the call.

They are cleared on entry, so that the operands that went in are not to be seen any more.
Source: Intel TDX module source (open release), tdh_phymem_page_reclaim.c, tdh_phymem_page_rdmd.c,
tdh_sys_tdmr_init.c.
"""

CPUID_OUTPUTS: Final[dict[str, str]] = {
    "rcx": CPUID_LEAF,
    "rdx": CPUID_MASK_AB,
    "r8": CPUID_MASK_CD,
    "r9": CPUID_VALUE_AB,
    "r10": CPUID_VALUE_CD,
}
"""What TDH.SYS.INIT and TDH.SYS.LP.INIT leave with a status that speaks of CPUID.

Source: Intel TDX Module ABI specification, TDH.SYS.INIT, output operands.
"""
