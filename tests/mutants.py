"""``make mutants``: small bugs are put into the source one at a time; do the tests see them?

``python -m tests.mutants`` takes of each package of ``src/dpamt`` a random sample of all mutants
that mutmut's operators make, and prints a score with its 95 % interval.  ``PACKAGE...`` names
packages or files (``plan``, ``plan/fresh.py``; a file's mutants all run unless ``--sample`` says
fewer).

The whole source has tens of thousands of mutants, so they are sampled; and a mutant is a changed
source file, not a switch inside of each function, because ``verify`` reads the positions and the
source of what it runs.  Three steps, all on a copy in ``build/mutants``:

1. mutmut's operators list the mutants (:mod:`tests.mutants_made`).
2. The tests of the package run once, in random order, to see which lines each of them reaches and
   what CPU time it takes (:mod:`tests.mutants_reach`).  A test that is slow, or that fails in a
   copy, is left out, and so is what --reach-seconds are not enough for.
3. Each mutant meets the tests that reach it, quickest first, until one fails.

The tests of a package are those of the folder of its name and of AND_TESTS: other tests would kill
more, so a score is a lower bound.  Mutants that no test can tell are listed in
``mutants_equivalent.toml``, by reason, and are not counted.  Exit 1 when the whole interval of a
score lies below LEAST.
"""

import argparse
import json
import math
import random
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Final

from tests.mutants_made import Mutant, mutants_of
from tests.mutants_reach import Copy, Reach

ROOT: Final = Path(__file__).parent.parent
SOURCE: Final = ROOT / "src" / "dpamt"
TOP: Final = "top"
"""The files that lie in no package."""

_VERBS: Final = ("boot", "conform", "decode", "expect", "plan", "plan_fleet", "run", "trace")
AND_TESTS: Final = {
    "boot": ["tests/cli/test_boot.py"],
    "cli": ["tests/test_files.py", "tests/test_packaging.py"],
    "host": ["tests/cli/test_run.py"],
    "plan": ["tests/cli/test_plan.py", "tests/cli/test_plan_fleet.py"],
    "report": [f"tests/cli/test_{verb}.py" for verb in (*_VERBS, "reports", "verify")],
    "run": ["tests/cli/test_run.py"],
    "trace": ["tests/cli/test_decode.py", "tests/cli/test_trace.py"],
    "verify": ["tests/cli/test_verify.py"],
    TOP: ["tests/test_files.py", "tests/test_own_files.py", "tests/cli/test_main.py"],
}
"""Package to the tests that are its own beside those of its folder."""
LEFT_OUT: Final = ("tests/boot/kernel", "tests/verify/judge")
"""Tests that boot a kernel, or search without reductions."""

LEAST: Final = 0.5
DEFAULT_SAMPLE: Final = 25
DEFAULT_SEED: Final = 19


@dataclass(frozen=True)
class Score:
    """What became of the mutants of one package or file."""

    name: str
    made: int
    """How many there are; the others count those that ran."""
    killed: int
    equivalent: int
    survived: int

    @property
    def share(self) -> float:
        return self.killed / max(1, self.killed + self.survived)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.killed, self.killed + self.survived)

    def line(self) -> str:
        ran = self.killed + self.equivalent + self.survived
        low, high = self.interval
        numbers = (self.made, ran, self.killed, self.equivalent, self.survived)
        shown = "".join(f"{number:12,}" for number in numbers)
        return f"{self.name:28}{shown}{self.share:8.0%}  {low:.0%} to {high:.0%}"


HEADINGS: Final = ("mutants", "run", "killed", "equivalent", "survived")


