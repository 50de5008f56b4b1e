"""The verifier itself made wrong: a proof obligation of each reduction dropped, and noticed.

Each of these verifiers takes something for granted that it would have to show.  It is held against
the judge on designs that are wrong in one place; the sound verifier agrees on all of them.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import dpamt.verify.explore.search as search_module
import dpamt.verify.learn.automaton as automaton_module
from dpamt.errors import DpamtError
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.sync.observed import Address
from dpamt.sync.steps import WAITS
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.search import search_of
from dpamt.verify.explore.state import Use, Words
from dpamt.verify.explore.symmetry import Image
from dpamt.verify.learn.automaton import Step
from dpamt.verify.learn.control_point import ControlPoints
from dpamt.verify.programs.get_put import softirq
from dpamt.verify.programs.ground import CROSSED
from dpamt.verify.programs.own_pages import demote_and_get
from dpamt.verify.programs.problem import SEAMCALL, WORDS, Problem
from dpamt.verify.properties.named import properties
from tests.verify.explore.test_movers import SMALL, fails
from tests.verify.judge.compare import Trial, original, problem_of
from tests.verify.judge.mutants import GIVEN, SOURCES
from tests.verify.judge.problems import plain
from tests.verify.judge.search import Judge
from tests.verify.judge.test_every_answer import answers_of

Patch = pytest.MonkeyPatch


class _Any:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Witness:
    """A design and a trial that show when something is taken for granted."""

    name: str
    design: str
    changes: tuple[tuple[str, str], ...]
    for_engine: Callable[[Design], Problem]
    for_judge: Callable[[Design], Problem]
    granularity: str = SEAMCALL


def _get_put(
    name: str,
    design: str,
    *changes: tuple[str, str],
    cpus: tuple[int, ...] = (2,),
    placement: str = "apart",
) -> Witness:
    trial = Trial(name, cpus, placement)
    return Witness(name, design, changes, trial.for_engine, trial.for_judge)


WITNESSES = (
    _get_put("not an inc-not-zero", "wrong_add0"),
    _get_put("get without its lock", "merged", ("    lock.lock()\n", "    pass\n")),
    _get_put("a count of each 4K page", "merged", ("at(pfn // PAGES_PER_2M)", "at(pfn)")),
    _get_put("a lock that is looked at", "wrong_is_locked"),
    _get_put(
        "looked at, then raised",
        "v6",
        (
            "    raised = refcount.inc_not_zero()\n",
            "    raised = refcount.load()\n    if raised:\n        refcount.add(1)\n",
        ),
    ),
    _get_put("two regions' pairs crossed", "per-2m-lock", cpus=(1, 1), placement=CROSSED),
    Witness("softirq", "v5", (), softirq, lambda d: plain(softirq(d)), WORDS),
    Witness("demote", "merged", (), demote_and_get, lambda d: plain(demote_and_get(d))),
)


def _design(witness: Witness, directory: Path) -> Design:
    source = SOURCES.get(witness.design, GIVEN / f"{witness.design}.py")
    if not source.exists() or (not witness.changes and source.parent != GIVEN):
        return load_design(witness.design)
    text = source.read_text(encoding="utf-8")
    for line, instead in witness.changes:
        assert line in text
        text = text.replace(line, instead, 1)
    file = directory / "witness.py"
    file.write_text(text, encoding="utf-8")
    return load_design(str(file))


def _built_by(witness: Witness) -> Design | None:
    """A design that is changed here is run on a machine that was set up without the change."""
    return original(witness.design) if witness.changes else None


@cache
def _judged(witness: Witness, directory: Path) -> tuple[frozenset[str], frozenset[Hashable]]:
    design = _design(witness, directory)
    problem = problem_of(witness.for_judge, design, _built_by(witness))
    judge = Judge(problem, properties(design.tolerated), longest=10_000)
    said = judge.explore(witness.granularity)
    assert not said.cut
    return said.broken, said.answers


def _notices(witness: Witness, directory: Path) -> bool:
    """Whether the verifier, as it is now, says something else than the judge."""
    broken, answers = _judged(witness, directory)
    design = _design(witness, directory)
    try:
        problem = problem_of(witness.for_engine, design, _built_by(witness))
        search = search_of(problem, properties(design.tolerated), witness.granularity, 100_000)
        found = search.explore()
        return set(found.faults) != broken or answers_of(search) != answers
    except (AssertionError, LookupError, DpamtError):
        return True  # it contradicts itself, or refuses what runs


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witnesses")


@pytest.fixture(autouse=True)
def _nothing_is_known_before(monkeypatch: Patch) -> None:
    """No random schedules before the search: what is taken for granted has to be taken back."""
    monkeypatch.setattr(search_module, "WARM_UP_WALKS", 0)


def every_sum_is_dropped(patch: Patch) -> None:
    """Of adds that a design makes."""
    patch.setattr(
        automaton_module, "is_dropped", lambda frame, stop: "witness" in frame.f_code.co_filename
    )


def a_counter_may_be_looked_at(patch: Patch) -> None:
    patch.setattr(Words, "no_counter", lambda words, address: None)


def every_word_is_guarded(patch: Patch) -> None:
    patch.setattr(Words, "is_guarded", lambda words, address: True)


def readers_keep_each_other_out(patch: Patch) -> None:
    """Any lock in common keeps two uses apart, held shared or not."""

    def meets(use: Use, other: Use) -> bool:
        return (use.writes or other.writes) and not dict(use.held).keys() & dict(other.held).keys()

    patch.setattr(Use, "meets", meets)


def anything_may_follow_a_release(patch: Patch) -> None:
    patch.setattr(
        Engine, "_commits", lambda engine, step, noticed: noticed and step.method not in WAITS
    )


def any_lock_guards(patch: Patch) -> None:
    """Uses under different locks, or one of them under none, are taken to be kept apart."""
    patch.setattr(
        Use,
        "meets",
        lambda use, other: (use.writes or other.writes) and not (use.held or other.held),
    )


def nobody_looks_at_a_lock(patch: Patch) -> None:
    patch.setattr(Words, "look", lambda words, address: None)


def nobody_is_interrupted(patch: Patch) -> None:
    made = Engine.__init__

    def make(engine: Engine, *arguments: Any) -> None:
        made(engine, *arguments)
        engine._unsafe = set()

    patch.setattr(Engine, "__init__", make)


def threads_are_alike(patch: Patch) -> None:
    patch.setattr(Image, "check", lambda image: "")


def steps_alone_tell_threads_apart(patch: Patch) -> None:
    """Where histories come to is not compared, and of steps only the method is."""
    step = Image._step

    def anywhere(image: Image, expected: Step) -> Step:
        renamed = step(image, expected)
        return Step(_Any(), renamed.method, _Any())  # type: ignore[arg-type]

    patch.setattr(Image, "_step", anywhere)


def what_was_fixed_stays(patch: Patch) -> None:
    patch.setattr(Words, "vary", lambda words, address: words.known.varying.add(address))


def nothing_is_changed(patch: Patch) -> None:
    patch.setattr(Words, "is_varying", lambda words, address: False)


def own_words_stay_own(patch: Patch) -> None:
    """A word stays its first toucher's, and others have one of their own."""

    def place(words: Words, address: Address, kind: int) -> tuple[int, int]:
        known = words._places.get(address)
        if known is None:
            return words._new_place(address, kind)
        return known

    patch.setattr(Words, "place", place)


