"""`dpamt verify`: every interleaving of a design's code, or the shortest way to a failure."""

import argparse
from typing import TYPE_CHECKING

from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from dpamt.host.designs.base import Design
    from dpamt.report.progress import Watch
    from dpamt.verify.suite import Trial
    from dpamt.verify.verdict import Verdict


def main(arguments: list[str]) -> int:
    """Search and print; 0 when every property holds, else 1."""
    options = _parser().parse_args(arguments)
    return _verify(options)


def _verify(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_text
    from dpamt.errors import InputError
    from dpamt.host.designs.load import SHIPPED, load_design
    from dpamt.report.progress import watching
    from dpamt.report.verify_text import designs_text, suite_text
    from dpamt.verify.suite import trials_of

    if options.all and options.designs:
        raise InputError("--all: expected without names of designs, for it takes all of them")
    names = options.designs or (SHIPPED if options.all else ("merged",))
    designs = [load_design(name) for name in names]
    for design in designs:
        _check_discipline(design)
        if not design.dynamic_pamt and not options.all:
            raise InputError(
                f"design {design.name}: never asks for Dynamic PAMT; nothing to verify"
            )
    designs = [design for design in designs if design.dynamic_pamt]
    results: dict[str, list[tuple[Trial, Verdict]]] = {}
    with watching() as watch:
        for design in designs:
            trials = [_chosen(options)] if options.regions else trials_of(design)
            if options.trial is not None:
                trials = _named(trials, options.trial)
            results[design.name] = [
                (trial, _search(design, trial, options, watch)) for trial in trials
            ]
    if options.json:
        document = {
            "clean": _clean(results),
            "designs": [
                {
                    "design": name,
                    "trials": [
                        {"trial": trial.name, "meaning": trial.meaning, **said.as_json()}
                        for trial, said in tried
                    ],
                }
                for name, tried in results.items()
            ],
        }
        write_text(json.dumps(document, indent=2, default=str) + "\n")
    else:
        write_text(
            designs_text(results)
            if len(results) > 1
            else suite_text(*next(iter(results.items())), whole=options.whole)
        )
    return 0 if _clean(results) else 1


def _clean(results: "dict[str, list[tuple[Trial, Verdict]]]") -> bool:
    return all(said.verdict == "holds" for tried in results.values() for _, said in tried)


def _check_discipline(design: "Design") -> None:
    """A user's design is run step by step: refuse code whose state could not be seen."""
    from pathlib import Path

    import dpamt
    from dpamt.errors import InputError
    from dpamt.sync.discipline import check_files

    path = Path(design.source)
    if path.suffix != ".py":
        return
    rooms = Path(dpamt.__file__).parent
    known = [file for room in ("host", "module") for file in (rooms / room).rglob("*.py")]
    for breach in check_files([*known, path]):
        if breach.file == path:
            raise InputError(
                f"{breach}; expected each step alone in its statement (docs/verify.md)"
            )


def _named(trials: "list[Trial]", name: str) -> "list[Trial]":
    from dpamt.errors import InputError

    found = [trial for trial in trials if trial.name == name]
    if not found:
        known = ", ".join(f'"{trial.name}"' for trial in trials)
        raise InputError(f"--trial {name!r}: expected one of {known}")
    return found


def _chosen(options: argparse.Namespace) -> "Trial":
    """The trial that the command line describes."""
    from dpamt.verify.programs import Choices, regions
    from dpamt.verify.suite import Trial

    cpus: tuple[int, ...] = options.regions
    choices = Choices(options.failures) if options.failures else None
    return Trial(
        "+".join(map(str, cpus)) + (" CPUs" if sum(cpus) > 1 else " CPU"),
        "get, use, put; CPUs by region",
        options.granularity or "seamcall",
        lambda design: regions(design, cpus, options.pairs, choices),
    )


def _search(
    design: "Design", trial: "Trial", options: argparse.Namespace, watch: "Watch | None"
) -> "Verdict":
    from dpamt.verify.properties import properties
    from dpamt.verify.search import Progress
    from dpamt.verify.verdict import verify

    def told(now: Progress) -> None:
        if watch is not None:
            what = f"{now.states:,} states, depth {now.depth}"
            watch(design.name, trial.name, what, now.states, options.max_states)

    return verify(
        trial.make(design),
        properties(design.tolerated),
        options.granularity or trial.granularity,
        options.max_states,
        told,
    )


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt verify",
        description="Run the functions of a design, of the host and of the TDX module through "
        "every interleaving: what holds, within which bounds, or the shortest way to the "
        "failure.  Exit code 1 when a property fails or a search could not be finished.",
    )
    parser.add_argument(
        "designs", nargs="*", metavar="DESIGN", help="merged (the default), v6, ... or a file"
    )
    parser.add_argument("--all", action="store_true", help="every design that comes with dpamt")
    parser.add_argument("--trial", metavar="NAME", help="only this trial of the suite")
    parser.add_argument(
        "--cpus",
        "--regions",
        dest="regions",
        type=_regions,
        metavar="N[+N...]",
        help="instead of the suite: so many CPUs in one 2M region (3), or in several (2+2); each "
        "does get, AUG, REMOVE, put",
    )
    parser.add_argument(
        "--granularity",
        choices=("seamcall", "locks", "words"),
        help="where CPUs are switched in the module: around SEAMCALLs, at its locks too, at every "
        "shared word",
    )
    parser.add_argument(
        "--pairs",
        choices=("apart", "crossed", "own"),
        default="apart",
        help="with --cpus: where the pages of a pair lie: apart, in the other region, in its own",
    )
    parser.add_argument(
        "--failures",
        type=_count,
        default=0,
        metavar="N",
        help="with --cpus: allocations that fail, at most, wherever that does harm",
    )
    parser.add_argument(
        "--max-states",
        type=_states,
        default=5_000_000,
        metavar="N",
        help="stop a search after so many states (5000000)",
    )
    parser.add_argument(
        "--whole", action="store_true", help="counterexamples with the module's steps too"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/verify.md)")
    return parser


def _regions(text: str) -> tuple[int, ...]:
    cpus = tuple(int(part) for part in text.split("+"))
    if not all(1 <= n <= 16 for n in cpus) or sum(cpus) > 16 or len(cpus) > 4:
        raise ValueError(text)
    return cpus


_regions.__name__ = "CPUs (1 to 16 in all, in at most 4 regions)"


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 4:
        raise ValueError(text)
    return number


_count.__name__ = "number of failures (0 to 4)"


def _states(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1 << 32:
        raise ValueError(text)
    return number


_states.__name__ = "number of states (from 1)"
