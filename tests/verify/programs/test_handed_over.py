"""A page that is got on one CPU and put on another."""

from pathlib import Path

import pytest

from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.programs.get_put import handed_over, regions
from dpamt.verify.programs.problem import SEAMCALL, WORDS, Problem
from dpamt.verify.properties.named import AT_REST, LEAK, properties
from dpamt.verify.verdict import verify

DESIGNS = Path(__file__).parents[2] / "data" / "designs" / "by_cpu"


def broken(problem: Problem, granularity: str = SEAMCALL) -> set[str]:
    said = verify(problem, properties(), granularity)
    assert not said.stopped
    return {name for name, how in said.properties.items() if how == "fails"}


def test_counts_by_cpu_that_are_folded_wrongly_are_told_by_it_alone() -> None:
    design = load_design(str(DESIGNS / "wrong_counts_by_cpu.py"))
    assert broken(handed_over(design)) == {AT_REST, LEAK}
    assert not broken(regions(design, (2,)), WORDS)


@pytest.mark.parametrize(
    "name", [str(DESIGNS / "right_counts_by_cpu.py"), "merged", "v6", "per-2m-lock"]
)
def test_right_ones_hold(name: str) -> None:
    assert not broken(handed_over(load_design(name)))


def test_it_is_in_the_suite_of_every_shipped_design() -> None:
    from dpamt.verify.programs.suite import trials_of

    for name in SHIPPED:
        design = load_design(name)
        names = {trial.name for trial in trials_of(design)}
        assert ("handed over" in names) == design.dynamic_pamt
