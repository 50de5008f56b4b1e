"""The options of `dpamt verify`: what may be asked, and what does not go together."""

import argparse
from pathlib import Path
from typing import Final

from dpamt.cli.parser import Parser
from dpamt.errors import InputError

_DEFAULTS: Final = {
    "pairs": "apart",
    "failures": 0,
    "max_states": 5_000_000,
    "max_memory": 0,
    "jobs": 0,
    "engine": "",
    "reductions": "all",
    "spill": "",
    "memory_model": "tso",
    "functions": {},
    "tolerate": [],
    "set": [],
    "module": [],
}
"""What an option that is not given stands for."""
_WITH_FILE: Final = {
    "replay": frozenset({"force", "designs", "property", "whole", "html", "perfetto"}),
    "check": frozenset({"designs", "property", "max_memory", "jobs", "engine", "spill", "ray"}),
    "resume": frozenset(
        {
            "force",
            "designs",
            "property",
            "max_states",
            "max_memory",
            "jobs",
            "spill",
            "checkpoint",
            "whole",
            "json",
            "save",
            "html",
            "perfetto",
            "sarif",
            "junit",
        }
    ),
}
"""Options that take a file which says what to do, and the options that have an effect beside it."""
_SPELLED: Final = {"regions": "cpus"}


def options_of(arguments: list[str]) -> argparse.Namespace:
    """The options, checked; leaves with one line for those that are wrong."""
    options = _parser().options(arguments)
    _check_usage(options)
    for name, value in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _check_usage(options: argparse.Namespace) -> None:
    """Options that do not go together, and those that would have no effect."""
    from dpamt.host.designs.load import SHIPPED

    given = {name for name, value in vars(options).items() if value not in (None, False, [], "")}
    modes = [name for name in _WITH_FILE if name in given]
    if len(modes) > 1:
        raise InputError("--replay, --check, --resume: expected one of them")
    for mode in modes:
        for name in sorted(given - {mode} - _WITH_FILE[mode]):
            raise InputError(
                f"--{_SPELLED.get(name, name).replace('_', '-')}: has no effect with --{mode}, "
                "whose file says what to do; expected without"
            )
        for name in options.designs:
            if name in SHIPPED:
                raise InputError(
                    f"{name}: expected with --{mode} only Python files that may be executed; "
                    "designs that come with dpamt need not be given"
                )
    if not modes:
        _check_search(options, given)
    if "whole" in given and "json" in given:
        raise InputError("--whole: expected without --json, which has all steps")


def _check_search(options: argparse.Namespace, given: set[str]) -> None:
    """The same, of a search that no file describes."""
    if options.all and options.designs:
        raise InputError("--all: expected without names of designs, because it takes all of them")
    if options.vmlinux and (options.designs or options.all):
        raise InputError("--vmlinux: expected without designs; the image is the design")
    for name in ("module", "functions", "tolerate", "set", "memory_model"):
        if name in given and not options.vmlinux:
            raise InputError(f"--{name.replace('_', '-')}: expected with --vmlinux FILE")
    if options.trial is not None and options.regions:
        raise InputError("--trial, --cpus: expected one of them")
    for name in ("pairs", "failures"):
        if name in given and not options.regions:
            raise InputError(f"--{name}: expected with --cpus; the suite's trials have their own")
    if options.pairs == "crossed" and len(options.regions) < 2:
        raise InputError("--pairs crossed: expected several regions, such as --cpus 1+1")
    if options.whole and (options.all or len(options.designs) > 1):
        raise InputError("--whole: expected with one design; several are shown as a table")
    for name in ("checkpoint", "engine", "spill"):
        if name in given and options.ray:
            raise InputError(f"--{name}: expected without --ray")
    for name in ("jobs", "spill"):
        if name in given and options.engine == "python":
            raise InputError(f"--{name}: expected without --engine python, which has one CPU")
    if options.jobs and not options.ray:
        from dpamt.verify.explore.compiled.library import MOST_THREADS

        if options.jobs > MOST_THREADS:
            raise InputError(
                f"--jobs {options.jobs}: expected at most {MOST_THREADS} without --ray"
            )
    if options.spill and not options.max_memory:
        raise InputError("--spill: expected with --max-memory SIZE, above which it is used")
    if options.checkpoint and not _is_one_search(options):
        raise InputError(
            "--checkpoint: expected with one search: one design, and --trial, or --cpus and "
            "--granularity"
        )


