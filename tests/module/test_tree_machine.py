"""A hypothesis state machine on the module: any call, and after each step the whole tree checked.

Where the fuzzer (``fuzz.py``) makes calls by the hundred thousand and looks after each at what it
has changed, this one makes thousands, looks at everything after each step (every law of the view,
every S-EPT, every lock, RDMD of every page that means anything) and shrinks what it finds.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, NULL_PA, PAGE_SIZE, PT_PAMT, SIZE_2M
from dpamt.abi.status import STATUS_MASK, TDX_EPT_WALK_FAILED
from dpamt.module.releases import RELEASES
from dpamt.sync import EXCLUSIVE, SHARED
from tests.module.fuzz_noise import ENDS, IN_TD, NUMBERS, OPERANDS
from tests.module.fuzz_watch import TreeWatch
from tests.module.fuzz_world import Call, Enter, Hold, Knob, Operation, OpState, Release, World
from tests.module.rig import FIRST, PAIRS, RESERVED, SOURCE, params_of
from tests.module.spoils import SPOILS, Spoil

SHARED_REGIONS = [FIRST, FIRST + SIZE_2M, FIRST + 2 * SIZE_2M, RESERVED]
"""Two of them hold the control pages of a TD each; memory of both may lie in any."""
WHOLE_REGIONS = [FIRST + n * SIZE_2M for n in (2, 4, 5)]
REGIONS = SHARED_REGIONS + WHOLE_REGIONS[1:]
OFFSETS = (0, 1, 2, 40, 65, 66, 67, 100, 101, 255, 256, 510, 511)
PAGES = [region + n * PAGE_SIZE for region in SHARED_REGIONS for n in OFFSETS]
PAIR_PAGES = [
    *(PAIRS + n * PAGE_SIZE for n in range(6)),
    *(FIRST, FIRST + 2 * SIZE_2M + PAGE_SIZE, WHOLE_REGIONS[1], WHOLE_REGIONS[2] + 9 * PAGE_SIZE),
]
"""Free ones; a TDR, a page for TD memory, and pages of regions that may become 2M pages."""
SLOTS = (0, SIZE_2M)
GPAS = [slot + n * PAGE_SIZE for slot in SLOTS for n in (0, 1, 255, 511)]
CPUS = st.integers(0, 3)
REGION = st.sampled_from(REGIONS)
PAGE = st.sampled_from(PAGES)
PAIR = st.tuples(st.sampled_from(PAIR_PAGES), st.sampled_from(PAIR_PAGES))
TD = st.integers(0, 1)
INFO = st.sampled_from(GPAS) | st.sampled_from([slot | 1 for slot in SLOTS] + [2, 3])
WHO = st.integers(0, 2)
APT = st.sampled_from([True, True, True, False])
HOW = st.sampled_from([SHARED, EXCLUSIVE])
_MEANT = st.sampled_from(
    [
        *(*PAGES, *PAIR_PAGES, *GPAS),
        *(region | LEVEL_2M for region in REGIONS),
        *(0, 1, 2, 3, 5, NULL_PA, SOURCE, params_of(0), params_of(1)),
    ]
)
MALFORMED = st.integers(0, (1 << 64) - 1) | st.builds(
    lambda value, bit: value ^ 1 << bit, _MEANT, st.integers(0, 63)
)
REGISTER = _MEANT | _MEANT | MALFORMED


def _next(value: int, values: list[int], good: Callable[[int], bool]) -> int:
    """The first good one from ``value`` on, round about; ``value`` where none is."""
    start = values.index(value)
    return next((v for v in values[start:] + values[:start] if good(v)), value)


class TreeMachine(RuleBasedStateMachine):
    """Two TDs on a module, four processors, and three other CPUs that hold locks."""

    world: World
    tdrs: list[int]
    tdvprs: list[int]
    finalized: bool

    @initialize(
        mode=st.sampled_from([True, True, True, False]),
        release=st.sampled_from(list(RELEASES)),
        l2_vms=st.sampled_from([0, 0, 1, 2]),
        finalize=st.booleans(),
        with_pair=st.lists(st.sampled_from([RESERVED, *WHOLE_REGIONS]), max_size=2, unique=True),
        mapped=st.booleans(),
    )
    def begin(
        self,
        mode: bool,
        release: str,
        l2_vms: int,
        finalize: bool,
        with_pair: list[int],
        mapped: bool,
    ) -> None:
        world = World(mode, release)
        rig = world.rig
        self.l2_vms = l2_vms
        self.tdrs = [
            rig.make_td(FIRST, rig.hkid + 1, finalize, l2_vms),
            rig.make_td(FIRST + SIZE_2M, rig.hkid + 2, True),
        ]
        self.tdvprs = [rig.tdvpr(self.tdrs[0], l2_vms), rig.tdvpr(self.tdrs[1])]
        world.tdrs = {self.tdrs[0]: rig.hkid + 1, self.tdrs[1]: rig.hkid + 2}
        world.tdvprs = dict(zip(self.tdvprs, self.tdrs, strict=True))
        for region in with_pair:
            rig.add_pair(region)
        if mapped and WHOLE_REGIONS[1] not in with_pair:
            aug = {"rcx": SIZE_2M | LEVEL_2M, "rdx": self.tdrs[1], "r8": WHOLE_REGIONS[1]}
            rig.must(leaf.TDH_MEM_PAGE_AUG, **aug)
        world.watch = TreeWatch(rig.module)
        self.world = world

    def teardown(self) -> None:
        """When the others let go, nothing is locked any more."""
        if hasattr(self, "world"):
            self.world.release_others()
            self.whole()

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "world"):
            self.world.check(rdmd_everywhere=True)
            if self.world.broken:
                raise AssertionError("\n".join(self.world.broken[:3]))

    def do(self, operation: Operation) -> int:
        """An operation that must leave the tree whole; its status."""
        try:
            status, _ = self.world.play(operation, watched=isinstance(operation, Call))
        except Exception as error:
            self.world.broken.append(f"{operation} raised {type(error).__name__}: {error}")
        self.whole()
        return status

    def call(self, number: int, *registers: int, version: int = 0, cpu: int = 0) -> int:
        return self.do(Call(number, (registers + (0,) * 8)[:8], version, cpu))

    # Operands: as drawn, or with ``apt`` the next of their kind with which a call may succeed.

    def _free(self, page: int) -> bool:
        """Backed and free."""
        return self.world.watch.shown(page >> 12) == (0, 0, LEVEL_4K)

    def _bare(self, region: int) -> bool:
        """Free, without a pair and without a page in use or with a bit."""
        known = self.world.watch.regions.get(region >> 21)
        return known is None or not (known.node or known.bits)

    def _emptied(self, region: int) -> bool:
        known = self.world.watch.regions.get(region >> 21)
        return known is not None and known.node == PT_PAMT and not known.used

    def page(self, page: int, apt: bool) -> int:
        return _next(page, PAGES, self._free) if apt else page

    def pair(self, pair: tuple[int, int], apt: bool) -> tuple[int, int]:
        if not apt:
            return pair
        first = _next(pair[0], PAIR_PAGES, lambda page: not self._marked(page))
        return first, _next(pair[1], PAIR_PAGES, lambda p: p != first and not self._marked(p))

    def _marked(self, page: int) -> bool:
        known = self.world.watch.regions.get(page >> 21)
        return known is not None and bool((known.bits | known.used) >> (page >> 12 & 511) & 1)

    # Anything.

    @rule(
        number=st.sampled_from([n for n in NUMBERS if n not in ENDS and n != leaf.TDH_VP_ENTER]),
        registers=st.tuples(*[REGISTER] * 8),
        td=st.sampled_from([0, 0, 1, 1, 2]),
        version=st.sampled_from([0, 0, 0, 1, 1, 2]),
        cpu=CPUS,
    )
    def any_call(
        self, number: int, registers: tuple[int, ...], td: int, version: int, cpu: int
    ) -> None:
        """Mostly with a TD where the leaf wants one: else nothing comes past the first check."""
        values = list(registers)
        for at, kind in enumerate(OPERANDS.get(number, IN_TD)):
            if td < 2 and kind == 1:
                values[at] = self.tdrs[td]
            elif td < 2 and kind == 2:
                values[at] = self.tdvprs[td]
        self.call(number, *values, version=version, cpu=cpu)

    # What hosts do.

    @rule(region=REGION, pair=PAIR, cpu=CPUS, apt=APT)
    def add_pair(self, region: int, pair: tuple[int, int], cpu: int, apt: bool) -> None:
        if apt:
            region = _next(region, REGIONS, self._bare)
        self.call(leaf.TDH_PHYMEM_PAMT_ADD, region | LEVEL_2M, *self.pair(pair, apt), cpu=cpu)

    @rule(region=REGION, pair=PAIR, back=st.booleans(), apt=APT)
    def remove_pair(self, region: int, pair: tuple[int, int], back: bool, apt: bool) -> None:
        if apt:
            region = _next(region, REGIONS, self._emptied)
        self.call(leaf.TDH_PHYMEM_PAMT_REMOVE, region | LEVEL_2M)
        if back:
            self.call(leaf.TDH_PHYMEM_PAMT_ADD, region | LEVEL_2M, *self.pair(pair, apt))

    @rule(td=TD, gpa=st.sampled_from(GPAS), page=PAGE, cpu=CPUS, apt=APT)
    def aug(self, td: int, gpa: int, page: int, cpu: int, apt: bool) -> None:
        """Of 4K; where the table is not there, it is added."""
        tdr = self.tdrs[td]
        status = self.call(leaf.TDH_MEM_PAGE_AUG, gpa, tdr, self.page(page, apt), cpu=cpu)
        if status & STATUS_MASK == TDX_EPT_WALK_FAILED and apt:
            self.call(leaf.TDH_MEM_SEPT_ADD, gpa & -SIZE_2M | 1, tdr, self.page(page, apt))

    @rule(gpa=st.sampled_from(GPAS), page=PAGE, apt=APT)
    def add(self, gpa: int, page: int, apt: bool) -> None:
        self.call(leaf.TDH_MEM_PAGE_ADD, gpa, self.tdrs[0], self.page(page, apt), SOURCE)

    def quiet(self, td: int, info: int) -> None:
        self.call(leaf.TDH_MEM_RANGE_BLOCK, info, self.tdrs[td])
        self.call(leaf.TDH_MEM_TRACK, self.tdrs[td])

    @rule(td=TD, info=INFO, blocked=st.sampled_from([True, True, False]))
    def remove(self, td: int, info: int, blocked: bool) -> None:
        if blocked:
            self.quiet(td, info)
        self.call(leaf.TDH_MEM_PAGE_REMOVE, info, self.tdrs[td])

    @rule(td=TD, gpa=st.sampled_from(GPAS), page=PAGE, apt=APT)
    def relocate(self, td: int, gpa: int, page: int, apt: bool) -> None:
        self.quiet(td, gpa)
        self.call(leaf.TDH_MEM_PAGE_RELOCATE, gpa, self.tdrs[td], self.page(page, apt))

    @rule(td=TD, slot=st.sampled_from(SLOTS), version=st.integers(0, 1))
    def remove_table(self, td: int, slot: int, version: int) -> None:
        for gpa in GPAS:
            if gpa & -SIZE_2M == slot:
                self.quiet(td, gpa)
                self.call(leaf.TDH_MEM_PAGE_REMOVE, gpa, self.tdrs[td])
        self.quiet(td, slot | 1)
        self.call(leaf.TDH_MEM_SEPT_REMOVE, slot | 1, self.tdrs[td], version=version)

    @rule(
        td=TD,
        region=st.sampled_from(WHOLE_REGIONS),
        tables=st.lists(PAGE, min_size=4, max_size=4, unique=True),
        pair=PAIR,
        again=st.booleans(),
        apt=APT,
    )
    def split(
        self,
        td: int,
        region: int,
        tables: list[int],
        pair: tuple[int, int],
        again: bool,
        apt: bool,
    ) -> None:
        """A 2M page, DEMOTE, and PROMOTE again."""
        tdr, info = self.tdrs[td], SIZE_2M | LEVEL_2M
        if apt:
            region = _next(region, WHOLE_REGIONS, self._bare)
        self.call(leaf.TDH_MEM_PAGE_AUG, info, tdr, region)
        self.quiet(td, info)
        l2_vms = self.l2_vms if td == 0 else 0
        pages = [NULL_PA] * 4
        for vm in range(l2_vms + 1):
            pages[vm] = self.page(tables[vm], apt)
        self.call(leaf.TDH_MEM_PAGE_DEMOTE, info, tdr, *pages, *self.pair(pair, apt))
        if again:
            self.quiet(td, info)
            self.call(leaf.TDH_MEM_PAGE_PROMOTE, info, tdr)

    @rule(
        td=TD,
        infos=st.lists(INFO, max_size=3),
        kind=st.sampled_from(["accept", "access", "call"]),
        page=PAGE,
        cpu=CPUS,
    )
    def enter(self, td: int, infos: list[int], kind: str, page: int, cpu: int) -> None:
        """A guest, and another CPU's AUG while it runs."""
        steps: list[tuple[str, int] | Call] = []
        for info in infos:
            if kind == "call":
                registers = (info & -PAGE_SIZE, self.tdrs[td], page, 0, 0, 0, 0, 0)
                steps.append(Call(leaf.TDH_MEM_PAGE_AUG, registers, cpu=(cpu + 1) % 4))
            else:
                steps.append((kind, info))
        self.do(Enter(cpu, self.tdvprs[td], tuple(steps)))

    @rule(td=TD, pages=st.lists(PAGE, max_size=8))
    def tear_down(self, td: int, pages: list[int]) -> None:
        """The end of a TD; some of its pages come back, in any order."""
        lp = self.world.module.tds.vcpu(self.tdvprs[td] >> 12).lp.load()
        self.call(leaf.TDH_VP_FLUSH, self.tdvprs[td], cpu=max(lp - 1, 0))
        self.call(leaf.TDH_MNG_VPFLUSHDONE, self.tdrs[td])
        for cpu in self.world.rig.one_cpu_of_each_package():
            self.call(leaf.TDH_PHYMEM_CACHE_WB, cpu=cpu)
        self.call(leaf.TDH_MNG_KEY_FREEID, self.tdrs[td])
        for page in pages:
            self.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, page)
        for owned in range(self.tdrs[td] + 70 * PAGE_SIZE, self.tdrs[td] - PAGE_SIZE, -PAGE_SIZE):
            if owned >> 12 & 511 in (*OFFSETS, *range(1, 20)):
                self.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, owned)

    # What gets in the way.

    @rule(who=WHO, page=PAGE, how=HOW, level=st.integers(0, 1))
    def hold_page(self, who: int, page: int, how: int, level: int) -> None:
        self.do(Hold(who, "page", (page, how, level)))

    @rule(who=WHO, td=TD, how=HOW, tree=st.sampled_from([-1, SHARED, EXCLUSIVE]), info=INFO)
    def hold_td(self, who: int, td: int, how: int, tree: int, info: int) -> None:
        self.do(Hold(who, "td", (self.tdrs[td], how, tree, info)))

    @rule(who=WHO, what=st.sampled_from(["kot", "ket", "wbcache", "tdmr", "global"]), how=HOW)
    def hold_other(self, who: int, what: str, how: int) -> None:
        self.do(Hold(who, what, (how, 1)))

    @rule(who=WHO)
    def let_go(self, who: int) -> None:
        self.do(Release(who))

    @rule(name=st.sampled_from(["interrupt_pending", "entropy_available"]), value=st.booleans())
    def turn(self, name: str, value: bool) -> None:
        self.do(Knob(name, value))

    @rule(td=TD, state=st.sampled_from([2, 2, 3, 4, 5, 8, 9, 10]))
    def move(self, td: int, state: int) -> None:
        self.do(OpState(self.tdrs[td], state))


_SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_the_tree_stays_whole_under_any_calls() -> None:
    run_state_machine_as_test(
        TreeMachine, settings=settings(max_examples=60, stateful_step_count=40, **_SETTINGS)
    )


@pytest.mark.parametrize(
    "spoil", [spoil for spoil in SPOILS if spoil.common], ids=lambda spoil: spoil.name
)
def test_it_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    spoil.into(monkeypatch)
    with pytest.raises(Exception) as caught:
        run_state_machine_as_test(
            TreeMachine,
            settings=settings(
                max_examples=120,
                stateful_step_count=40,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                **_SETTINGS,
            ),
        )
    said = f"raised {type(caught.value).__name__}: {caught.value}"
    assert any(fault in said for fault in spoil.faults), said
