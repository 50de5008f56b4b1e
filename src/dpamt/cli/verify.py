"""`dpamt verify`: every interleaving of a design's code, or the shortest way to a failure."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpamt.cli.verify_options import options_of
from dpamt.cli.verify_trials import image_of, prints_apart, search, trials_of_all

if TYPE_CHECKING:
    from dpamt.host.designs.base import Design
    from dpamt.report.progress import Watch
    from dpamt.report.verify_text import SuiteText
    from dpamt.verify.asked import Asked
    from dpamt.verify.evidence.certificate import Tried
    from dpamt.verify.evidence.counterexample import Counterexample
    from dpamt.verify.evidence.given_files import GivenFiles


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

    from dpamt.cli.output import write_document, write_file, write_text
    from dpamt.report.progress import watching
    from dpamt.report.verify_designs import designs_text
    from dpamt.report.verify_text import SuiteText, assumptions_of, nearest, not_reached_of
    from dpamt.verify.evidence.certificate import document, is_clean, refined

    results: dict[str, list[Tried]] = {}
    designs: dict[str, Design] = {}
    loaded = {} if options.resume else _designs(options)
    if options.resume:
        with watching() as watch:
            design, one = _resumed(options, watch)
        designs[design.name] = design
        text = SuiteText(design.name, options.whole, design.code)
        results[design.name] = _told(design, iter([one]), None if options.json else text)
    names = [design.name for design in loaded.values()]
    with trials_of_all(loaded, options) as trials:
        for name, design in loaded.items():
            title = name if names.count(design.name) > 1 else design.name
            text = SuiteText(title, options.whole, design.code)
            told = None if options.json or len(loaded) > 1 else text
            results[title] = _told(design, trials(name), told)
            designs[title] = design
    if len(results) == 1:
        ((title, tried),) = results.items()
        with prints_apart():
            results[title] = refined(designs[title], tried)
    if options.save or options.json:
        whole = json.dumps(document(results, designs), indent=2) + "\n"
    if options.save:
        write_file(options.save, whole)
    if options.json:
        write_document(whole)
    elif len(results) > 1:
        from dpamt.verify.costs import fast_path_locks

        with prints_apart():
            locks = {title: fast_path_locks(design) for title, design in designs.items()}
        write_text(designs_text(results, locks))
    else:
        write_text(text.end(results[title]))
    _report(options, results)
    every = [one for tried in results.values() for one in tried]
    found = nearest(every)
    if found:
        one, shortest, _ = found[0]
        its = next(tried for tried in results.values() if one in tried)
        rests = assumptions_of(its), not_reached_of(its)
        _draw(options, shortest, one.asked.design, *rests)
    else:
        _draw(options, None)
    return 0 if is_clean(results) else 1


def _designs(options: argparse.Namespace) -> "dict[str, Design]":
    """The designs to verify, by the name or path that was given."""
    from dpamt.errors import InputError
    from dpamt.host.designs.load import SHIPPED

    if options.vmlinux:
        from dpamt.cli.extras import require

        require("verify --vmlinux", "unicorn", "capstone", "elftools")
        return {options.vmlinux: _loaded(options.vmlinux, image_of(options), options.module)}
    names = options.designs or (SHIPPED if options.all else ("merged",))
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: given twice; expected each design once")
    designs = {name: _loaded(name) for name in names}
    for design in designs.values():
        if not design.dynamic_pamt and not options.all:
            raise InputError(
                f"design {design.name}: never asks for Dynamic PAMT; nothing to verify"
            )
    return {name: design for name, design in designs.items() if design.dynamic_pamt}


def _told(design: "Design", tried: "Iterator[Tried]", text: "SuiteText | None") -> "list[Tried]":
    """The trials of one design; each is reported as soon as it has ended, if there is a text."""
    from dpamt.cli.output import write_text
    from dpamt.verify.evidence.certificate import refined

    every: list[Tried] = []
    for one in tried:
        if one.verdict.counterexamples and not any(o.verdict.counterexamples for o in every):
            with prints_apart():
                (one,) = refined(design, [one])
        every.append(one)
        if text is not None:
            write_text(text.trial(one))
            sys.stdout.flush()
    return every


def _resumed(options: argparse.Namespace, watch: "Watch | None") -> "tuple[Design, Tried]":
    """The search that a file keeps, taken up again; its design."""
    from dataclasses import replace

    from dpamt.errors import InputError
    from dpamt.verify.asked import asked_of
    from dpamt.verify.evidence.checkpoint import read

    kept = read(options.resume, options.max_memory)
    try:
        asked = replace(asked_of(kept.head["asked"]), most_states=options.max_states)
    except (TypeError, KeyError, ValueError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(
            f"{options.resume}: asked: {what}; expected what --checkpoint wrote"
        ) from None
    given = _given(options, options.resume, [asked])
    asked = given.of(asked)
    design = _loaded(asked.design, asked.image, asked.modules)
    options.checkpoint = options.checkpoint or options.resume
    one = search(asked, design, watch, options, kept)
    verdict = replace(one.verdict, taken_up=Path(options.resume).name)
    return design, replace(one, verdict=verdict)


def _given(options: argparse.Namespace, where: str, asked: "Iterable[Asked]") -> "GivenFiles":
    """The files that were given for a document; what is executed is said first."""
    from dpamt.verify.evidence.given_files import GivenFiles

    given = GivenFiles(where, asked, options.designs, options.property)
    sys.stderr.write(f"dpamt: {given.told()}\n")
    return given


def _loaded(name: str, image: str = "", modules: "Sequence[str]" = ()) -> "Design":
    """A design whose code may be run step by step; ``image``: how a kernel image is read."""
    if image:
        from dpamt.verify.machine_code.design import machine_design, read_how

        return machine_design(Path(name), *read_how(image), modules)

    from dpamt.host.designs.load import load_design

    with prints_apart():
        design = load_design(name)
    _check_discipline(design)
    return design


def _check(options: argparse.Namespace) -> int:
    """Ask again what a certificate was asked, and compare."""
    from dpamt.cli.output import write_text
    from dpamt.report.progress import watching
    from dpamt.report.verify_check import design_lines, last_line
    from dpamt.verify.evidence import checking
    from dpamt.verify.evidence.certificate import is_clean, read, suite_of, trials

    kept = read(options.check)
    given = _given(options, options.check, [asked for asked, _ in trials(kept)])
    same_python = checking.same_bytecode(kept)
    results: dict[str, list[Tried]] = {}
    wrong: list[str] = []
    parts = []
    for number, of_design in enumerate(kept["designs"]):
        every = [given.of(asked) for asked, _ in trials({"designs": [of_design]})]
        with watching() as watch, prints_apart():
            design = _loaded(every[0].design, every[0].image, every[0].modules)
            tried = [search(asked, design, watch, options) for asked in every]
            results[str(number)] = tried
            said = [
                checking.differences(was, now, design, options.check, same_python)
                for was, now in zip(of_design["trials"], tried, strict=True)
            ]
        named = [asked for asked, _ in trials({"designs": [of_design]})]
        first = checking.design_differences(design, of_design, named, every[0].design, tried)
        suite = suite_of(design, every)
        parts.append(suite["left_out"])
        write_text(design_lines(design.name, suite["left_out"], tried, first, said))
        wrong += [*first, *(line for lines in said for line in lines)]
    head = checking.head_differences(kept, is_clean(results))
    write_text(last_line(head, bool(wrong), parts, kept["python"], same_python))
    return 1 if wrong or head else 0


def _replay(options: argparse.Namespace) -> int:
    """Run the counterexamples of a document again, on threads."""
    from dataclasses import replace

    from dpamt.cli.output import write_text
    from dpamt.errors import InputError
    from dpamt.report.verify_text import replay_text
    from dpamt.verify.asked import prepare
    from dpamt.verify.evidence.certificate import read, trials
    from dpamt.verify.evidence.counterexample import from_json
    from dpamt.verify.evidence.replay import replay

    document = read(options.replay)
    failing = [(asked, kept) for asked, kept in trials(document) if kept["counterexamples"]]
    if not failing:
        raise InputError(f"{options.replay}: no counterexample in it; expected one")
    told_of = [
        (asked, found, from_json(found, options.replay))
        for asked, kept in failing
        for found in kept["counterexamples"]
    ]
    given = _given(options, options.replay, [asked for asked, _ in trials(document)])
    designs: dict[tuple[str, str, tuple[str, ...]], Design] = {}
    again = False
    shown: Counterexample | None = None
    fails = ""
    for asked, found, told in told_of:
        asked = given.of(asked)
        with prints_apart():
            key = asked.design, asked.image, asked.modules
            if key not in designs:
                designs[key] = _loaded(asked.design, asked.image, asked.modules)
            design = designs[key]
            trial, judges = prepare(asked, design)
            try:
                said = replay(trial.make(design), judges, found)
            except InputError as error:
                raise InputError(f"{options.replay}: {error}") from None
        again = again or bool(said.broken)
        title = f"{design.name}, {trial.name}"
        table = options.whole or shown is None
        write_text(replay_text(title, told, said, options.whole, table))
        if shown is None:
            shown = replace(told, steps=said.steps, shared=said.shared)
            fails = design.name
    _draw(options, shown, fails)
    return 1 if again else 0


def _report(options: argparse.Namespace, results: "dict[str, list[Tried]]") -> None:
    """The reports for machines that were asked for: they have every trial, also when all hold."""
    from dpamt.cli.output import write_file

    if options.sarif:
        from dpamt.report.verify_sarif import sarif_log

        write_file(options.sarif, sarif_log(results))
    if options.junit:
        from dpamt.report.verify_junit import junit_report

        write_file(options.junit, junit_report(results))


def _draw(
    options: argparse.Namespace,
    found: "Counterexample | None",
    design: str = "",
    assumptions: "Iterable[str]" = (),
    not_reached: "Iterable[str]" = (),
) -> None:
    """The pages that were asked for."""
    if not options.html and not options.perfetto:
        return

    from dpamt.cli.output import write_file
    from dpamt.report.verify_html import html_page
    from dpamt.report.verify_perfetto import perfetto_trace

    pages = (
        (
            options.html,
            lambda found: html_page(found, design, tuple(assumptions), tuple(not_reached)),
        ),
        (options.perfetto, perfetto_trace),
    )
    for path, page in pages:
        if path and found is not None:
            write_file(path, page(found))
        elif path:
            sys.stderr.write(f"dpamt: {path}: not written, nothing failed\n")


def _check_discipline(design: "Design") -> None:
    """A user's design is run step by step: refuse code whose state could not be seen."""
    import dpamt
    from dpamt.errors import InputError
    from dpamt.sync.design_reach import ALLOWED, out_of_reach
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
    for breach in out_of_reach(path):
        raise InputError(
            f"{breach}; expected dpamt's own rooms of the host, {', '.join(sorted(ALLOWED))}, and "
            "no call of what reaches beyond them (docs/designs.md)"
        )
    for breach in plain_changes(path):
        raise InputError(f"{breach}; expected words and locks of kernel.pamt (docs/verify.md)")
