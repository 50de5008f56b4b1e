"""Secure EPT entries: their word, and the details a host is shown of one.

The word of an entry is its public state and the page it points to, so that a free entry is 0::

    page frame number of the mapped or S-EPT page << 8 | state (:mod:`dpamt.abi.states`)

An S-EPT page is 512 words, each under its entry lock, and named by its page frame number.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [sept_manager.c].
"""

from typing import Final

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.sept import (
    DETAILS_STATE_SHIFT,
    ENTRY_LEAF,
    ENTRY_RWX,
    ENTRY_SVE,
    ENTRY_XU,
)
from dpamt.abi.states import (
    SEPT_FREE,
    SEPT_MAPPED,
    SEPT_NL_BLOCKED,
    SEPT_NL_MAPPED,
    SEPT_REMOVED,
)

FRAME_SHIFT: Final = 8
STATE_MASK: Final = 0xFF


def shown_entry(word: int) -> int:
    """RCX of the details: the architectural entry without HKID."""
    state = word & STATE_MASK
    if state in (SEPT_FREE, SEPT_REMOVED):
        return ENTRY_SVE
    if state == SEPT_NL_MAPPED:
        return ENTRY_XU | ENTRY_RWX
    if state == SEPT_NL_BLOCKED:
        return 0
    access = ENTRY_XU | ENTRY_RWX if state == SEPT_MAPPED else 0
    return ENTRY_SVE | word >> FRAME_SHIFT << PAGE_SHIFT | ENTRY_LEAF | access


def shown_details(word: int, level: int) -> int:
    """RDX of the details: level and state (VM 0)."""
    return level | (word & STATE_MASK) << DETAILS_STATE_SHIFT


def show_entry(args: TdxModuleArgs, word: int, level: int) -> None:
    """Give the host the details of an entry, in RCX and RDX."""
    args.rcx = shown_entry(word)
    args.rdx = shown_details(word, level)
