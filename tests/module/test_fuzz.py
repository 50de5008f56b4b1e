"""The fuzzer finds nothing in the module, and finds what is broken in a broken one."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.abi.status import STATUS_MASK, TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.module.leaves.table import HANDLERS
from dpamt.module.pamt import Pamt
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from tests.module import fuzz
from tests.module.fuzz import FuzzError, Ground, episode, ground_of, run

CALLS = 100_000
LESS = {leaf.TDH_VP_ENTER, leaf.TDH_SYS_SHUTDOWN}
"""VP.ENTER does not end in TDX_SUCCESS but by chance, SHUTDOWN would end the episode."""


def test_a_hundred_thousand_calls() -> None:
    """Every leaf is done and refused in it, in many ways, and nothing is found."""
    totals = run(CALLS, seed=0)
    assert totals.calls >= CALLS
    for number in HANDLERS:
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


def uncounted(method: Callable[..., int]) -> Callable[..., int]:
    """Every so many frees the count is forgotten."""

    def free_4k(self: Pamt, page: int) -> int:
        hint = method(self, page)
        if page % 7 == 0:
            self.regions[page >> 9].count.add(1)
        return hint

    return free_4k


def shy(method: Callable[..., int]) -> Callable[..., int]:
    """A lock stays behind where a call was busy."""

    def seamcall(self: LogicalProcessor, rax: int, args: Any) -> int:
        status = method(self, rax, args)
        if status & STATUS_MASK == TDX_OPERAND_BUSY:
            self.module.global_lock.try_shared()
        return status

    return seamcall


def greedy(method: Callable[..., bool]) -> Callable[..., bool]:
    """A bit of the bitmap is set although the call is refused."""

    def take_pair_page(self: Pamt, page: int) -> bool:
        taken = method(self, page)
        if page % 3 == 0:
            raise Refused(TDX_OPERAND_BUSY)
        return taken

    return take_pair_page


def clumsy(method: Callable[..., int]) -> Callable[..., int]:
    def bepoch(self: Pamt, page: int, level: int) -> int:
        return [0][level] if level else method(self, page, level)

    return bepoch


@pytest.mark.parametrize(
    ("owner", "name", "spoil", "fault"),
    [
        (Pamt, "free_4k", uncounted, "PAGE_COUNT"),
        (LogicalProcessor, "seamcall", shy, "SYS 0x0: lock word"),
        (Pamt, "take_pair_page", greedy, "no pair holds it"),
        (Pamt, "bepoch", clumsy, "raised IndexError"),
    ],
)
def test_a_broken_module_is_found_and_the_trail_is_short(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    spoil: Callable[[Any], Any],
    fault: str,
) -> None:
    monkeypatch.setattr(fuzz, "SHRINK_SECONDS", 3.0)
    monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))
    with pytest.raises(FuzzError) as caught:
        run(40_000, seed=0)
    assert fault in caught.value.fault
    assert len(caught.value.trail) < PAGES_PER_2M
    assert re.match(r"seed \d+ \(release ", str(caught.value))
