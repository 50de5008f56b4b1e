"""What a verdict's headline counts is what is listed below it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.report.verify_sarif import _failing_step
from dpamt.report.verify_text import suite_text
from dpamt.verify.explore.lock_order import LockOrder


def tried(assumptions: tuple[str, ...], not_reached: tuple[str, ...], taken_up: str = "") -> Any:
    verdict = SimpleNamespace(
        verdict="holds", granularity="seamcall", states=5, seconds=0.1, counterexamples=(),
        properties={"leak": "holds"}, bounds={"design": "x"}, stopped="", taken_up=taken_up,
        lock_order=LockOrder(),
        assumptions=assumptions, not_reached=not_reached,
    )  # fmt: skip
    return SimpleNamespace(
        verdict=verdict, replayed=(), fine={}, trial=SimpleNamespace(name="one", meaning="it"),
        asked=SimpleNamespace(reductions="all", trial="one"),
    )  # fmt: skip


def said(*every: Any) -> str:
    return " ".join(suite_text("x", every).split())


@pytest.mark.parametrize("rests", [0, 1, 3])
@pytest.mark.parametrize("lines", [0, 1, 2])
def test_the_headline_counts_what_is_below(rests: int, lines: int) -> None:
    assumptions = tuple(f"assumption {n}" for n in range(rests))
    not_reached = tuple(f"x.py:{n}" for n in range(lines))
    text = said(tried(assumptions, not_reached))
    head = text[text.index("HOLDS: leak; within the bounds below") :].partition(". ")[0]
    counted = re.search(r", resting on (\d+) assumptions? below", head)
    assert (0 if counted is None else int(counted[1])) == rests
    assert ("assumption below" in head) == (rests == 1)
    missed = re.search(r"; (\d+) lines? of the design not reached", head)
    assert (0 if missed is None else int(missed[1])) == lines
    assert (" line of" in head) == (lines == 1)
    assert ("rests on:" in text) == bool(rests)
    assert all(text.count(line) == 1 for line in (*assumptions, *not_reached))


def test_what_trials_share_is_said_once() -> None:
    """An assumption of any of them; a line that none of them reached."""
    text = said(tried(("a one", "a two"), ("x.py:1", "x.py:2")), tried(("a two",), ("x.py:2",)))
    assert "resting on 2 assumptions below; 1 line of the design not reached" in text
    assert text.count("a two") == 1
    assert "x.py:1" not in text


def test_a_search_that_was_taken_up_rests_on_its_file() -> None:
    text = said(tried((), (), "kept.json"))
    assert "resting on 1 assumption below" in text
    assert "kept.json has kept this search" in text


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("v2", "host/designs/v2.py"),
        ("a-name-with-dashes", "host/designs/a_name_with_dashes.py"),
        ("/home/me/mine.py", "mine.py"),
    ],
)
def test_a_failure_is_shown_at_the_last_step_of_the_design(given: str, file: str) -> None:
    def step(at: int, where: str) -> Any:
        return SimpleNamespace(at=at, file=where)

    steps = [step(1, file), step(2, file), step(3, "host/core/pamt.py"), step(4, "module/pamt.py"),
             step(5, "verify/world.py")]  # fmt: skip
    found: Any = SimpleNamespace(steps=steps)
    last = _failing_step(found, given)
    assert last is not None
    assert last.at == 2
    found.steps = steps[2:]
    last = _failing_step(found, given)
    assert last is not None
    assert last.at == 3  # of the host's code, where the design has none
    found.steps = steps[3:]
    assert _failing_step(found, given) is None
