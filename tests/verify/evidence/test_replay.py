"""Counterexamples on threads of the operating system: the same steps, statuses and findings."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.host.designs import merged
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.verify.evidence.counterexample import FORMAT
from dpamt.verify.evidence.replay import Replayed, replay
from dpamt.verify.learn.automaton import Automaton
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import Problem
from dpamt.verify.programs.suite import Trial, trials_of
from dpamt.verify.properties.named import LOCK_ORDER, properties
from dpamt.verify.verdict import Verdict, verify

MERGED = Path(merged.__file__).read_text(encoding="utf-8")


def trial_of(design: Design, name: str) -> Trial:
    return next(trial for trial in trials_of(design) if trial.name == name)


def kept(verdict: Verdict) -> list[dict[str, Any]]:
    """The counterexamples as they come back from a file."""
    documents: list[dict[str, Any]] = json.loads(
        json.dumps([found.as_json() for found in verdict.counterexamples], default=str)
    )
    return documents


def again(problem: Problem, design: Design, found: dict[str, Any]) -> Replayed:
    return replay(problem, properties(design.tolerated), found)


@pytest.mark.parametrize(
    ("name", "trial_name", "broken"),
    [
        ("v2", "two regions", {"bad-remove", "at-rest", "leak"}),
        ("v2", "one region", {"missing-pair", "bad-remove", "at-rest", "leak"}),
        ("v2", "faults", {"bad-remove", "at-rest"}),
        ("lazy", "words", {"fatal", "busy", "at-rest", "leak"}),
        ("v3", "no memory", {"at-rest", "bad-remove", "leak", "missing-pair"}),
        ("v5", "softirq", {"deadlock"}),
        ("v5", "demote", {"busy", "kernel"}),
        ("per-2m-rwlock", "crossed pairs", {"deadlock"}),
    ],
)
def test_what_the_search_finds_shows_on_threads(
    name: str, trial_name: str, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    design = load_design(name)
    trial = trial_of(design, trial_name)
    found = kept(verify(trial.make(design), properties(design.tolerated), trial.granularity))
    assert {one["broken"] for one in found} >= broken

    def no_automaton(*_: object) -> None:
        raise AssertionError("a replay must not learn automata")

    monkeypatch.setattr(Automaton, "__init__", no_automaton)
    for one in found:
        said = again(trial.make(design), design, one)
        assert said.departure == ""
        if one["broken"] == LOCK_ORDER:
            assert "for the search" in said.broken[LOCK_ORDER]
        else:
            assert said.broken[one["broken"]] == one["text"]
        assert said.done == sum(count for _, count in one["turns"])
        happened = {step.at: step for step in said.steps}
        for step in one["steps"]:
            now = happened[step["at"]]
            assert (now.function, now.line, now.result) == (
                step["function"],
                step["line"],
                step["result"],
            )
            if step["value"]:
                assert now.value == step["value"]
        assert {tuple(words) for words in one["shared"]} <= set(said.shared)


def two_cpus_of_v2() -> tuple[Design, dict[str, Any]]:
    design = load_design("v2")
    found = kept(verify(regions(design, (2,)), properties(design.tolerated)))
    return design, next(one for one in found if one["broken"] == "bad-remove")


def test_a_step_that_went_otherwise_is_named() -> None:
    design, found = two_cpus_of_v2()
    step = next(one for one in found["steps"] if one["method"] == "inc_not_zero")
    number = found["steps"].index(step) + 1
    assert step["result"] is False
    step["result"] = True
    said = again(regions(design, (2,)), design, found)
    assert said.departure.startswith(f"step {number}: CPU{step['cpu']} in tdx_pamt_get ")
    assert "result is False, in the counterexample True" in said.departure


def test_code_that_is_mended_no_longer_fails(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    line = "    if count > 1:\n"
    assert MERGED.count(line) == 1
    file.write_text(MERGED.replace(line, "    if count > 2:\n"), encoding="utf-8")
    broken = load_design(str(file))
    found = kept(verify(regions(broken, (2,)), properties()))
    assert found
    for one in found:
        said = again(regions(broken, (2,)), broken, one)
        assert said.departure == ""
        assert said.broken[one["broken"]] == one["text"]
        mended = load_design("merged")
        said = again(regions(mended, (2,)), mended, one)
        assert said.departure
        assert said.broken == {}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), max_size=20))
def test_merged_stands_any_schedule(turns: list[tuple[int, int]]) -> None:
    """Turns that cannot be taken are passed over; then the threads run to their ends."""
    design = load_design("merged")
    schedule: dict[str, Any] = {
        "format": FORMAT,
        "broken": "none",
        "text": "",
        "cpus": ["get, use, put in region 0"] * 3,
        "steps": [{"at": 0, "cpu": -1, "word": ""}],  # nothing is so: the schedule is left at once
        "start": [],
        "turns": turns,
        "choices": [],
    }
    said = again(regions(design, (3,)), design, schedule)
    assert said.broken == {}
    assert (said.departure != "") == bool(turns)


def test_a_lock_that_is_released_twice_is_told_at_its_step(tmp_path: Path) -> None:
    """By the search and by the threads alike; one CPU alone does not come there."""
    once = "    if count > 1:\n        refcount.add(-1)\n        lock.unlock()\n"
    assert once in MERGED
    twice = once + "        if count == 2:\n            lock.unlock()\n"
    path = tmp_path / "twice.py"
    path.write_text(MERGED.replace(once, twice), encoding="utf-8")
    design = load_design(str(path))
    said = verify(regions(design, (2,)), properties(), "seamcall")
    (found,) = (one for one in kept(said) if one["broken"] == "kernel")
    assert found["steps"][-1]["events"][0] == "misuse: dpamt_lock released while not held"
    shown = again(regions(design, (2,)), design, found)
    assert not shown.departure
    assert "kernel" in shown.broken


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"format": 1}, "format is 1; expected"),
        ({"turns": [[2, 1]]}, "CPUs from 0 to 1"),
        ({"turns": None}, "turns"),
    ],
)
def test_what_is_no_counterexample_is_refused(spoilt: dict[str, Any], told: str) -> None:
    design, found = two_cpus_of_v2()
    with pytest.raises(InputError, match=told):
        again(regions(design, (2,)), design, found | spoilt)
    del found["steps"]
    with pytest.raises(InputError, match="steps is missing"):
        again(regions(design, (2,)), design, found)
