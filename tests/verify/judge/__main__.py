"""``python -m tests.verify.judge WHAT``: verifier and judge side by side.

``designs``  every shipped and given design.
``mutants [NAME...]``  the mutants of the suite, or those of these names (``merged:29:wrong lock``).
``mutants all``  every mutant that there is; an hour.
``bounds``  designs that hold within the suite's bounds only, with the reason.

Exit 1 when the sides disagree anywhere.
"""

import sys
from collections.abc import Iterable

from tests.verify.judge.bounds import BEYOND, verdicts
from tests.verify.judge.compare import Case, cases_of_designs, cases_of_mutants, try_all
from tests.verify.judge.mutants import SOURCES, all_mutants, taken


def main(arguments: list[str]) -> int:
    """Print what both sides say; 1 when they disagree."""
    if arguments[:1] == ["bounds"]:
        return _bounds()
    if arguments[:1] == ["designs"]:
        return _compare(cases_of_designs())
    if arguments[:1] != ["mutants"]:
        print(__doc__, file=sys.stderr)
        return 2
    names = arguments[1:]
    if not names:
        return _compare(cases_of_mutants(taken()))
    every = [mutant for design in SOURCES for mutant in all_mutants(design)]
    if names == ["all"]:
        return _compare(cases_of_mutants(every))
    unknown = set(names) - {mutant.name for mutant in every}
    if unknown:
        print(f"no mutant is called {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [mutant for mutant in every if mutant.name in names]
    return _compare(cases_of_mutants(chosen), every_answer=True)


def _compare(cases: Iterable[Case], every_answer: bool = False) -> int:
    counts = {"judged": 0, "refused": 0, "not loaded": 0, "disagree": 0, "not all seen": 0}
    for tried in try_all(cases):
        if tried.not_loaded:
            counts["not loaded"] += 1
        elif tried.refused:
            counts["refused"] += 1
        else:
            counts["judged"] += 1
        counts["not all seen"] += not all(
            one.engine.whole and one.judge.whole for one in tried.compared
        )
        if tried.refused:
            print(f"{tried.case.name}: {tried.refused}", flush=True)
        differ = tried.disagreements()
        counts["disagree"] += bool(differ)
        if differ:
            print(differ, flush=True)
        if every_answer:
            print(*tried.compared, sep="\n", flush=True)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    return 1 if counts["disagree"] else 0


def _bounds() -> int:
    """The list that only an odd bound excuses."""
    wrong = 0
    for beyond in BEYOND:
        within, outside = verdicts(beyond)
        wrong += bool(within) or not outside
        print(f"{beyond.name}: {beyond.reason}")
        print(f"  within the suite's bounds: {within or 'holds'}")
        print(f"  {beyond.needs}: {outside or 'holds'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
