"""What is known of the module's state from a recording, and what is not.

A recording may begin on a host that has TDs already, and may have gaps.  So nothing is taken for
granted: a region's state is UNKNOWN until an answer shows it, and each of its pages is known to be
in use, known to be free, or neither.  After a loss everything is unknown again.  When the recording
has TDH.SYS.CONFIG in it, the module begins there, and what was never touched is known to be free.
"""

from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.errors import InputError
from dpamt.trace.recording.model import MOST_CALLER, Call, seconds, shown

_MOST_REGIONS: Final = 1 << 23
"""Of which something is known: a text of random addresses takes no more memory than that."""

UNKNOWN: Final = 0
NO_PAIR: Final = 1
PAIR: Final = 2
LARGE: Final = 3
"""State of a 2M region: unknown, free at 4K without a pair, with a pair, a 2M page of a TD."""
STATE_NAMES: Final = ("unknown", "no page pair", "a page pair", "a 2M page of a TD")

ALL_PAGES: Final = (1 << PAGES_PER_2M) - 1
SLOT: Final = PAGES_PER_2M - 1

Origin = tuple[int, int, int, int, bytes, bytes]
"""Where knowledge comes from: end, CPU, leaf, pid, comm, caller."""


def origin_of(call: Call) -> Origin:
    """The call as the origin of what it shows."""
    return call.end, call.cpu, call.leaf, call.pid, call.comm, call.caller


def origin_text(origin: Origin | None) -> str:
    """Who, when and where, for a report."""
    if origin is None:
        return "TDH.SYS.CONFIG, and nothing has been there since"
    end, cpu, leaf, pid, comm, caller = origin
    name = LEAF_NAMES.get(leaf, f"leaf {leaf}")
    task = f" {shown(comm)}-{pid}" if comm else ""
    place = f" from {shown(caller, MOST_CALLER)}" if caller else ""
    return f"{name} at {seconds(end)} on CPU {cpu}{task}{place}"


NO_START: Final = 10_000_000
"""Nanoseconds that a call without a recorded start may have taken."""


def begin_of(call: Call) -> int:
    """When a call began, or may have begun."""
    return call.end - NO_START if call.start is None else call.start


class Region:
    """One 2M region.  ``used`` and ``known`` are bit masks of its 4K pages; ``inside`` marks pages
    that are PAMT pages of some region's pair.  ``ended`` on ``cpu`` is the last call that touched
    it, ``ended_before`` the last one of another CPU.  ``refs`` is the host's count, None where that
    is not known."""

    __slots__ = (
        "added",
        "cpu",
        "ended",
        "ended_before",
        "inside",
        "known",
        "origin",
        "pair",
        "put_at",
        "refs",
        "state",
        "used",
    )

    def __init__(self, fresh: bool) -> None:
        self.state = NO_PAIR if fresh else UNKNOWN
        self.pair: tuple[int, int] | None = None
        self.used = 0
        self.known = ALL_PAGES if fresh else 0
        self.inside = 0
        self.ended = -1
        self.cpu = -1
        self.ended_before = -1
        self.origin: Origin | None = None
        self.refs: int | None = 0 if fresh else None
        self.put_at = -1
        """When the last put of it was done."""
        self.added: tuple[int, bytes, bytes] | None = None
        """Of the pair: when, the task's name and the caller of tdx_pamt_get()."""

    def seen_by(self, call: Call) -> None:
        """One more call that touched it."""
        if call.cpu != self.cpu:
            self.ended_before, self.cpu = self.ended, call.cpu
        if call.end > self.ended:
            self.ended = call.end

    def overlaps(self, call: Call) -> bool:
        """Whether a call of another CPU touched it while this one was under way."""
        start = begin_of(call)
        if self.cpu != call.cpu:
            return self.ended >= start
        return self.ended_before >= start

    @property
    def exact(self) -> bool:
        """Whether each of its pages is known."""
        return self.known == ALL_PAGES


class Td:
    """One TD, by its TDR.  ``children``: pages that it owns, None where not known."""

    __slots__ = ("children", "has_l2", "hkid", "large", "lifecycle", "tdvprs")

    def __init__(self) -> None:
        self.lifecycle: int | None = None
        self.children: int | None = None
        self.hkid: int | None = None
        self.has_l2 = False
        """S-EPT pages of L2 VMs are, or may be, among its pages."""
        self.large: dict[int, int] = {}
        """2M page of the guest (GPA >> 21) to its region."""
        self.tdvprs: set[int] = set()


class State:
    """Everything that is known."""

    def __init__(self) -> None:
        self.dynamic: bool | None = None
        self.fresh = False
        self.regions: dict[int, Region] = {}
        self.pair_pages: dict[int, int] = {}
        """Page of a pair to the region that it describes."""
        self.tds: dict[int, Td] = {}
        self.owners: dict[int, int] = {}
        """TDVPR page to TDR page."""
        self.pairs = 0
        """Regions known to have a pair."""
        self.used = 0
        """4K pages known to be in use."""
        self.blind = False
        """A page went and the recording does not say which: pages are followed no more."""

    def forget(self) -> None:
        """After a loss: nothing is known any more, but the mode."""
        dynamic = self.dynamic
        self.__init__()  # type: ignore[misc]
        self.dynamic = dynamic

    def begin(self, dynamic: bool) -> None:
        """SYS.CONFIG: the module's tables are empty."""
        self.__init__()  # type: ignore[misc]
        self.dynamic = dynamic
        self.fresh = True

    def region(self, index: int) -> Region:
        """A region, by HPA >> 21."""
        region = self.regions.get(index)
        if region is None:
            if len(self.regions) >= _MOST_REGIONS:
                raise InputError(
                    f"pages in more than {_MOST_REGIONS:,} regions of 2M; expected the recording "
                    "of one host"
                )
            region = self.regions[index] = Region(self.fresh)
            if self.blind:
                region.known = 0
        return region

    def set_state(self, region: Region, state: int) -> None:
        """Change the state of a region; pages and pair are the caller's business."""
        self.pairs += (state == PAIR) - (region.state == PAIR)
        region.state = state

    def lose_pages(self) -> None:
        """From now on single pages are not followed."""
        self.blind = True
        for region in self.regions.values():
            region.used = region.known = 0
        self.used = 0

    def set_used(self, region: Region, used: int, known: int) -> None:
        """Change which pages are known to be in use."""
        if self.blind:
            return
        self.used += used.bit_count() - region.used.bit_count()
        region.used, region.known = used, known

    def set_pair(self, index: int, region: Region, pair: tuple[int, int] | None) -> None:
        """Change the pages of a region's pair."""
        for page in region.pair or ():
            if self.pair_pages.get(page) == index:
                del self.pair_pages[page]
                self.region(page >> 9).inside &= ~(1 << (page & SLOT))
        region.pair = pair
        for page in pair or ():
            self.pair_pages[page] = index
            self.region(page >> 9).inside |= 1 << (page & SLOT)

    def td(self, tdr: int) -> Td:
        """A TD by its TDR page."""
        td = self.tds.get(tdr)
        if td is None:
            td = self.tds[tdr] = Td()
        return td

    def add_children(self, tdr: int | None, pages: int) -> None:
        """Pages that a TD has more."""
        if tdr is not None:
            td = self.td(tdr)
            if td.children is not None:
                td.children += pages
