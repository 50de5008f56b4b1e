"""The fuzzer finds nothing in the module, and finds what is broken in a broken one."""

import re

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.abi.status import TDX_SUCCESS
from dpamt.module.leaves.table import ANNOUNCED, HANDLERS
from dpamt.module.pamt import Pamt
from tests.module import fuzz
from tests.module.fuzz import FuzzError, Ground, episode, ground_of, run
from tests.module.fuzz_host import Hosts
from tests.module.fuzz_world import Operation
from tests.module.spoils import SPOILS, Spoil

CALLS = 100_000
LESS = {leaf.TDH_VP_ENTER, leaf.TDH_SYS_SHUTDOWN, leaf.TDH_SYS_UPDATE}
"""VP.ENTER does not end in TDX_SUCCESS but by chance, SHUTDOWN would end the episode; there is no
module to UPDATE to."""


def test_a_hundred_thousand_calls() -> None:
    """Every leaf is done and refused in it, in many ways, and nothing is found."""
    totals = run(CALLS, seed=0)
    assert totals.calls >= CALLS
    for number in set(HANDLERS) - set(ANNOUNCED):
        statuses = totals.statuses(number)
        assert len(statuses) > 1, leaf.LEAF_NAMES[number]
        assert TDX_SUCCESS in statuses or number in LESS, leaf.LEAF_NAMES[number]
    assert len({status for _, status in totals.answers}) > 45


def test_seeds_reach_every_ground_and_repeat_themselves() -> None:
    grounds = {ground_of(seed) for seed in range(24)}
    assert {(g.dynamic, g.release) for g in grounds if g.started} == {
        (dynamic, release)
        for dynamic in (False, True)
        for release in ("1.5.25", "2.0.08", "2.0.18")
    }
    assert Ground(True, "1.5.25", True) in grounds
    assert episode(5).answers == episode(5).answers


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.name)
def test_a_broken_module_is_found_and_the_trail_is_short(
    monkeypatch: pytest.MonkeyPatch, spoil: Spoil
) -> None:
    monkeypatch.setattr(fuzz, "SHRINK_SECONDS", 60.0)
    spoil.into(monkeypatch)
    with pytest.raises(FuzzError) as caught:
        run(40_000, seed=0)
    assert any(fault in caught.value.fault for fault in spoil.faults), caught.value.fault
    assert len(caught.value.trail) < PAGES_PER_2M
    assert re.match(r"seed \d+ \(release ", str(caught.value))


def test_a_fault_is_seen_after_the_call_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not operations later: the last call of the unshortened trail is the guilty one."""
    guilty: list[Operation] = []
    add = Pamt.take_pair_page

    def take_pair_page(self: Pamt, page: int) -> bool:
        taken = add(self, page)
        if world.calls > 300 and taken and not guilty:
            guilty.append(trail[-1])
            self.region(page >> 9).bitmap.set_bits(1 << 77)
        return taken

    monkeypatch.setattr(Pamt, "take_pair_page", take_pair_page)
    world = Ground(True, "2.0.18", True).world()
    trail: list[Operation] = []
    hosts = Hosts(world, 3)
    while not world.broken:
        trail.append(hosts.next())
        hosts.told(world.play(trail[-1]))
    assert guilty == [trail[-1]]
    assert "bitmap and pairs and reserved pages differ in" in world.broken[0]
