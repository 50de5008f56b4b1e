"""SEAMCALLs that failed: what the module cannot have refused, and what a correct host never meets.

Source of the rules: Intel TDX module source (open release), 2.0.08 to 2.0.18; the tables of
:mod:`dpamt.abi.contention`.
"""

from typing import Final, Protocol

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.contention import BUSY_OPERANDS, DRAWS_ENTROPY, INTERRUPTED
from dpamt.abi.leaf_table import SYS
from dpamt.abi.operands import OPERAND_NAMES
from dpamt.abi.status import DETAILS_MASK, STATUS_MASK, STATUS_NAMES
from dpamt.trace.judge.findings import (
    BAD_REMOVE,
    DOUBLE_ADD,
    MISSING_PAIR,
    NOT_ANSWERED,
    PAIR_PAGE,
)
from dpamt.trace.judge.page_rules import Sink
from dpamt.trace.judge.pages_of import REGISTER, page_of
from dpamt.trace.judge.state import (
    ALL_PAGES,
    LARGE,
    NO_PAIR,
    PAIR,
    STATE_NAMES,
    UNKNOWN,
    Origin,
    Region,
    State,
)
from dpamt.trace.recording.model import Call

_SOFTWARE: Final = 0x8000_FF00_0000_0000
_SOFTWARE_MASK: Final = 0x8000_FF00_0000_0000
"""Statuses that the kernel makes up: bit 63 and all of bits 47:40 (Linux
arch/x86/include/asm/shared/tdx_errno.h)."""
_HALF: Final = 256
_PAGE_OPERAND: Final = {
    leaf.TDH_MNG_CREATE: ("RCX",),
    leaf.TDH_MNG_ADDCX: ("RCX",),
    leaf.TDH_VP_CREATE: ("RCX",),
    leaf.TDH_VP_ADDCX: ("RCX",),
    leaf.TDH_MEM_PAGE_ADD: ("R8",),
    leaf.TDH_MEM_PAGE_AUG: ("R8",),
    leaf.TDH_MEM_SEPT_ADD: ("R8", "R9", "R10", "R11"),
    leaf.TDH_MEM_PAGE_DEMOTE: ("R8", "R9", "R10", "R11"),
    leaf.TDH_MEM_PAGE_RELOCATE: ("R8",),
}
"""Leaves that can answer TDX_MISSING_PAMT_PAGE_PAIR, and the operands that it can name."""


class HostSink(Sink, Protocol):
    """Takes findings about the host too."""

    def host(self, kind: str, call: Call, text: str, origin: Origin | None) -> None:
        """Something that a correct host never meets."""

    def busy(self, call: Call, operand: str) -> None:
        """A lock was held; ``operand`` as :data:`BUSY_OPERANDS` names it."""


