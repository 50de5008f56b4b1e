"""Failures found coarse are found fine on the same way; a way that is none is known."""

from dataclasses import replace

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.evidence.refine import FOUND, Refinement
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import LOCKS, SEAMCALL
from dpamt.verify.programs.suite import trials_of
from dpamt.verify.properties.named import LOCK_ORDER, properties
from dpamt.verify.verdict import verify


@pytest.mark.parametrize("granularity", [SEAMCALL, LOCKS])
@pytest.mark.parametrize("name", ["v1", "v2"])
@pytest.mark.parametrize("cpus", [(2,), (3,), (2, 1)])
def test_what_fails_coarse_fails_fine(name: str, cpus: tuple[int, ...], granularity: str) -> None:
    design = load_design(name)
    judges = properties(design.tolerated)
    said = verify(regions(design, cpus), judges, granularity)
    assert said.counterexamples
    fine = Refinement(regions(design, cpus), judges)
    assert {one.broken: fine.look(one) for one in said.counterexamples} == dict.fromkeys(
        [one.broken for one in said.counterexamples], FOUND
    )


def test_deadlocks_and_choices_are_found_fine() -> None:
    for name, trial_name in (("v5", "softirq"), ("v4", "demote")):
        design = load_design(name)
        judges = properties(design.tolerated)
        trial = next(one for one in trials_of(design) if one.name == trial_name)
        said = verify(trial.make(design), judges, trial.granularity)
        fine = Refinement(trial.make(design), judges)
        for one in said.counterexamples:
            if one.broken == LOCK_ORDER:
                assert "whole search" in fine.look(one)
            else:
                assert fine.look(one) == FOUND


def test_a_way_without_the_failure_is_not_found() -> None:
    design = load_design("v2")
    judges = properties(design.tolerated)
    (said, *_) = verify(regions(design, (2,)), judges, SEAMCALL).counterexamples
    fine = Refinement(regions(design, (2,)), judges)
    alone = replace(said, turns=((0, 10_000),))
    assert fine.look(alone) == "CPU0 cannot go on there"
    cut = replace(said, turns=said.turns[:1])
    assert "holds at the end of its way" in fine.look(cut)
    mended = Refinement(regions(load_design("merged"), (2,)), judges)
    assert mended.look(said) != FOUND