def every_word_is_own(patch: Patch) -> None:
    new_place = Words._new_place

    def place(words: Words, address: Address, kind: int) -> tuple[int, int]:
        words.known.toucher.pop(address, None)
        found = words._places.get(address)
        if found is not None and found[0] == kind:
            return found
        words._places.pop(address, None)
        return new_place(words, address, kind)

    patch.setattr(Words, "place", place)


def no_local_is_live(patch: Patch) -> None:
    patch.setattr(ControlPoints, "show", lambda points, value, depth=0: None)


def only_the_innermost_frame(patch: Patch) -> None:
    of = ControlPoints.of

    def innermost(points: ControlPoints, frame: Any, stop: Any, called: str) -> Any:
        keys, sites = of(points, frame, stop, called)
        return keys[-1:], sites

    patch.setattr(ControlPoints, "of", innermost)


ENGINE_MUTANTS = (
    every_sum_is_dropped,
    a_counter_may_be_looked_at,
    every_word_is_guarded,
    any_lock_guards,
    readers_keep_each_other_out,
    nobody_looks_at_a_lock,
    anything_may_follow_a_release,
    nobody_is_interrupted,
    threads_are_alike,
    steps_alone_tell_threads_apart,
    what_was_fixed_stays,
    nothing_is_changed,
    own_words_stay_own,
    every_word_is_own,
    no_local_is_live,
    only_the_innermost_frame,
)
"""Two of each reduction: counters, guards, movers, symmetry, fixed words, own words, places."""


@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: witness.name)
def test_the_verifier_agrees_with_the_judge(witness: Witness, directory: Path) -> None:
    assert not _notices(witness, directory)


@pytest.mark.parametrize("mutant", ENGINE_MUTANTS, ids=lambda mutant: mutant.__name__)
def test_what_is_taken_for_granted_is_noticed(
    mutant: Callable[[Patch], None], directory: Path, monkeypatch: Patch
) -> None:
    for witness in WITNESSES:
        _judged(witness, directory)
    mutant(monkeypatch)
    assert any(fails(*threads) != broken for threads, broken in SMALL) or any(
        _notices(witness, directory) for witness in WITNESSES
    )
