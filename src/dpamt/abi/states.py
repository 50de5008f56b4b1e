"""States that the module keeps: of the system, of a TD, of a KeyID, of an S-EPT entry.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18: state enumerations and the
look-up tables of which leaf is allowed in which state.
"""

from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.leaf_table import LEAF_ROWS

# System state.
SYSINIT_PENDING: Final = 0
SYSINIT_DONE: Final = 1
SYSCONFIG_DONE: Final = 2
SYS_READY: Final = 3
SYS_SHUTDOWN: Final = 4

# TD life cycle (TDR).
TD_HKID_ASSIGNED: Final = 0
TD_KEYS_CONFIGURED: Final = 1
TD_BLOCKED: Final = 2
TD_TEARDOWN: Final = 3

# KeyID ownership table (KOT) entry.
HKID_FREE: Final = 0
HKID_ASSIGNED: Final = 1
HKID_FLUSHED: Final = 2
HKID_RESERVED: Final = 3

MAX_HKIDS: Final = 2048
"""KeyIDs, shared and private, that the module can handle."""

# TDCS.OP_STATE.
OP_STATE_UNINITIALIZED: Final = 0
OP_STATE_INITIALIZED: Final = 1
OP_STATE_RUNNABLE: Final = 2
OP_STATE_LIVE_EXPORT: Final = 3
OP_STATE_PAUSED_EXPORT: Final = 4
OP_STATE_POST_EXPORT: Final = 5
OP_STATE_MEMORY_IMPORT: Final = 6
OP_STATE_STATE_IMPORT: Final = 7
OP_STATE_POST_IMPORT: Final = 8
OP_STATE_LIVE_IMPORT: Final = 9
OP_STATE_FAILED_IMPORT: Final = 10

# VCPU state (TDVPS); READY is the number recorded from module 1.5.25.
VCPU_UNINITIALIZED: Final = 0
VCPU_READY: Final = 2

# S-EPT entry state, as MEM.SEPT.RD and failed walks report it in RDX 15:8.
SEPT_FREE: Final = 0x0
SEPT_BLOCKED: Final = 0x1
SEPT_PENDING: Final = 0x2
SEPT_PENDING_BLOCKED: Final = 0x3
SEPT_MAPPED: Final = 0x4
SEPT_REMOVED: Final = 0x5
SEPT_BLOCKEDW: Final = 0x8
SEPT_PENDING_BLOCKEDW: Final = 0x10
SEPT_NL_BLOCKED: Final = 0x81
SEPT_NL_MAPPED: Final = 0x84

OP_STATE_ALLOWED: Final = {
    number: row.op_states for number, row in LEAF_ROWS.items() if row.op_states is not None
}
"""Leaf to the OP_STATEs it is allowed in; a leaf not listed is not tested."""

OP_STATE_TLB_TRACKING_REQUIRED: Final = frozenset({2, 3, 9})
"""OP_STATEs in which a page may be removed only after BLOCK and TRACK."""

OP_STATE_IMPORTING: Final = frozenset({6, 7, 8, 9})
"""OP_STATEs of an import: a page that is removed leaves REMOVED behind, not FREE."""

SEPT_BLOCK: Final[dict[int, int]] = {
    SEPT_MAPPED: SEPT_BLOCKED,
    SEPT_BLOCKEDW: SEPT_BLOCKED,
    SEPT_PENDING: SEPT_PENDING_BLOCKED,
    SEPT_PENDING_BLOCKEDW: SEPT_PENDING_BLOCKED,
    SEPT_NL_MAPPED: SEPT_NL_BLOCKED,
}
"""What RANGE.BLOCK makes of each state that it accepts."""
SEPT_UNBLOCK: Final[dict[int, int]] = {
    SEPT_BLOCKED: SEPT_MAPPED,
    SEPT_PENDING_BLOCKED: SEPT_PENDING,
    SEPT_NL_BLOCKED: SEPT_NL_MAPPED,
}
"""What unblocking makes of each blocked state."""
SEPT_PRIVATE_LEAF: Final = frozenset(
    {
        SEPT_BLOCKED,
        SEPT_PENDING,
        SEPT_PENDING_BLOCKED,
        SEPT_MAPPED,
        SEPT_BLOCKEDW,
        SEPT_PENDING_BLOCKEDW,
    }
)
"""States of an entry that maps a page of the TD."""
SEPT_READABLE_LEAF: Final = frozenset({SEPT_MAPPED, SEPT_BLOCKEDW})
"""Those that the guest has accepted and can read."""

SEPT_STATE_ALLOWED: Final[dict[int, frozenset[int]]] = {
    leaf.TDH_MEM_PAGE_ADD: frozenset({SEPT_FREE}),
    leaf.TDH_MEM_SEPT_ADD: frozenset({SEPT_FREE, SEPT_NL_MAPPED}),
    leaf.TDH_MEM_PAGE_AUG: frozenset({SEPT_FREE, SEPT_REMOVED}),
    leaf.TDH_MEM_RANGE_BLOCK: frozenset(
        {SEPT_NL_MAPPED, SEPT_MAPPED, SEPT_BLOCKEDW, SEPT_PENDING, SEPT_PENDING_BLOCKEDW}
    ),
    leaf.TDH_MEM_RANGE_UNBLOCK: frozenset({SEPT_NL_BLOCKED, SEPT_BLOCKED, SEPT_PENDING_BLOCKED}),
    leaf.TDH_MEM_PAGE_REMOVE: frozenset(
        {
            SEPT_MAPPED,
            SEPT_BLOCKED,
            SEPT_BLOCKEDW,
            SEPT_PENDING,
            SEPT_PENDING_BLOCKED,
            SEPT_PENDING_BLOCKEDW,
        }
    ),
    leaf.TDH_MEM_SEPT_REMOVE: frozenset({SEPT_NL_MAPPED, SEPT_NL_BLOCKED}),
    leaf.TDH_MEM_PAGE_PROMOTE: frozenset({SEPT_NL_MAPPED, SEPT_NL_BLOCKED}),
    leaf.TDH_MEM_PAGE_DEMOTE: frozenset(
        {SEPT_MAPPED, SEPT_BLOCKED, SEPT_PENDING, SEPT_PENDING_BLOCKED}
    ),
    leaf.TDH_MEM_PAGE_RELOCATE: SEPT_PRIVATE_LEAF,
    leaf.TDH_MR_EXTEND: frozenset({SEPT_MAPPED}),
}
"""Leaf to the S-EPT entry states it accepts."""

OP_STATE_NAMES: Final[dict[int, str]] = {
    number: name.removeprefix("OP_STATE_")
    for name, number in globals().items()
    if name.startswith("OP_STATE_") and isinstance(number, int)
}
"""OP_STATE number to its name."""

SEPT_STATE_NAMES: Final[dict[int, str]] = {
    number: name.removeprefix("SEPT_")
    for name, number in globals().items()
    if name.startswith("SEPT_") and isinstance(number, int)
}
"""S-EPT entry state number to its name."""

VCPU_STATE_NAMES: Final[dict[int, str]] = {
    number: name.removeprefix("VCPU_")
    for name, number in globals().items()
    if name.startswith("VCPU_") and isinstance(number, int)
}
"""VCPU state number to its name."""
