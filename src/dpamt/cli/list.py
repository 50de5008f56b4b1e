"""`dpamt list`: what can be named, so that nobody has to find it out by an error."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any, Final

from dpamt.cli.parser import Parser

_LEAST_ABOUT: Final = 40

Row = dict[str, Any]
"""Facts of one thing; the first is its name, ``about`` is for eyes."""


def main(arguments: list[str]) -> int:
    """Print; 0."""
    return _list(_parser().options(arguments))


def _list(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_document, write_text

    if options.source is not None:
        write_document(_source(options.kind, options.source))
        return 0
    rows = list(KINDS[options.kind]())
    if options.json:
        write_document(json.dumps({options.kind: rows}, indent=2) + "\n")
        return 0
    width = max(len(str(row["name"])) for row in rows)
    write_text("".join(line + "\n" for row in rows for line in _lines(row, width)))
    return 0


def _source(kind: str, name: str) -> str:
    """The text of a file that comes with dpamt, to start one of one's own from."""
    from importlib.resources import files

    from dpamt.errors import InputError

    if kind not in FILES:
        raise InputError(f"list {kind}: they have no files; expected one of {', '.join(FILES)}")
    if (kind, name) == ("designs", "base"):
        from dpamt.host.designs import base

        return f"{(base.__doc__ or '').strip()}\n"
    names = [row["name"] for row in KINDS[kind]()]
    if name not in names:
        raise InputError(f"list {kind} --source {name}: expected one of {', '.join(names)}")
    folder, ending = FILES[kind]
    stem = name.replace("-", "_") if ending == ".py" else name
    return (files("dpamt") / folder / f"{stem}{ending}").read_text(encoding="utf-8")


def _lines(row: Row, width: int) -> Iterable[str]:
    from textwrap import wrap

    from dpamt.report.width import width as columns

    head = f"{row['name']:{width}}  "
    if columns() < width + _LEAST_ABOUT:  # below the name, then
        yield str(row["name"])
        head = "    "
    yield from wrap(
        str(row["about"]),
        columns(),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    )


def _designs() -> Iterable[Row]:
    from importlib import import_module

    from dpamt.host.designs.load import SHIPPED

    for name in SHIPPED:
        module = import_module(f"dpamt.host.designs.{name.replace('-', '_')}")
        yield {"name": name, "about": _first_sentence(module.__doc__ or "")}


def _trials() -> Iterable[Row]:
    from dpamt.verify.programs.suite import SUITE

    for trial in SUITE:
        asked = "; only with --trial" if trial.by_name else ""
        yield {
            "name": trial.name,
            "granularity": trial.granularity,
            "only_by_name": trial.by_name,
            "about": f"{trial.meaning} (CPUs switched at: {trial.granularity}{asked})",
        }


def _hosts() -> Iterable[Row]:
    from dpamt.platform.read_machine import PACKAGED_HOSTS, packaged_host
    from dpamt.report.units import amount

    for name in PACKAGED_HOSTS:
        machine = packaged_host(name)
        size = machine.total_pages << 12
        yield {"name": name, "memory_bytes": size, "about": f"{amount(size)} of memory"}


def _scenarios() -> Iterable[Row]:
    from dpamt.run.api import packaged_scenario, packaged_scenarios

    for name in packaged_scenarios():
        yield {"name": name, "about": packaged_scenario(name).title}


def _releases() -> Iterable[Row]:
    from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
    from dpamt.module.releases import RELEASES

    for release in RELEASES.values():
        dynamic = bool(release.features0 & TDX_FEATURES0_DYNAMIC_PAMT)
        about = f"TDX module {release.name}, with{'' if dynamic else 'out'} Dynamic PAMT"
        yield {"name": release.name, "dynamic_pamt": dynamic, "about": about}


def _leaves() -> Iterable[Row]:
    from dpamt.abi.leaves import LEAF_NAMES
    from dpamt.module.leaves.table import HANDLERS

    for number, name in sorted(LEAF_NAMES.items()):
        answered = number in HANDLERS
        about = f"leaf {number}" + ("" if answered else ", not answered by the model")
        yield {"name": name, "number": number, "answered": answered, "about": about}


def _first_sentence(text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split())
    return first.rstrip(".")


KINDS: Final[dict[str, Callable[[], Iterable[Row]]]] = {
    "designs": _designs,
    "trials": _trials,
    "hosts": _hosts,
    "scenarios": _scenarios,
    "releases": _releases,
    "leaves": _leaves,
}


FILES: Final = {
    "designs": ("host/designs", ".py"),
    "hosts": ("platform/data", ".dmesg"),
    "scenarios": ("run/scenarios", ".toml"),
}
"""Kinds that are files: the folder in dpamt, and how their names end."""


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt list",
        description="List the names that the other verbs take: designs (run, verify), trials "
        "(verify), hosts (run, plan), scenarios (run), releases of the TDX module "
        "(run, plan, boot, conform), leaves (decode, --inject).",
    )
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="print the file of this design, host or scenario, to start one of your own from: "
        "dpamt list designs --source merged > mine.py",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.not_with("--source", "--json")
    return parser