def wilson(killed: int, of: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share that was seen in a sample (E. B. Wilson, 1927)."""
    if not of:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, extra = killed / of, z * z / of
    middle = (share + extra / 2) / (1 + extra)
    half = z * math.sqrt(share * (1 - share) / of + extra / of / 4) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


def equivalent() -> set[str]:
    """The mutants that no test can tell, as :attr:`Mutant.change` names them."""
    text = (ROOT / "tests" / "mutants_equivalent.toml").read_text(encoding="utf-8")
    return {mutant for group in tomllib.loads(text)["equivalent"] for mutant in group["mutants"]}


def packages() -> list[str]:
    found = [path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()]
    return [*sorted(found), TOP]


def files_of(name: str) -> list[str]:
    """The source files of a package, or the one file named; from ``src/dpamt``."""
    if name.endswith(".py"):
        return [name]
    found = SOURCE.glob("*.py") if name == TOP else (SOURCE / name).rglob("*.py")
    return sorted(str(path.relative_to(SOURCE)) for path in found)


def tests_of(package: str) -> list[str]:
    folder = [] if package == TOP else [f"tests/{package}"]
    return [*folder, *AND_TESTS.get(package, [])]


def package_of(name: str) -> str:
    if not name.endswith(".py"):
        return name
    return name.partition("/")[0] if "/" in name else TOP


def chosen(mutants: list[Mutant], sample: int, seed: str) -> list[Mutant]:
    """A sample without replacement that depends on the seed alone; all, where they are fewer."""
    if sample >= len(mutants):
        return mutants
    picked = random.Random(seed).sample(range(len(mutants)), sample)
    return [mutants[index] for index in sorted(picked)]


def verdicts(
    copy: Copy, name: str, options: argparse.Namespace
) -> Iterator[tuple[Mutant | None, str]]:
    """Each mutant that ran and what became of it, after a row (None, how many were made)."""
    mutants = [m for file in files_of(name) for m in mutants_of(SOURCE, file)]
    yield None, str(len(mutants))
    everything = name.endswith(".py") and options.sample is None
    size = len(mutants) if everything else options.sample or DEFAULT_SAMPLE
    tests = options.tests or tests_of(package_of(name))
    reach = Reach(copy, tests, LEFT_OUT, options.reach_seconds, str(options.seed))
    print(f"# {name}: {reach.about()}", flush=True)
    known = equivalent()
    for mutant in chosen(mutants, size, f"{options.seed} {name}"):
        if mutant.change in known:
            yield mutant, "equivalent"
        else:
            yield mutant, copy.judge(mutant, reach.tests(mutant), options.seconds)


def scored(copy: Copy, name: str, options: argparse.Namespace) -> Score:
    made, counts = 0, Counter[str]()
    for mutant, verdict in verdicts(copy, name, options):
        if mutant is None:
            made = int(verdict)
            continue
        counts[verdict] += 1
        if verdict not in ("killed", "hung", "equivalent"):
            print(f"{verdict}: {mutant.file}:{mutant.line}: {mutant.change}", flush=True)
    killed = counts["killed"] + counts["hung"]
    survived = counts["survived"] + counts["not reached"]
    score = Score(name, made, killed, counts["equivalent"], survived)
    print(score.line(), flush=True)
    return score


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="PACKAGE", help="or FILE.py; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of each package or file")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU of tests for a mutant")
    parser.add_argument(
        "--reach-seconds",
        type=float,
        default=300.0,
        metavar="S",
        help="CPU to see what tests reach",
    )
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="these, not the package's")
    parser.add_argument("--json", type=Path, help="write the scores there")
    options = parser.parse_args(arguments)
    for name in options.names:
        if not (SOURCE / name).exists() and name != TOP:
            parser.error(f"{name}: expected one of {', '.join(packages())}, or a file of these")
    if options.sample is not None and options.sample < 1:
        parser.error(f"--sample {options.sample}: expected 1 or more")
    return options


def main() -> int:
    """Run, count, show; see the head of the file."""
    options = options_of()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    size = options.sample or f"{DEFAULT_SAMPLE} a package, all of a file"
    print(f"# seed {options.seed}, sample {size}, {options.seconds:g} s of tests a mutant, {today}")
    copy = Copy(ROOT, ROOT / "build" / "mutants")
    scores = [scored(copy, name, options) for name in options.names or packages()]
    print(f"\n{'':28}{''.join(f'{word:>12}' for word in HEADINGS)}{'score':>8}  95 %")
    for score in scores:
        print(score.line())
    if options.json is not None:
        rows = [{**vars(score), "share": score.share} for score in scores]
        options.json.write_text(json.dumps({"seed": options.seed, "scores": rows}, indent=1))
    return int(any(score.interval[1] < LEAST for score in scores))


if __name__ == "__main__":
    sys.exit(main())