class Refusals:
    """Looks at calls that failed."""

    def __init__(self, state: State, sink: HostSink) -> None:
        self.state = state
        self.sink = sink

    def take(self, call: Call) -> None:
        """One call with the ERROR bit in its status."""
        status = call.status
        assert status is not None
        number, kind = call.leaf, status & STATUS_MASK
        operand = OPERAND_NAMES.get(status & DETAILS_MASK, "")
        if kind == s.TDX_OPERAND_BUSY:
            self._busy(call, operand)
        elif kind == s.TDX_SYS_BUSY:
            self._busy(call, SYS)
        elif kind == s.TDX_MISSING_PAMT_PAGE_PAIR:
            self._missing(call, operand)
        elif kind == s.TDX_HPA_RANGE_NOT_FREE and number == leaf.TDH_PHYMEM_PAMT_ADD:
            self._range_not_free(call)
        elif kind == s.TDX_NO_PAMT_PAGE_PAIR and number == leaf.TDH_PHYMEM_PAMT_REMOVE:
            self._no_pair(call)
        elif kind == s.TDX_PAMT_PAGE_NOT_EMPTY and number == leaf.TDH_PHYMEM_PAMT_REMOVE:
            self._not_empty(call, status & DETAILS_MASK)
        elif kind == s.TDX_PAGE_NOT_FREE and number in (
            leaf.TDH_PHYMEM_PAMT_ADD,
            leaf.TDH_MEM_PAGE_DEMOTE,
        ):
            self._pair_page(call, operand)
        elif kind == s.TDX_RND_NO_ENTROPY:
            if number in BUSY_OPERANDS and number not in DRAWS_ENTROPY:
                self.sink.impossible(call, None, "it draws no random numbers", None)
        elif kind in (s.TDX_INTERRUPTED_RESUMABLE, s.TDX_INTERRUPTED_RESTARTABLE):
            if number in BUSY_OPERANDS and number not in INTERRUPTED:
                self.sink.impossible(call, None, "it never looks for interrupts", None)
        elif status & _SOFTWARE_MASK == _SOFTWARE:
            self.sink.host(NOT_ANSWERED, call, "the kernel made this status up", None)
        elif kind not in STATUS_NAMES:
            self.sink.impossible(call, None, "the module has no such status", None)
        elif kind in (
            s.TDX_HPA_RANGE_NOT_FREE,
            s.TDX_NO_PAMT_PAGE_PAIR,
            s.TDX_PAMT_PAGE_NOT_EMPTY,
            s.TDX_PAGE_NOT_FREE,
        ):
            self.sink.impossible(call, None, "this leaf has no such answer", None)

    def _busy(self, call: Call, operand: str) -> None:
        possible = BUSY_OPERANDS.get(call.leaf)
        if possible is not None and operand not in possible:
            names = ", ".join(possible)
            self.sink.impossible(
                call, None, f"it takes no lock of {operand or 'this operand'} (only {names})", None
            )
            return
        self.sink.busy(call, operand)

    def _missing(self, call: Call, operand: str) -> None:
        operands = _PAGE_OPERAND.get(call.leaf)
        if operands is None or operand not in operands:
            if call.leaf in BUSY_OPERANDS:
                self.sink.impossible(call, None, "this leaf has no such answer", None)
            return
        page = page_of(call.before[REGISTER[operand.lower()]])
        index, state = page >> 9, self.state
        region = state.region(index)
        state.dynamic = True
        if region.state in (PAIR, LARGE):
            self.sink.impossible(
                call,
                index,
                f"region {index << 21:#x} has {STATE_NAMES[region.state]}",
                region.origin,
            )
        self.sink.host(
            MISSING_PAIR, call, f"region {index << 21:#x} had no page pair", region.origin
        )
        self._now(call, index, region, NO_PAIR)

    def _range_not_free(self, call: Call) -> None:
        index = call.before[0] >> 21
        region = self.state.region(index)
        if region.state == NO_PAIR:
            self.sink.impossible(
                call, index, f"region {index << 21:#x} has no page pair", region.origin
            )
        was = (
            "is not free"
            if region.state in (UNKNOWN, NO_PAIR)
            else (f"has {STATE_NAMES[region.state]}")
        )
        self.sink.host(DOUBLE_ADD, call, f"region {index << 21:#x} {was}", region.origin)
        if region.state == NO_PAIR:
            self.state.set_used(region, 0, 0)
            self.state.set_state(region, UNKNOWN)
        region.seen_by(call)

    def _no_pair(self, call: Call) -> None:
        index = call.before[0] >> 21
        region = self.state.region(index)
        if region.state == PAIR:
            self.sink.impossible(
                call, index, f"region {index << 21:#x} has a page pair", region.origin
            )
        self.sink.host(BAD_REMOVE, call, f"region {index << 21:#x} had no page pair", region.origin)
        if region.state == PAIR:
            self._now(call, index, region, NO_PAIR)

    def _not_empty(self, call: Call, half: int) -> None:
        index, state = call.before[0] >> 21, self.state
        region = state.region(index)
        mask = ((1 << _HALF) - 1) << (_HALF if half else 0)
        if region.state in (NO_PAIR, LARGE):
            self.sink.impossible(
                call,
                index,
                f"region {index << 21:#x} has {STATE_NAMES[region.state]}",
                region.origin,
            )
        elif half not in (0, 1):
            self.sink.impossible(call, index, "a pair has pages 0 and 1 only", None)
        elif region.known & mask == mask and not region.used & mask and not region.overlaps(call):
            self.sink.impossible(
                call,
                index,
                f"no page that page {half} of the pair describes is in use",
                region.origin,
            )
        used = region.used.bit_count()
        told = f"{used} of its pages are in use" if used else "a page of it is in use"
        self.sink.host(BAD_REMOVE, call, f"region {index << 21:#x}: {told}", region.origin)
        if region.state != PAIR:
            state.set_used(region, 0, 0)
            state.set_state(region, PAIR)
        region.seen_by(call)

    def _pair_page(self, call: Call, operand: str) -> None:
        register = REGISTER.get(operand.lower())
        if register is None:
            return
        page = page_of(call.before[register])
        region = self.state.regions.get(page >> 9)
        other = self.state.pair_pages.get(page)
        if other is not None:
            why = f"page {page << 12:#x} is in the pair of region {other << 21:#x}"
        else:
            why = f"page {page << 12:#x} is in use, reserved or a PAMT page"
        self.sink.host(PAIR_PAGE, call, why, None if region is None else region.origin)

    def _now(self, call: Call, index: int, region: Region, to: int) -> None:
        """The answer shows that no 4K page is in use and no pair is there."""
        self.state.set_pair(index, region, None)
        self.state.set_used(region, 0, ALL_PAGES)
        self.state.set_state(region, to)
        region.seen_by(call)
