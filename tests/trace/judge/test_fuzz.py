"""The judge beside the module's fuzzer: whatever random hosts do, no true answer is impossible."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from dpamt.abi.leaves import RAX_VERSION_SHIFT
from dpamt.trace.judge.findings import IMPOSSIBLE
from dpamt.trace.judge.judge import Judge
from dpamt.trace.recording.model import Call, Health
from tests.module import fuzz
from tests.module.fuzz_world import World


def judged_episode(
    monkeypatch: pytest.MonkeyPatch, seed: int, change: Callable[[Any, int], int] | None = None
) -> tuple[Judge, World]:
    """An episode with every call given to a judge; ``change`` falsifies a status."""
    judge = Judge(Health())
    ground = fuzz.ground_of(seed)
    if ground.started:
        judge.state.begin(ground.dynamic)
    play = World._call
    times = count(1_000_000, 1000)

    def recorded(world: World, call: Any) -> Any:
        start = next(times)
        status, after = play(world, call)
        told = status if change is None else change(call, status)
        rax = call.number | call.version << RAX_VERSION_SHIFT
        judge.take(
            Call(
                *(start, next(times), call.cpu, 0, b"", rax),
                *(tuple(call.registers), told, tuple(after), b""),
            )
        )
        return status, after

    monkeypatch.setattr(World, "_call", recorded)
    # Checks of the fuzzer's own are not what is looked at here.
    monkeypatch.setattr(fuzz, "CHECK_EVERY", 1 << 30)
    world = fuzz.episode(seed)
    judge.judgement("boot", "fuzz")
    return judge, world


@pytest.mark.parametrize("seed", range(8))
def test_no_true_answer_is_impossible(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    judge, world = judged_episode(monkeypatch, seed)
    wrong = [one for one in judge.findings.first if one.kind == IMPOSSIBLE]
    assert wrong == []
    assert judge.undecided == 0
    if world.module.pamt.dynamic:
        known = {index for index, region in judge.state.regions.items() if region.state == 2}
        assert known == set(world.view.pairs())


def test_answers_that_are_false_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all successful PAMT.REMOVEs are said to have failed."""
    from dpamt.abi.leaves import TDH_PHYMEM_PAMT_REMOVE
    from dpamt.abi.status import TDX_NO_PAMT_PAGE_PAIR

    seen = count()

    def change(call: Any, status: int) -> int:
        if call.number == TDH_PHYMEM_PAMT_REMOVE and not status and next(seen) % 2:
            return TDX_NO_PAMT_PAGE_PAIR | 1
        return status

    judge, _world = judged_episode(monkeypatch, 0, change)
    assert judge.findings.counts[IMPOSSIBLE] >= next(seen) // 2 > 0
