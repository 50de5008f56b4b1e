"""Verdict and failing properties of verifier and judge: every design, and mutants by the hundred.

At 2 CPUs: in one region at every granularity; designs by SEAMCALLs in the other trials too.  Every
answer is found before the first test, on all CPUs.
"""

import pytest

from tests.verify.judge.compare import (
    DOES_NOT_RUN,
    Tried,
    cases_of_designs,
    cases_of_mutants,
    try_all,
)
from tests.verify.judge.mutants import SEED, taken

LEAST = 300
"""Mutants that both sides have to judge."""

DESIGNS = cases_of_designs()
MUTANTS = cases_of_mutants(taken())


@pytest.fixture(scope="module")
def answers() -> dict[str, Tried]:
    """What both sides say of every case."""
    return {tried.case.name: tried for tried in try_all([*DESIGNS, *MUTANTS])}


@pytest.mark.parametrize("name", [case.name for case in [*DESIGNS, *MUTANTS]])
def test_the_verifier_says_what_the_judge_says(name: str, answers: dict[str, Tried]) -> None:
    differ = answers[name].disagreements()
    assert not differ, differ


def test_one_given_design_is_refused(answers: dict[str, Tried]) -> None:
    """By its declaration; every other design is judged."""
    refused = {case.name: answers[case.name].not_loaded for case in DESIGNS}
    refused = {name: line for name, line in refused.items() if line}
    assert list(refused) == ["wrong_tolerate_missing"]
    assert "wrong_tolerate_missing.py:7: TOLERATED" in refused["wrong_tolerate_missing"]


def test_enough_mutants_are_judged(answers: dict[str, Tried]) -> None:
    """Those that do not load, do not run or are refused are counted apart."""
    mutants = [answers[case.name] for case in MUTANTS]
    judged = [tried for tried in mutants if tried.counts]
    apart = [f"{tried.case.name}: {tried.refused}" for tried in mutants if not tried.counts]
    assert len(judged) >= LEAST, "\n".join(apart)
    held = [tried for tried in judged if not any(one.engine.broken for one in tried.compared)]
    assert 20 <= len(held) <= len(judged) // 2, "mutants that say something are of both kinds"


def test_code_that_runs_is_refused_by_its_line(answers: dict[str, Tried]) -> None:
    """A refusal other than an error of the design's own names file and line."""
    for case in MUTANTS:
        refused = answers[case.name].refused
        if refused and DOES_NOT_RUN not in refused:
            assert ".py:" in refused


def test_few_searches_stop_before_their_end(answers: dict[str, Tried]) -> None:
    """Where a thread goes round for ever, or a state counts up, the judge has not seen all."""
    unfinished = {
        tried.case.name
        for tried in answers.values()
        if not all(one.engine.whole and one.judge.whole for one in tried.compared)
    }
    assert len(unfinished) <= len(answers) // 20, sorted(unfinished)


def test_the_mutants_are_the_same_each_time() -> None:
    names = [mutant.name for mutant in taken(seed=SEED)]
    assert names == [case.name for case in MUTANTS]
    assert len({case.mutant.text for case in MUTANTS if case.mutant}) == len(set(names))
    assert names != [mutant.name for mutant in taken(seed=SEED + 1)]
