"""The same protocol in Python and in C, compiled: the same properties hold and fail.

``python -m tests.verify.machine_code.test_agreement`` compares every design with every compiler,
optimisation, kind of lock and memory model; here are some of them.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.machine_code.design import machine_design
from dpamt.verify.machine_code.memory_model import SC, TSO
from tests.kernel_image.compiled import COMPILERS, design_object
from tests.verify.machine_code.trials import (
    EVERY_WORD,
    NO_MEMORY,
    ONE_REGION,
    PAGES,
    SmallTrial,
    broken,
)

DESIGNS = ("merged", "v2", "v5", "v6", "per-2m-lock", "global-rwlock")
LEVELS = ("-O0", "-O1", "-O2", "-Os")
WORD_LOCKS = "-DLOCKS_ARE_WORDS"
"""The lock is an inlined word: then the rules of locks cannot be followed."""
RULES = frozenset({"context", "lock-order", "deadlock"})
SOME = (
    ("gcc", "-O2", "", TSO),
    ("gcc", "-O0", WORD_LOCKS, SC),
    ("clang", "-O2", WORD_LOCKS, TSO),
)


@cache
def in_python(name: str, trial: SmallTrial) -> tuple[str, ...]:
    return broken(load_design(name), trial)


def differs(
    name: str, cc: str, level: str, locks: str, model: str, trials: tuple[SmallTrial, ...]
) -> Iterator[str]:
    """Each trial in which the two fail in different properties."""
    python = load_design(name)
    path = design_object(name, level, "-g", *([locks] if locks else []), cc=cc)
    design = machine_design(path, model=model, tolerated=python.tolerated)
    design = replace(design, counts=python.counts)
    for trial in trials:
        ours, theirs = set(in_python(name, trial)), set(broken(design, trial))
        apart = (ours ^ theirs) - (RULES if locks else set())
        if apart:
            yield f"{name} {cc} {level} {locks} {model}, {trial.name}: {sorted(apart)}"


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("how", SOME, ids=" ".join)
def test_python_and_compiled_c_agree(name: str, how: tuple[str, str, str, str]) -> None:
    assert list(differs(name, *how, (ONE_REGION, NO_MEMORY))) == []


def main() -> int:
    """Everything; about ten minutes on one core."""
    count = 0
    for name, cc, level, locks, model in product(
        DESIGNS, COMPILERS, LEVELS, ("", WORD_LOCKS), (SC, TSO)
    ):
        trials = (ONE_REGION, EVERY_WORD, NO_MEMORY, PAGES)
        for line in differs(name, cc, level, locks, model, trials):
            print("DIFFERS", line, flush=True)
            return 1
        count += len(trials)
    print(f"{count} comparisons, all the same")
    return 0


if __name__ == "__main__":
    sys.exit(main())
