"""What successful calls have in common: a page comes into use, a page goes, a region changes.

Each method says what must have been so, and notes what is so afterwards.
"""

from typing import Final, Protocol

from dpamt.abi.states import TD_BLOCKED, TD_HKID_ASSIGNED, TD_KEYS_CONFIGURED, TD_TEARDOWN
from dpamt.trace.judge.state import (
    ALL_PAGES,
    LARGE,
    NO_PAIR,
    PAIR,
    SLOT,
    STATE_NAMES,
    UNKNOWN,
    Origin,
    Region,
    State,
    origin_of,
)
from dpamt.trace.recording.model import Call

_LIFECYCLES: Final = {
    TD_HKID_ASSIGNED: "no keys yet",
    TD_KEYS_CONFIGURED: "its keys",
    TD_BLOCKED: "been flushed",
    TD_TEARDOWN: "given its KeyID back",
}


class Sink(Protocol):
    """Takes what a follower finds."""

    def impossible(self, call: Call, region: int | None, text: str, origin: Origin | None) -> None:
        """The call cannot have succeeded, or failed, so; ``origin`` is what says so."""


class PageRules:
    """The state, and where what cannot be goes."""

    def __init__(self, state: State, sink: Sink) -> None:
        self.state = state
        self.sink = sink

    def _impossible(self, call: Call, index: int, region: Region | None, text: str) -> None:
        origin = None if region is None else region.origin
        self.sink.impossible(call, index, text, origin)

    def _use(self, call: Call, page: int) -> None:
        """A free 4K page of a region with a pair is in use from now on."""
        state = self.state
        index = page >> 9
        region = state.regions.get(index) or state.region(index)
        bit = 1 << (page & SLOT)
        if region.state == NO_PAIR and state.dynamic:
            self._impossible(
                call,
                index,
                region,
                f"region {index << 21:#x} has no page pair; expected TDX_MISSING_PAMT_PAGE_PAIR",
            )
            state.set_used(region, 0, 0)
        elif region.state == LARGE:
            self._impossible(call, index, region, f"region {index << 21:#x} is a 2M page of a TD")
            state.set_used(region, 0, 0)
        elif region.used & bit:
            self._impossible(call, index, region, f"page {page << 12:#x} is in use already")
        elif region.inside & bit and page in state.pair_pages:
            other = state.pair_pages[page]
            self._impossible(
                call,
                index,
                state.regions.get(other),
                f"page {page << 12:#x} is a PAMT page, of region {other << 21:#x}",
            )
        if state.dynamic and region.state != PAIR:
            state.set_state(region, PAIR)
            region.origin = origin_of(call)
        if not state.blind:
            state.used += not region.used & bit
            region.used |= bit
            region.known |= bit
        region.seen_by(call)

    def _free(self, call: Call, page: int, hint: int | None) -> None:
        """A 4K page that was in use is free from now on; ``hint``: bit 62, None if not recorded."""
        state = self.state
        index = page >> 9
        region = state.regions.get(index) or state.region(index)
        bit = 1 << (page & SLOT)
        if (region.state == NO_PAIR and state.dynamic) or region.state == LARGE:
            self._impossible(
                call,
                index,
                region,
                f"region {index << 21:#x} has {STATE_NAMES[region.state]}, so page "
                f"{page << 12:#x} was not in use",
            )
            state.set_used(region, 0, 0)
            if state.dynamic:
                state.set_state(region, PAIR)
        elif region.known & bit and not region.used & bit:
            self._impossible(call, index, region, f"page {page << 12:#x} was free already")
        elif hint is not None and region.exact and state.dynamic and not region.overlaps(call):
            left = (region.used & ~bit).bit_count()
            if bool(hint) != (left == 0):
                says = "is" if hint else "is not"
                self._impossible(
                    call,
                    index,
                    region,
                    f"the removal hint {says} set, and {left} other pages of region "
                    f"{index << 21:#x} are in use",
                )
        if state.dynamic and region.state == UNKNOWN:
            state.set_state(region, PAIR)
            region.origin = origin_of(call)
        if not state.blind:
            state.used -= bool(region.used & bit)
            region.used &= ~bit
            region.known |= bit
        region.seen_by(call)

    def _lives(self, call: Call, tdr: int | None) -> None:
        """The TD must have its keys."""
        td = None if tdr is None else self.state.tds.get(tdr)
        if td is not None and tdr is not None and td.lifecycle in (TD_BLOCKED, TD_TEARDOWN):
            had = _LIFECYCLES[td.lifecycle]
            self.sink.impossible(call, None, f"the TD at {tdr << 12:#x} has {had}", None)
            td.lifecycle = None

    def _clear(self, index: int, region: Region, to: int, call: Call) -> None:
        """No 4K page of the region is in use, and there is no pair."""
        self.state.set_pair(index, region, None)
        self.state.set_used(region, 0, ALL_PAGES)
        self.state.set_state(region, to)
        region.origin = origin_of(call)
        region.seen_by(call)

    def _doubt(self, page: int, tdr: int) -> None:
        """Whether the TD has the page or not is not known."""
        region = self.state.region(page >> 9)
        mask = ~(1 << (page & SLOT))
        self.state.set_used(region, region.used & mask, region.known & mask)
        self.state.td(tdr).children = None

    def _check_pair_pages(self, call: Call, index: int, pair: tuple[int, int]) -> None:
        state = self.state
        if pair[0] == pair[1]:
            self.sink.impossible(call, index, "both pages of the pair are the same", None)
        for page in pair:
            region = state.regions.get(page >> 9)
            other = state.pair_pages.get(page)
            if other is not None:
                self._impossible(
                    call,
                    index,
                    state.regions.get(other),
                    f"page {page << 12:#x} is in the pair of region {other << 21:#x}",
                )
            elif region is not None and (region.used >> (page & SLOT) & 1 or region.state == LARGE):
                self._impossible(call, index, region, f"page {page << 12:#x} is in use by a TD")
