"""Whole lives of TDs that share regions, against a naive oracle, audited after every SEAMCALL."""

from collections.abc import Callable
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dpamt.abi import leaves as leaf
from dpamt.abi.exits import EXIT_REASON_EPT_VIOLATION, EXIT_REASON_HLT, TDG_MEM_PAGE_ACCEPT
from dpamt.abi.pages import PAGE_SIZE, REMOVAL_HINT, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    TDX_SUCCESS,
)
from dpamt.module.view import ModuleView
from dpamt.platform.guest import TdCall
from tests.module.naive_td import MAPPED, PENDING, Entry, NaiveMemory, NaiveTd
from tests.module.rig import FIRST, Rig

SHARED_REGION = FIRST + 8 * SIZE_2M
LARGE = [FIRST + n * SIZE_2M for n in (16, 17, 18)]
POOL = (
    [FIRST + n * PAGE_SIZE for n in range(100, 104)]
    + [SHARED_REGION + n * PAGE_SIZE for n in range(4)]
    + [region + n * PAGE_SIZE for region in LARGE[:2] for n in (0, 1, 511)]
)
HKIDS = (40, 41)

INDICES = (0, 1, 511)
GRID: Final[list[tuple[int, int | None]]] = [
    (slot, index) for slot in range(3) for index in (None, *INDICES)
]

Place = tuple[int, int | None]
"""A 2M slot of guest memory, and the 4K page in it; None: the slot itself."""

tds = st.integers(0, 1)
picks = st.integers(0, 1000)
"""Which of the candidates; those that can succeed come more often than the others."""


def info_of(place: Place) -> int:
    """The page info operand of a place."""
    slot, index = place
    return slot * SIZE_2M | 1 if index is None else slot * SIZE_2M + index * PAGE_SIZE


class AcceptOnce:
    """A guest that accepts one page and halts."""

    def __init__(self, info: int) -> None:
        self.info = info
        self.status: int | None = None

    def run(self, tdcall: TdCall, access: object, exits: TdxModuleArgs) -> int:
        self.status = tdcall(TDG_MEM_PAGE_ACCEPT, TdxModuleArgs.of(rcx=self.info))
        return EXIT_REASON_HLT


def merged(entry: Entry) -> Entry | None:
    """The first page of a table that is one 2M page in all but name, else None."""
    first = (entry.children or {}).get(0)
    if first is None or first.page % SIZE_2M:
        return None
    wanted = ((first.page + i * PAGE_SIZE, first.state, False) for i in range(512))
    table = (entry.children or {}).get
    found = ((e.page, e.state, e.blocked) if (e := table(i)) else None for i in range(512))
    return first if all(a == b for a, b in zip(wanted, found, strict=True)) else None