def _is_one_search(options: argparse.Namespace) -> bool:
    one = options.trial is not None or (options.regions and options.granularity)
    return bool(one) and not options.all and len(options.designs) <= 1


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt verify",
        description="Run the functions of a design, of the host and of the TDX module through "
        "every interleaving. Print what holds and within which bounds, or the "
        "shortest way to a failure. Exit code 1 when a property fails or a search "
        "could not be finished.",
    )
    parser.add_input(
        "designs",
        nargs="*",
        metavar="DESIGN",
        help="merged (the default), v6, ... (dpamt list designs), or a Python file",
    )
    parser.add_input(
        "--vmlinux",
        metavar="FILE",
        help="verify machine code instead of a design: tdx_pamt_get and tdx_pamt_put of a "
        "vmlinux, a .ko or an object (docs/machine-code.md; needs the extra machine)",
    )
    parser.add_input(
        "--module",
        action="append",
        metavar="KO",
        help="with --vmlinux: a module (.ko) that is linked into the kernel, which may have the "
        "functions; may be repeated, each after those that it needs",
    )
    parser.add_argument(
        "--functions",
        type=_functions,
        metavar="get=SYM,put=SYM",
        help="with --vmlinux: the names of the functions, where they differ; counts=SYM names the"
        " counters",
    )
    parser.add_argument(
        "--tolerate",
        type=_answer,
        action="append",
        metavar="LEAF=STATUS",
        help="with --vmlinux: an answer of the module that the code takes as benign, such as "
        "TDH.PHYMEM.PAMT.ADD=TDX_HPA_RANGE_NOT_FREE; may be repeated",
    )
    parser.add_argument(
        "--set",
        type=_value,
        action="append",
        metavar="NAME=VALUE",
        help="with --vmlinux: a variable of the image as the booted kernel has it, such as a "
        "module's parameter; VALUE is a number or the name of a symbol; may be repeated",
    )
    parser.add_argument(
        "--memory-model",
        choices=("tso", "sc"),
        help="with --vmlinux: x86-TSO, where stores wait in each CPU's store buffer (the "
        "default), or sequentially consistent",
    )
    parser.add_argument(
        "--all", action="store_true", help="verify every design that comes with dpamt"
    )
    parser.add_argument(
        "--trial", metavar="NAME", help="run only this trial of the suite (dpamt list trials)"
    )
    parser.add_argument(
        "--cpus",
        "--regions",
        dest="regions",
        type=_regions,
        metavar="N[+N...]",
        help="instead of the suite: N CPUs in one 2M region (as 3), or in several (as 2+2); each "
        "does get, AUG, REMOVE, put",
    )
    parser.add_argument(
        "--granularity",
        choices=("seamcall", "locks", "words"),
        help="where CPUs may be switched inside a SEAMCALL: nowhere, at the module's locks, at "
        "every shared word",
    )
    parser.add_argument(
        "--pairs",
        choices=("apart", "crossed", "own", "straddling"),
        help="with --cpus: where the pages of a pair lie: apart from all regions (the default), "
        "in the other region, in the region itself, or one of them in another region",
    )
    parser.add_argument(
        "--failures",
        type=_count,
        metavar="N",
        help="with --cpus: at most N allocations fail, at any place",
    )
    parser.add_argument(
        "--max-states",
        type=_states,
        metavar="N",
        help="stop a search after N states (5000000)",
    )
    parser.add_argument(
        "--max-memory",
        type=_memory,
        metavar="SIZE",
        help="stop a search when its process holds this much memory (4GiB)",
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="search on N CPUs, in compiled code (same states, same verdict); with --ray, in N "
        "processes",
    )
    parser.add_argument(
        "--engine",
        choices=("compiled", "python"),
        help="search in compiled code from the start, or in Python alone; else compiled code takes "
        "over from 4000 states on where there is a C compiler (same answer)",
    )
    parser.add_argument(
        "--reductions",
        choices=("all", "none"),
        help="none: each step on a word that somebody changes has states of its own, as a check "
        "of the reductions; equal threads stay sorted (all)",
    )
    parser.add_argument(
        "--spill",
        type=_folder,
        metavar="DIR",
        help="with --max-memory: above it, go on with the states in files in DIR instead of "
        "stopping; the files are removed when the search ends",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="with the extra ray: search in processes on the machines of a Ray cluster (auto, "
        "HOST:PORT, or local)",
    )
    parser.add_output(
        "--checkpoint",
        kind="checkpoint",
        goes_on="resume",
        help="store one search in a file: every minute, on Ctrl-C, at --max-states and "
        "--max-memory",
    )
    parser.add_input(
        "--resume",
        metavar="FILE",
        help="continue the search in such a file; Python files are given as for --check",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="show the steps of every counterexample, the module's own among them",
    )
    parser.add_input(
        "--property",
        metavar="FILE",
        help="properties of your own: a Python file of functions name(view) (docs/verify.md)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/verify.md)")
    parser.add_output("--save", kind="certificate", help="store the verdict as a certificate")
    parser.add_input(
        "--check",
        metavar="FILE",
        help="repeat the search of a certificate; 0 when everything is the same. Only Python "
        "files that are given here are executed: dpamt verify --check FILE mine.py",
    )
    parser.add_input(
        "--replay",
        metavar="FILE",
        help="run the counterexamples of a document (--save, --json) again, each CPU as a thread;"
        " 1 when one fails again. Python files are given as for --check",
    )
    parser.add_output(
        "--html", kind="page", help="the shortest counterexample as a page with a time slider"
    )
    parser.add_output("--perfetto", kind="trace", help="the same as a trace for ui.perfetto.dev")
    parser.add_output("--sarif", kind="sarif", help="all results as SARIF 2.1.0, for code hosts")
    parser.add_output("--junit", kind="junit", help="all results as a JUnit report, for CI")
    return parser


