"""`dpamt trace`: a recording of a host's SEAMCALLs, read and judged."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from dpamt.trace.judge.result import Judgement
    from dpamt.trace.recording.model import Item

_OBJECTS = 100_000


def main(arguments: list[str]) -> int:
    """Judge and print; 0 when nothing is found, else 1."""
    return _trace(_parser().options(arguments))


def _trace(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.extras import require
    from dpamt.cli.output import write_document, write_text
    from dpamt.errors import InputError
    from dpamt.report.trace_json import trace_json
    from dpamt.report.trace_text import trace_text

    if options.how is not None:
        return _how(options)
    for name in ("kernel", "no_counts", "stacks", "locks"):
        if getattr(options, name):
            raise InputError(f"--{name.replace('_', '-')}: expected only with --how")
    if options.recording is None:
        raise InputError("trace: no RECORDING; expected a file, or - for standard input")
    if options.parquet:
        require("trace --parquet", "pyarrow")
    if options.html:
        require("trace --html", "plotly")
    judged = _judge(options)
    if options.html:
        from dpamt.cli.output import write_file
        from dpamt.report.trace_html import trace_page

        write_file(options.html, trace_page(judged))
    if options.json:
        write_document(json.dumps(trace_json(judged), indent=2) + "\n")
    else:
        write_text(trace_text(judged))
    return 0 if judged.clean else 1


def _how(options: argparse.Namespace) -> int:
    from dpamt.cli.output import write_document
    from dpamt.errors import InputError
    from dpamt.trace.how import DEFAULT_KERNEL, Wanted, how, parse_kernel

    for name in (
        "recording",
        "format",
        "counts",
        "kallsyms",
        "parquet",
        "perfetto",
        "html",
        "json",
    ):
        if getattr(options, name):
            raise InputError(f"--how and {name}: expected one of them")
    wanted = Wanted(
        DEFAULT_KERNEL if options.kernel is None else parse_kernel(options.kernel),
        *(not options.no_counts, options.stacks, options.locks),
    )
    if options.how == "drgn" and wanted != Wanted():
        raise InputError(
            "--how drgn: expected without --kernel, --no-counts, --stacks and --locks, which are "
            "for tracers"
        )
    write_document(how(options.how, wanted))
    return 0


def _judge(options: argparse.Namespace) -> "Judgement":
    import sys
    from contextlib import ExitStack

    from dpamt.errors import InputError
    from dpamt.files import replaced
    from dpamt.report.progress import counting
    from dpamt.report.trace_perfetto import PerfettoOut
    from dpamt.trace.judge.counts import read_counts
    from dpamt.trace.judge.judge import Judge
    from dpamt.trace.recording.parquet import ParquetOut
    from dpamt.trace.recording.read import FORMATS, Recording
    from dpamt.trace.recording.symbols import Symbols

    counts = read_counts(options.counts).regions if options.counts is not None else None
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(options.recording))
        name = "standard input" if options.recording == "-" else options.recording
        symbols = None if options.kallsyms is None else Symbols(options.kallsyms)
        recording = Recording(stream, name, options.format, symbols)
        judge = Judge(recording.health)
        takers: list[Callable[[Item], None]] = []
        if options.parquet:
            file = stack.enter_context(replaced(options.parquet, "wb"))
            takers.append(stack.enter_context(ParquetOut(file)).add)
        perfetto = None
        if options.perfetto:
            perfetto = PerfettoOut(stack.enter_context(replaced(options.perfetto)), judge)
            takers.append(perfetto.add)
        progress = stack.enter_context(counting())
        stack.enter_context(_seldom_collected())
        for batch in recording.batches():
            if not takers:
                judge.take_all(batch)
            for item in batch if takers else ():
                judge.take(item)
                for take in takers:
                    take(item)
            if progress is not None:
                progress(name, recording.health.calls)
        health = recording.health
        if not health.events:
            what = health.damaged.first[0] if health.damaged.first else "no line with an event"
            raise InputError(
                f"{name}: read as {FORMATS[recording.form]}, and it has none of dpamt's events "
                f"({what}); expected a recording made with dpamt trace --how TOOL"
            )
        judged = judge.judgement(recording.form, name, counts)
        if perfetto is not None:
            perfetto.finish(judged)
            if perfetto.left_out:
                sys.stderr.write(
                    f"dpamt: {options.perfetto}: the first {perfetto.slices:,} calls, gets and "
                    f"puts; {perfetto.left_out:,} more are left out\n"
                )
        return judged


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Have Python look for cycles of objects less often.

    Items of a recording are in no cycle, and the looking took a tenth of the time.
    """
    import gc

    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    from dpamt.inputs import opened, standard_input

    expected = "expected a recording"
    if name == "-":
        yield standard_input(expected)
        return
    with opened(name, expected) as file:
        yield file


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt trace",
        description="Judge a recording of a real host's SEAMCALLs: impossible answers, page pairs"
        " over time, leaks with their caller, holders of busy locks, durations. "
        "docs/trace.md says how to record.",
    )
    parser.add_input(
        "recording",
        nargs="?",
        metavar="RECORDING",
        help="text of trace-cmd report, perf script, bpftrace, ftrace's trace file, or dpamt boot "
        "--record; - is standard input",
    )
    parser.add_argument(
        "--format",
        choices=("ftrace", "trace-cmd", "perf", "bpftrace", "bpftrace-json", "boot"),
        help="the tracer that wrote the recording (default: recognised by its first lines)",
    )
    parser.add_argument(
        "--how",
        choices=("bpftrace", "ftrace", "trace-cmd", "perf", "drgn"),
        help="print the script that records with this tracer; drgn: a script that reads the "
        "kernel's counters, for --counts",
    )
    parser.add_argument(
        "--kernel",
        metavar="V",
        help="with --how: the version of the kernel, as uname -r prints it (7.4)",
    )
    parser.add_argument(
        "--no-counts",
        action="store_true",
        help="with --how: do not record tdx_pamt_get() and tdx_pamt_put(), for kernels where they"
        " take no pfn",
    )
    parser.add_argument(
        "--stacks",
        action="store_true",
        help="with --how: record the stack of each SEAMCALL, get and put",
    )
    parser.add_argument(
        "--locks",
        action="store_true",
        help="with --how: record how long gets and puts wait for their lock "
        "(lock:contention_begin)",
    )
    parser.add_input(
        "--counts",
        metavar="FILE",
        help="the kernel's counters at the end of the recording (--how drgn)",
    )
    parser.add_input(
        "--kallsyms",
        metavar="FILE",
        help="a copy of the host's /proc/kallsyms: gives names to callers that perf and trace-cmd"
        " write as addresses",
    )
    parser.add_output(
        "--parquet", kind="table", help="write every call, get and put as a row of a table"
    )
    parser.add_output(
        "--perfetto",
        kind="trace",
        help="write a trace with a track for each CPU, for ui.perfetto.dev",
    )
    parser.add_output("--html", kind="page", help="write one page with plots")
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/trace.md)")
    return parser