class Lives(RuleBasedStateMachine):
    """Every rule makes one SEAMCALL; the oracle says beforehand whether it may succeed."""

    @initialize(
        release=st.sampled_from(["1.5.25", "2.0.08", "2.0.18"]), finalize_second=st.booleans()
    )
    def start(self, release: str, finalize_second: bool) -> None:
        self.rig = Rig(release=release)
        self.view = ModuleView(self.rig.module)
        self.memory = NaiveMemory()
        self.tds = []
        self.spare_pairs: list[tuple[int, int]] = []
        for number, hkid in enumerate(HKIDS):
            base = FIRST + number * SIZE_2M
            runs = number == 0 or finalize_second
            tdr = self.rig.make_td(base, hkid, finalize=runs)
            self.memory.pairs[base] = (0, 0)
            self.memory.used.update(self.view_pages(base))
            td = NaiveTd(tdr, runs)
            td.slots[0] = Entry(base + 65 * PAGE_SIZE, MAPPED, {})
            self.tds.append(td)

    def view_pages(self, region: int) -> set[int]:
        return {page << 12 for page in self.view.pages_in_use(region >> 21)}

    def call(self, number: int, allowed: bool, **registers: int) -> TdxModuleArgs | None:
        status, args = self.rig.call(number, **registers)
        assert (status == TDX_SUCCESS) == allowed, f"{leaf.LEAF_NAMES[number]}: {status:#x}"
        return args if allowed else None

    def call_td(
        self, number: int, td: NaiveTd, place: Place, allowed: bool, **more: int
    ) -> TdxModuleArgs | None:
        return self.call(number, allowed, rcx=info_of(place), rdx=td.tdr, **more)

    def place(self, td: NaiveTd, pick: int, likely: Callable[[Entry], bool]) -> Place:
        """Some place; likelier one whose entry is ``likely``."""
        found = [at for at in GRID if (entry := td.find(*at)) and likely(entry)]
        candidates = found * 6 + GRID
        return candidates[pick % len(candidates)]

    def hole(self, td: NaiveTd, pick: int, index: bool) -> Place:
        """Some place for a 4K page or a slot; likelier a free one."""
        grid = [at for at in GRID if (at[1] is not None) == index]
        found = [
            at for at in grid if td.find(*at) is None and (not index or td.table(at[0]) is not None)
        ]
        candidates = found * 6 + grid
        return candidates[pick % len(candidates)]

    def page(self, pick: int) -> int:
        """Some 4K page; likelier a free one."""
        candidates = [page for page in POOL if self.memory.free_4k(page)] * 6 + POOL
        return candidates[pick % len(candidates)]

    def region(self, pick: int) -> int:
        """Some 2M region; likelier a free one."""
        regions = [*LARGE, SHARED_REGION]
        candidates = [region for region in LARGE if self.memory.free_2m(region)] * 6 + regions
        return candidates[pick % len(candidates)]

    def pair(self) -> tuple[int, int]:
        return self.spare_pairs.pop() if self.spare_pairs else self.rig.take_pair()

    def free(self, page: int, shown: int) -> None:
        """A 4K page has gone: the register names it, with the hint when it was the last."""
        self.memory.used.remove(page)
        assert shown == page | (REMOVAL_HINT if self.memory.hint(page) else 0)

    # Pairs.

    @rule(pick=picks)
    def pamt_add(self, pick: int) -> None:
        region = self.region(pick)
        pair = self.pair()
        allowed = region not in self.memory.pairs and region not in self.memory.large
        args = self.call(leaf.TDH_PHYMEM_PAMT_ADD, allowed, rcx=region | 1, rdx=pair[0], r8=pair[1])
        if args:
            self.memory.add_pair(region, pair)
        else:
            self.spare_pairs.append(pair)

    @rule(pick=picks)
    def pamt_remove(self, pick: int) -> None:
        region = [*LARGE, SHARED_REGION][pick % 4]
        allowed = region in self.memory.pairs and self.memory.hint(region)
        args = self.call(leaf.TDH_PHYMEM_PAMT_REMOVE, allowed, rcx=region | 1)
        if args:
            assert (args.rdx, args.r8) == self.memory.remove_pair(region)
            self.spare_pairs.append((args.rdx, args.r8))

    # Pages.

    @rule(which=tds, at=picks, pick=picks)
    def aug_4k(self, which: int, at: int, pick: int) -> None:
        td = self.tds[which]
        slot, index = place = self.hole(td, at, index=True)
        page = self.page(pick)
        table = td.table(slot)
        allowed = table is not None and index not in table and self.memory.free_4k(page)
        if self.call_td(leaf.TDH_MEM_PAGE_AUG, td, place, allowed, r8=page):
            assert table is not None
            assert index is not None
            table[index] = Entry(page, PENDING)
            self.memory.used.add(page)

    @rule(which=tds, at=picks, pick=picks)
    def aug_2m(self, which: int, at: int, pick: int) -> None:
        td = self.tds[which]
        slot, _ = place = self.hole(td, at, index=False)
        region = self.region(pick)
        allowed = slot not in td.slots and self.memory.free_2m(region)
        if self.call_td(leaf.TDH_MEM_PAGE_AUG, td, place, allowed, r8=region):
            td.slots[slot] = Entry(region, PENDING)
            self.memory.large.add(region)

    @rule(which=tds, at=picks)
    def block(self, which: int, at: int) -> None:
        td = self.tds[which]
        place = self.place(td, at, lambda entry: not entry.blocked)
        entry = td.find(*place)
        allowed = entry is not None and not entry.blocked
        if self.call_td(leaf.TDH_MEM_RANGE_BLOCK, td, place, allowed):
            assert entry is not None
            entry.blocked, entry.tracked = True, False

    @rule(which=tds)
    def track(self, which: int) -> None:
        self.call(leaf.TDH_MEM_TRACK, True, rcx=self.tds[which].tdr)
        self.tds[which].track()

    @rule(which=tds, at=picks)
    def block_and_track(self, which: int, at: int) -> None:
        self.block(which, at)
        self.track(which)

    @rule(which=tds, at=picks)
    def unblock(self, which: int, at: int) -> None:
        td = self.tds[which]
        place = self.place(td, at, lambda entry: entry.blocked)
        entry = td.find(*place)
        allowed = entry is not None and entry.blocked and td.removable(entry)
        if self.call_td(leaf.TDH_MEM_RANGE_UNBLOCK, td, place, allowed):
            assert entry is not None
            entry.blocked = False

    @rule(which=tds, at=picks)
    def remove(self, which: int, at: int) -> None:
        td = self.tds[which]
        place = self.place(td, at, lambda entry: entry.leaf and td.removable(entry))
        entry = td.find(*place)
        allowed = entry is not None and entry.leaf and td.removable(entry)
        args = self.call_td(leaf.TDH_MEM_PAGE_REMOVE, td, place, allowed)
        if args:
            assert entry is not None
            td.drop(*place)
            if place[1] is None:
                self.memory.large.remove(entry.page)
                assert args.rcx == entry.page
            else:
                self.free(entry.page, args.rcx)

    @rule(which=tds, at=picks, pick=picks)
    def relocate(self, which: int, at: int, pick: int) -> None:
        td = self.tds[which]
        place = self.place(td, at, lambda entry: entry.leaf and td.removable(entry))
        if place[1] is None:
            return
        page = self.page(pick)
        entry = td.find(*place)
        allowed = entry is not None and td.removable(entry) and self.memory.free_4k(page)
        args = self.call_td(leaf.TDH_MEM_PAGE_RELOCATE, td, place, allowed, r8=page)
        if args:
            assert entry is not None
            old, entry.page, entry.blocked = entry.page, page, False
            self.memory.used.add(page)
            self.free(old, args.rcx)

    @rule(at=picks)
    def accept(self, at: int) -> None:
        td = self.tds[0]
        place = self.place(td, at, lambda entry: entry.state == PENDING)
        guest = AcceptOnce(info_of(place))
        tdvpr = self.rig.tdvpr(td.tdr)
        self.rig.module.attach_guest(tdvpr, guest)
        reason, _ = self.rig.call(leaf.TDH_VP_ENTER, rcx=tdvpr)
        large = td.slots.get(place[0])
        entry = td.find(*place)
        if entry and entry.leaf and entry.state == PENDING and not entry.blocked:
            assert guest.status == TDX_SUCCESS
            entry.state = MAPPED
        elif place[1] is None and entry and not entry.leaf:
            assert guest.status == TDX_PAGE_SIZE_MISMATCH | 1
        elif any(e and e.leaf and e.state == MAPPED and not e.blocked for e in (large, entry)):
            assert guest.status is not None
            assert guest.status & STATUS_MASK == TDX_PAGE_ALREADY_ACCEPTED
        else:
            assert guest.status is None
            assert reason == EXIT_REASON_EPT_VIOLATION
            return
        assert reason == EXIT_REASON_HLT

    # S-EPT pages.

    @rule(which=tds, at=picks, pick=picks)
    def sept_add(self, which: int, at: int, pick: int) -> None:
        td = self.tds[which]
        slot, _ = place = self.hole(td, at, index=False)
        page = self.page(pick)
        allowed = slot not in td.slots and self.memory.free_4k(page)
        if self.call_td(leaf.TDH_MEM_SEPT_ADD, td, place, allowed, r8=page):
            td.slots[slot] = Entry(page, MAPPED, {})
            self.memory.used.add(page)

    @rule(which=tds, at=picks)
    def sept_remove(self, which: int, at: int) -> None:
        td = self.tds[which]
        slot, _ = self.place(td, at, lambda entry: entry.children == {})
        entry = td.slots.get(slot)
        allowed = entry is not None and entry.children == {} and td.removable(entry)
        args = self.call_td(leaf.TDH_MEM_SEPT_REMOVE, td, (slot, None), allowed)
        if args:
            assert entry is not None
            del td.slots[slot]
            self.free(entry.page, args.rcx)

    @rule(which=tds, at=picks, pick=picks)
    def demote(self, which: int, at: int, pick: int) -> None:
        td = self.tds[which]
        slot, _ = self.place(td, at, lambda entry: entry.page in self.memory.large)
        page = self.page(pick)
        entry = td.slots.get(slot)
        pair = self.pair()
        allowed = (
            entry is not None and entry.leaf and td.removable(entry) and self.memory.free_4k(page)
        )
        done = self.call_td(
            leaf.TDH_MEM_PAGE_DEMOTE, td, (slot, None), allowed, r8=page, r12=pair[0], r13=pair[1]
        )
        if not done:
            self.spare_pairs.append(pair)
            return
        assert entry is not None
        small = {i: entry.page + i * PAGE_SIZE for i in range(512)}
        children = {i: Entry(at, entry.state) for i, at in small.items()}
        td.slots[slot] = Entry(page, MAPPED, children)
        self.memory.large.remove(entry.page)
        self.memory.add_pair(entry.page, pair)
        self.memory.used.update(small.values())
        self.memory.used.add(page)

    @rule(at=picks, pick=picks)
    def split(self, at: int, pick: int) -> None:
        """A 2M page made, blocked and demoted: what seldom comes about by itself."""
        self.aug_2m(0, at, pick)
        td = self.tds[0]
        for slot, entry in list(td.slots.items()):
            if entry.leaf and not entry.blocked:
                self.call_td(leaf.TDH_MEM_RANGE_BLOCK, td, (slot, None), True)
                entry.blocked, entry.tracked = True, False
        self.track(0)
        self.demote(0, at, pick)

    @rule(which=tds, at=picks)
    def promote(self, which: int, at: int) -> None:
        td = self.tds[which]
        slot, _ = self.place(td, at, lambda entry: entry.children is not None and entry.blocked)
        entry = td.slots.get(slot)
        first = merged(entry) if entry else None
        allowed = entry is not None and first is not None and td.removable(entry)
        args = self.call_td(leaf.TDH_MEM_PAGE_PROMOTE, td, (slot, None), allowed)
        if args:
            assert entry is not None
            assert first is not None
            td.slots[slot] = Entry(first.page, first.state)
            self.memory.used -= {first.page + i * PAGE_SIZE for i in range(512)}
            self.memory.large.add(first.page)
            assert (args.r12, args.r13) == self.memory.remove_pair(first.page)
            self.spare_pairs.append((args.r12, args.r13))
            self.free(entry.page, args.rcx)

    @rule(at=picks)
    def join(self, at: int) -> None:
        """A table that could be merged, blocked and promoted."""
        td = self.tds[0]
        for slot, entry in list(td.slots.items()):
            if merged(entry) and not entry.blocked:
                self.call_td(leaf.TDH_MEM_RANGE_BLOCK, td, (slot, None), True)
                entry.blocked, entry.tracked = True, False
        self.track(0)
        self.promote(0, at)

    # What holds after each of them.

    @invariant()
    def the_module_agrees(self) -> None:
        assert self.view.check() == []
        assert {page << 12 for page in self.view.used_pages()} == self.memory.used
        assert {page << 12 for page in self.view.large_pages(1)} == self.memory.large

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        for td in self.tds:
            self.rig.must(leaf.TDH_VP_FLUSH, rcx=self.rig.tdvpr(td.tdr))
            self.rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=td.tdr)
            self.rig.must(leaf.TDH_PHYMEM_CACHE_WB)
            self.rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=td.tdr)
        tdrs = {td.tdr for td in self.tds}
        for page in sorted(self.memory.used - tdrs) + sorted(self.memory.large) + sorted(tdrs):
            self.rig.must(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=page)
        assert self.view.used_pages() == {}
        for region in self.memory.pairs:
            self.rig.must(leaf.TDH_PHYMEM_PAMT_REMOVE, rcx=region | 1)
        assert self.view.pairs() == {}
        assert self.view.check() == []


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