def _functions(text: str) -> dict[str, str]:
    from dpamt.verify.machine_code.design import ROLES

    named = dict(part.partition("=")[::2] for part in text.split(","))
    if len(named) != len(text.split(",")) or not all(
        role in ROLES and name for role, name in named.items()
    ):
        raise ValueError(text)
    return named


_functions.__name__ = "functions (get=SYMBOL, put=SYMBOL, counts=SYMBOL, by commas)"


def _answer(text: str) -> tuple[int, int]:
    from dpamt.verify.machine_code.design import answer_of

    try:
        return answer_of(text)
    except InputError:
        raise ValueError(text) from None


_answer.__name__ = "answer (LEAF=STATUS, such as TDH.PHYMEM.PAMT.ADD=TDX_HPA_RANGE_NOT_FREE)"


def _value(text: str) -> tuple[str, str]:
    from dpamt.verify.machine_code.design import value_of

    try:
        return value_of(text)
    except InputError:
        raise ValueError(text) from None


_value.__name__ = "value (NAME=VALUE, a number or the name of a symbol)"


def _regions(text: str) -> tuple[int, ...]:
    from dpamt.verify.asked import MOST_CPUS, MOST_REGIONS

    cpus = tuple(int(part) for part in text.split("+"))
    if min(cpus) < 1 or sum(cpus) > MOST_CPUS or len(cpus) > MOST_REGIONS:
        raise ValueError(text)
    return cpus


_regions.__name__ = "CPUs (1 to 24 in all, in at most 4 regions)"


def _count(text: str) -> int:
    from dpamt.verify.asked import MOST_FAILURES

    number = int(text)
    if not 0 <= number <= MOST_FAILURES:
        raise ValueError(text)
    return number


_count.__name__ = "number of failures (0 to 4)"


def _memory(text: str) -> int:
    number, unit = text[:-3], text[-3:]
    shift = {"MiB": 20, "GiB": 30, "TiB": 40}.get(unit)
    if shift is None:
        raise ValueError(text)
    found = int(number) << shift
    if not 1 << 20 <= found <= 1 << 50:
        raise ValueError(text)
    return found


_memory.__name__ = "size (such as 512MiB or 4GiB)"


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise ValueError(text)
    return number


_jobs.__name__ = "number of CPUs (1 to 31; with --ray to 1024)"


def _folder(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(text)
    return text


_folder.__name__ = "folder (one that exists)"


def _states(text: str) -> int:
    from dpamt.verify.asked import MOST_STATES

    number = int(text)
    if not 1 <= number <= MOST_STATES:
        raise ValueError(text)
    return number


_states.__name__ = "number of states (from 1)"
