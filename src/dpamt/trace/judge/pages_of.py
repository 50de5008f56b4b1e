"""Which 2M regions, pages and TD a call touches, read from its registers."""

from typing import Final

from dpamt.abi import leaf_table as form
from dpamt.abi import leaves as leaf
from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.pages import (
    INFO_ADDRESS_MASK,
    INFO_LEVEL_MASK,
    LEVEL_2M,
    NULL_PA,
    PAGE_SHIFT,
    REMOVAL_HINT,
)
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.trace.recording.model import Call

REGISTER: Final = {name: index for index, name in enumerate(REGISTER_NAMES)}
_WHOLE_REGION: Final = frozenset({leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE})
_OF_VERSION_1: Final = ("r9", "r10", "r11")
"""Of SEPT.ADD: in version 0 these hold anything."""
_TD_FORMS: Final = frozenset({form.TDR, form.TDR_FLAG})
_RETURNS_PAGE: Final = frozenset(
    {
        leaf.TDH_MEM_PAGE_REMOVE,
        leaf.TDH_MEM_SEPT_REMOVE,
        leaf.TDH_MEM_PAGE_RELOCATE,
        leaf.TDH_MEM_PAGE_PROMOTE,
    }
)


def page_of(value: int) -> int:
    """Page frame of a register that names a page, its flags and level left out."""
    return (value & INFO_ADDRESS_MASK & ~REMOVAL_HINT) >> PAGE_SHIFT


class Touched:
    """``whole``: regions of which the 2M entry is locked exclusively; ``pages``: 4K pages;
    ``td``: the TDR page."""

    __slots__ = ("pages", "td", "whole")

    def __init__(self) -> None:
        self.whole: set[int] = set()
        self.pages: set[int] = set()
        self.td: int | None = None

    @property
    def regions(self) -> set[int]:
        """All regions that it touches."""
        return self.whole | {page >> 9 for page in self.pages}


def touched(call: Call, owners: dict[int, int]) -> Touched:
    """What a call touches; ``owners``: TDVPR page to TDR page."""
    found = Touched()
    number = call.leaf
    for name, kind in LEAF_OPERANDS.get(number, {}).items():
        if number == leaf.TDH_MEM_SEPT_ADD and name in _OF_VERSION_1 and not call.rax >> 16 & 0xFF:
            continue
        value = call.before[REGISTER[name]]
        if kind == form.PAGE:
            if value and value != NULL_PA:
                found.pages.add(page_of(value))
        elif kind == form.HPA_LEVEL:
            if number in _WHOLE_REGION:
                found.whole.add(value >> 21)
            else:
                found.pages.add(page_of(value))
        elif kind in _TD_FORMS:
            found.td = page_of(value)
        elif kind == form.TDVPR:
            page = page_of(value)
            found.pages.add(page)
            found.td = owners.get(page)
    if number == leaf.TDH_MEM_PAGE_AUG and call.before[0] & INFO_LEVEL_MASK == LEVEL_2M:
        found.whole.add(call.before[2] >> 21)
    if number in _RETURNS_PAGE and call.status == 0 and call.after is not None:
        found.pages.add(page_of(call.after[0]))
    return found
