"""Two SEAMCALLs at once: what was recorded is reached, and the search loses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dpamt.abi.sept import DETAILS_STATE_SHIFT
from dpamt.abi.states import SEPT_FREE, SEPT_PENDING_BLOCKED
from dpamt.abi.status import status_name
from dpamt.sync.observed import ObservedShared
from dpamt.trace.vector_file import Race, read_vector_file
from dpamt.trace.vector_machine import build_module
from dpamt.trace.vectors import RECORDED_RELEASE, play_before
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.problem import WORDS, Problem
from dpamt.verify.races.explored import race_setting, replay_race
from tests.verify.judge.search import Judge
from tests.verify.judge.test_every_answer import answers_of, rests_of

RACES = read_vector_file(Path(__file__).parents[2] / "data" / "module-races.jsonl").races
NAMES = [race.before.id for race in RACES]


def race_named(name: str) -> Race:
    return RACES[NAMES.index(name)]


@pytest.mark.parametrize("race", RACES, ids=NAMES)
def test_what_was_recorded_and_nothing_else(race: Race) -> None:
    """The model reaches every outcome of the real module, and no schedule gives another."""
    found = replay_race(race, RECORDED_RELEASE)
    assert found.agrees
    assert found.missed == ()
    assert found.beyond == ()
    assert found.reached == len(race.outcomes)


def setting_of(race: Race) -> Problem:
    shared = ObservedShared()
    module = build_module(race.before, RECORDED_RELEASE, shared, cpus=2)
    assert play_before(race, module).agrees
    return race_setting(race, module, shared)


@pytest.mark.parametrize("race", RACES, ids=NAMES)
def test_a_plain_search_finds_the_same(race: Race) -> None:
    """Without merged nodes and reductions: same answers, same machines at the end."""
    search = search_of(setting_of(race), (), WORDS)
    search.explore()
    judge = Judge(setting_of(race), ())
    said = judge.explore(WORDS)
    assert rests_of(search) == judge.snapshots(said.ends)
    assert answers_of(search) == said.answers


def test_an_outcome_that_the_record_lacks_is_a_disagreement() -> None:
    """The recording tried such schedules: it would have seen it."""
    race = race_named("C011")
    for missing in range(len(race.outcomes)):
        outcomes = [outcome for n, outcome in enumerate(race.outcomes) if n != missing]
        found = replay_race(replace(race, outcomes=outcomes), RECORDED_RELEASE)
        assert not found.agrees
        assert not found.missed
        (extra,) = found.beyond
        assert extra.within_bench
        assert extra.schedule.switches <= 4
        gone = race.outcomes[missing]
        assert extra.outcome.a.status == int(gone["a"]["status"], 16)
        assert extra.outcome.b.status == int(gone["b"]["status"], 16)


@pytest.mark.parametrize(
    "change",
    [("status", "0x8000020000000002"), ("rdx", "0x1234"), ("r9", "0x1"), ("status", "0x0")],
)
def test_an_outcome_that_cannot_be_is_missed(change: tuple[str, str]) -> None:
    race = race_named("C007")
    wrong = json.loads(json.dumps(race.outcomes[-1]))
    wrong["a"][change[0]] = change[1]
    found = replay_race(replace(race, outcomes=[*race.outcomes, wrong]), RECORDED_RELEASE)
    assert not found.agrees
    assert len(found.missed) == 1


def test_what_is_left_behind_is_compared() -> None:
    race = race_named("C025")
    for key, value in (("bitmap", "0x100fff000"), ("leaves_2m", "0x100000000")):
        wrong = json.loads(json.dumps(race.outcomes))
        wrong[0]["final"][key].append(value)
        found = replay_race(replace(race, outcomes=wrong), RECORDED_RELEASE)
        assert len(found.missed) == 1
        assert len(found.beyond) == 1
    wrong = json.loads(json.dumps(race.outcomes))
    wrong[0]["final"]["nodes"][0]["count"] += 1
    assert len(replay_race(replace(race, outcomes=wrong), RECORDED_RELEASE).missed) == 1


def test_a_shutdown_that_the_record_lacks_is_told() -> None:
    race = race_named("C021")
    outcomes = [outcome for outcome in race.outcomes if not outcome["b"].get("fatal")]
    (extra,) = replay_race(replace(race, outcomes=outcomes), RECORDED_RELEASE).beyond
    assert extra.outcome.b.event == "shutdown of the module"
    assert extra.outcome.a.event == "unfinished"
    assert extra.outcome.left is None
    assert any("page count" in event for event in extra.schedule.steps[-1].events)


def test_another_release_goes_its_own_way() -> None:
    """Where the calls that lead there already differ nothing is explored."""
    found = replay_race(race_named("C015"), "2.0.18")
    assert not found.agrees
    assert found.before.difference is not None
    assert found.states == 0


def test_two_removes_of_one_page() -> None:
    """The later one finds the entry free, or locked and then as its walk read it: never both.

    Source: Intel's module writes an entry's new state and drops its lock in one atomic store, and
    shows a busy entry as it was before the attempt (reference d.1, seen November 2026).
    """
    race = race_named("C021")
    found = replay_race(replace(race, b=race.a, outcomes=[]), RECORDED_RELEASE)
    said = {
        frozenset(
            (status_name(end.status), shown_state(dict(end.registers)["rdx"]) if end.status else "")
            for end in (extra.outcome.a, extra.outcome.b)
        )
        for extra in found.beyond
    }
    assert said == {
        frozenset({("TDX_SUCCESS", ""), ("TDX_EPT_ENTRY_STATE_INCORRECT", "FREE")}),
        frozenset({("TDX_SUCCESS", ""), ("TDX_OPERAND_BUSY", "BLOCKED")}),
    }
    assert found.reached == 4


def shown_state(details: int) -> str:
    return {SEPT_FREE: "FREE", SEPT_PENDING_BLOCKED: "BLOCKED"}[
        details >> DETAILS_STATE_SHIFT & 0xFF
    ]
