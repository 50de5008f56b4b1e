"""`dpamt verify`: every interleaving of a design's code, or the shortest way to a failure."""

import argparse
from typing import TYPE_CHECKING

from dpamt.cli.verify_options import options_of

if TYPE_CHECKING:
    from dpamt.host.designs.base import Design
    from dpamt.report.progress import Watch
    from dpamt.verify.asked import Asked
    from dpamt.verify.evidence.certificate import Tried
    from dpamt.verify.evidence.checkpoint import Kept
    from dpamt.verify.evidence.counterexample import Counterexample


def main(arguments: list[str]) -> int:
    """Search and print; 0 when every property holds, else 1."""
    options = options_of(arguments)
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
    from dpamt.verify.evidence.certificate import document, refined

    results: dict[str, list[Tried]] = {}
    designs = {} if options.resume else _designs(options)
    with watching() as watch:
        if options.resume:
            results = _resumed(options, watch)
        for name, design in designs.items():
            title = name if design.name in results else design.name
            results[title] = _tried(name, design, options, watch)
        if len(designs) == 1:
            results[title] = refined(design, results[title])
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
    from dpamt.verify.asked import Asked
    from dpamt.verify.programs.problem import SEAMCALL, WORDS
    from dpamt.verify.programs.suite import trials_of

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
        tried = [_search(first, design, watch, options)]
        if options.granularity is None and tried[0].verdict.verdict == "holds":
            tried.append(_search(asked("", (2,), WORDS), design, watch, options))
        return tried
    trials = trials_of(design, options.trial is not None)
    if options.trial is not None:
        trials = [trial for trial in trials if trial.name == options.trial]
        if not trials:
            raise _unknown_trial(options.trial, design)
    return [
        _search(
            asked(trial.name, (), options.granularity or trial.granularity), design, watch, options
        )
        for trial in trials
    ]


def _resumed(options: argparse.Namespace, watch: "Watch | None") -> "dict[str, list[Tried]]":
    """The search that a file keeps, taken up again."""
    from dataclasses import replace

    from dpamt.errors import InputError
    from dpamt.host.designs.load import load_design
    from dpamt.verify.asked import asked_of
    from dpamt.verify.evidence.checkpoint import read

    kept = read(options.resume)
    try:
        asked = replace(asked_of(kept.head["asked"]), most_states=options.max_states)
    except (TypeError, KeyError, ValueError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(
            f"{options.resume}: asked: {what}; expected what --checkpoint wrote"
        ) from None
    design = load_design(asked.design)
    _check_discipline(design)
    options.checkpoint = options.checkpoint or options.resume
    return {design.name: [_search(asked, design, watch, options, kept)]}


def _unknown_trial(name: str, design: "Design") -> Exception:
    from dpamt.errors import InputError
    from dpamt.verify.programs.suite import trials_of

    known = ", ".join(f'"{trial.name}"' for trial in trials_of(design, True))
    return InputError(f"--trial {name!r}: expected one of {known}")


def _search(
    asked: "Asked",
    design: "Design",
    watch: "Watch | None",
    options: argparse.Namespace,
    kept: "Kept | None" = None,
) -> "Tried":
    from dpamt.cli.lasting import lasting, team_of
    from dpamt.verify.asked import prepare
    from dpamt.verify.evidence.certificate import Tried, confirm
    from dpamt.verify.explore.search import Progress
    from dpamt.verify.verdict import verify

    trial, judges = prepare(asked, design)

    def told(now: Progress) -> None:
        if watch is not None:
            what = f"{now.states:,} states, depth {now.depth}"
            watch(design.name, trial.name, what, now.states, asked.most_states)

    problem = trial.make(design)
    most = asked.most_states
    with lasting(options, asked, kept) as ready, team_of(options, asked) as team:
        verdict = verify(problem, judges, asked.granularity, most, told, ready, team)
    return Tried(asked, trial, verdict, confirm(design, trial, verdict, judges))


def _check(options: argparse.Namespace) -> int:
    """Ask again what a certificate was asked, and compare."""
    from dpamt.cli.output import write_text
    from dpamt.host.designs.load import load_design
    from dpamt.report.progress import watching
    from dpamt.verify.evidence.certificate import differences, read, trials

    kept = read(options.check)
    lines = []
    differs = False
    with watching() as watch:
        for asked, trial in trials(kept):
            design = load_design(asked.design)
            _check_discipline(design)
            said = _search(asked, design, watch, options).verdict
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
    from dpamt.verify.asked import prepare
    from dpamt.verify.evidence.certificate import read, trials
    from dpamt.verify.evidence.counterexample import from_json
    from dpamt.verify.evidence.replay import replay

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


def _check_discipline(design: "Design") -> None:
    """A user's design is run step by step: refuse code whose state could not be seen."""
    from pathlib import Path

    import dpamt
    from dpamt.errors import InputError
    from dpamt.sync.discipline import check_files
    from dpamt.sync.plain_state import plain_changes

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
    for breach in plain_changes(path):
        raise InputError(f"{breach}; expected words and locks of kernel.pamt (docs/verify.md)")
