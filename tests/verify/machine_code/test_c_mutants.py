"""One-line faults in C, compiled: each is found, or says why it makes no difference.

``python -m tests.verify.machine_code.test_c_mutants`` asks the plain search about all of them.
"""

import sys

import pytest

from dpamt.errors import DpamtError
from dpamt.verify.machine_code.design import machine_design
from dpamt.verify.programs.problem import SEAMCALL, WORDS
from tests.kernel_image.compiled import built, design_object
from tests.verify.judge.compare import ONE_REGION as JUDGED
from tests.verify.judge.compare import TRIALS, compared
from tests.verify.machine_code.c_mutants import MUTANTS, CMutant
from tests.verify.machine_code.trials import CROSS, ONE_REGION, PAGES, THREE, first_failure

SOME = MUTANTS[::6]
NO_MEMORY = TRIALS[5]


def test_there_are_enough_of_them() -> None:
    assert sum(not mutant.why for mutant in MUTANTS) >= 40


@pytest.mark.parametrize("name", ["merged", "v6"])
def test_the_originals_hold(name: str) -> None:
    trials = iter((ONE_REGION, PAGES, CROSS, THREE))
    assert first_failure(lambda: machine_design(design_object(name)), trials) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught_or_explained(mutant: CMutant) -> None:
    trials = iter((ONE_REGION, PAGES, CROSS, THREE))
    found = first_failure(lambda: machine_design(built(mutant.text())), trials)
    assert bool(found) == (not mutant.why), found


@pytest.mark.parametrize("mutant", SOME, ids=lambda mutant: mutant.name)
def test_a_plain_search_agrees(mutant: CMutant) -> None:
    """The judge spares nothing: every history of every thread."""
    design = machine_design(built(mutant.text()))
    for one in compared(mutant.name, design, (JUDGED,), ("seamcall",)):
        assert one.agree, str(one)


def main() -> int:
    """The plain search on every mutant, at two granularities, with and without failures."""
    count = 0
    for mutant in MUTANTS:
        try:
            design = machine_design(built(mutant.text()))
        except DpamtError as error:
            print(f"{mutant.name}: {error}")
            continue
        for one in compared(mutant.name, design, (JUDGED, NO_MEMORY), (SEAMCALL, WORDS)):
            count += 1
            if not one.agree:
                print(one)
                return 1
    print(f"{count} comparisons, all the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
