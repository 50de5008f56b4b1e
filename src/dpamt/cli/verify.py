"""`dpamt verify`: every interleaving of a design's code, or the shortest way to a failure."""

import argparse
from typing import TYPE_CHECKING

from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from dpamt.host.designs.base import Design
    from dpamt.report.progress import Watch
    from dpamt.verify.certificate import Asked, Tried
    from dpamt.verify.counterexample import Counterexample


def main(arguments: list[str]) -> int:
    """Search and print; 0 when every property holds, else 1."""
    import gc

    gc.set_threshold(100_000, 20, 100)  # next to nothing of a search is garbage
    options = _parser().parse_args(arguments)
    _check_usage(options)
    if options.replay:
        return _replay(options)
    if options.check:
        return _check(options)
    return _verify(options)


def _verify(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_file, write_text
    from dpamt.report.progress import watching
    from dpamt.report.verify_text import designs_text, nearest, suite_text
    from dpamt.verify.certificate import document

    designs = _designs(options)
    results: dict[str, list[Tried]] = {}
    with watching() as watch:
        for name, design in designs.items():
            title = name if design.name in results else design.name
            results[title] = _tried(name, design, options, watch)
    if options.save or options.json:
        whole = json.dumps(document(results), indent=2) + "\n"
    if options.save:
        write_file(options.save, whole)
    if options.json:
        write_text(whole)
    elif len(results) > 1:
        from dpamt.verify.costs import fast_path_locks

        takes = [fast_path_locks(design) for design in designs.values()]
        locks = dict(zip(results, takes, strict=True))
        write_text(designs_text(results, locks))
    else:
        write_text(suite_text(*next(iter(results.items())), whole=options.whole))
    every = [one for tried in results.values() for one in tried]
    found = nearest(every)
    _draw(options, found[0][1] if found else None)
    return 0 if all(one.verdict.verdict == "holds" for one in every) else 1


def _designs(options: argparse.Namespace) -> "dict[str, Design]":
    """The designs to verify, by the name or path that was given."""
    from dpamt.errors import InputError
    from dpamt.host.designs.load import SHIPPED, load_design

    names = options.designs or (SHIPPED if options.all else ("merged",))
    designs = {name: load_design(name) for name in names}
    for design in designs.values():
        _check_discipline(design)
        if not design.dynamic_pamt and not options.all:
            raise InputError(
                f"design {design.name}: never asks for Dynamic PAMT; nothing to verify"
            )
    return {name: design for name, design in designs.items() if design.dynamic_pamt}


def _tried(
    name: str, design: "Design", options: argparse.Namespace, watch: "Watch | None"
) -> "list[Tried]":
    """The trials of one design."""
    from dpamt.verify.certificate import Asked
    from dpamt.verify.setting import SEAMCALL, WORDS
    from dpamt.verify.suite import trials_of

    def asked(trial: str, cpus: tuple[int, ...], granularity: str) -> Asked:
        return Asked(
            name,
            trial,
            cpus,
            options.pairs,
            options.failures,
            granularity,
            options.max_states,
            options.property or "",
        )

    if options.regions:
        first = asked("", options.regions, options.granularity or SEAMCALL)
        tried = [_search(first, design, watch)]
        if options.granularity is None and tried[0].verdict.verdict == "holds":
            tried.append(_search(asked("", (2,), WORDS), design, watch))
        return tried
    trials = trials_of(design)
    if options.trial is not None:
        trials = [trial for trial in trials if trial.name == options.trial]
        if not trials:
            raise _unknown_trial(options.trial, design)
    return [
        _search(asked(trial.name, (), options.granularity or trial.granularity), design, watch)
        for trial in trials
    ]


def _unknown_trial(name: str, design: "Design") -> Exception:
    from dpamt.errors import InputError
    from dpamt.verify.suite import trials_of

    known = ", ".join(f'"{trial.name}"' for trial in trials_of(design))
    return InputError(f"--trial {name!r}: expected one of {known}")


def _search(asked: "Asked", design: "Design", watch: "Watch | None") -> "Tried":
    from dpamt.verify.certificate import Tried, confirm, prepare
    from dpamt.verify.search import Progress
    from dpamt.verify.verdict import verify

    trial, judges = prepare(asked, design)

    def told(now: Progress) -> None:
        if watch is not None:
            what = f"{now.states:,} states, depth {now.depth}"
            watch(design.name, trial.name, what, now.states, asked.most_states)

    verdict = verify(trial.make(design), judges, asked.granularity, asked.most_states, told)
    return Tried(asked, trial, verdict, confirm(design, trial, verdict, judges))


def _check(options: argparse.Namespace) -> int:
    """Ask again what a certificate was asked, and compare."""
    from dpamt.cli.output import write_text
    from dpamt.host.designs.load import load_design
    from dpamt.report.progress import watching
    from dpamt.verify.certificate import differences, read, trials

    kept = read(options.check)
    lines = []
    differs = False
    with watching() as watch:
        for asked, trial in trials(kept):
            design = load_design(asked.design)
            _check_discipline(design)
            said = _search(asked, design, watch).verdict
            wrong = differences(trial, kept["python"], said)
            title = f"{asked.design}, {trial['trial']}: {trial['verdict']}"
            lines.append(f"{title}, {said.states:,} states: {'DIFFERS' if wrong else 'the same'}")
            lines += [f"  {line}" for line in wrong]
            differs = differs or bool(wrong)
    lines.append("DIFFERS from the certificate." if differs else "As the certificate says.")
    write_text("\n".join(lines) + "\n")
    return 1 if differs else 0


def _replay(options: argparse.Namespace) -> int:
    """Run the counterexamples of a document again, on threads."""
    from dataclasses import replace

    from dpamt.cli.output import write_text
    from dpamt.errors import InputError
    from dpamt.host.designs.load import load_design
    from dpamt.report.verify_text import replay_text
    from dpamt.verify.certificate import prepare, read, trials
    from dpamt.verify.counterexample import from_json
    from dpamt.verify.replay import replay

    again = False
    shown: Counterexample | None = None
    count = 0
    for asked, kept in trials(read(options.replay)):
        for found in kept["counterexamples"]:
            design = load_design(asked.design)
            trial, judges = prepare(asked, design)
            told = from_json(found, options.replay)
            try:
                said = replay(trial.make(design), judges, found)
            except InputError as error:
                raise InputError(f"{options.replay}: {error}") from None
            again = again or bool(said.broken)
            title = f"{asked.design}, {trial.name}"
            write_text(replay_text(title, told, said, options.whole, options.whole or not count))
            if shown is None:
                shown = replace(told, steps=said.steps, shared=said.shared)
            count += 1
    if not count:
        raise InputError(f"{options.replay}: no counterexample in it; expected one")
    _draw(options, shown)
    return 1 if again else 0


def _draw(options: argparse.Namespace, found: "Counterexample | None") -> None:
    """The pages that were asked for."""
    import sys

    if not options.html and not options.perfetto:
        return

    from dpamt.cli.output import write_file
    from dpamt.report.verify_html import html_page
    from dpamt.report.verify_perfetto import perfetto_trace

    for path, page in ((options.html, html_page), (options.perfetto, perfetto_trace)):
        if path and found is not None:
            write_file(path, page(found))
        elif path:
            sys.stderr.write(f"dpamt: {path}: not written, nothing failed\n")


def _check_usage(options: argparse.Namespace) -> None:
    """Options that do not go together."""
    from dpamt.errors import InputError

    if options.all and options.designs:
        raise InputError("--all: expected without names of designs, for it takes all of them")
    for name in ("replay", "check"):
        given = getattr(options, name)
        if given and (options.all or options.designs or options.save or options.json):
            raise InputError(f"--{name}: expected alone, its file says what to do")
    if options.replay and options.check:
        raise InputError("--replay: expected without --check")
    if options.check and (options.html or options.perfetto):
        raise InputError("--check: expected without --html and --perfetto")


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
    parser.add_argument(
        "--property",
        metavar="FILE",
        help="properties of your own: a Python file of functions name(view) (docs/verify.md)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/verify.md)")
    parser.add_argument("--save", metavar="FILE", help="keep the verdict, as a certificate")
    parser.add_argument(
        "--check", metavar="FILE", help="ask again what a certificate says; 0 when it is the same"
    )
    parser.add_argument(
        "--replay",
        metavar="FILE",
        help="run the counterexamples that --save or --json wrote again, each CPU a thread; 1 when "
        "one fails again",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="the nearest counterexample as a page with a time slider"
    )
    parser.add_argument(
        "--perfetto", metavar="FILE", help="the same as a trace for ui.perfetto.dev"
    )
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
