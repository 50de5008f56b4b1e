"""`dpamt plan --fleet`: VMs of a trace, or made up, on many hosts."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dpamt.cli.extras import require
from dpamt.cli.plan_options import AGEING, refuse_without, with_widths
from dpamt.errors import InputError

if TYPE_CHECKING:
    from dpamt.plan.fleet.hosts import HostType
    from dpamt.plan.fleet.results import Fleet

GENERATED: Final = "generated"
OCCUPANCY: Final = 0.8
"""Share of all memory that made-up VMs take on average."""
SHARE_2M: Final = 90.0
"""Percent of memory at 2M of VMs that do not say, with the series that is not merged."""

_COUNTED: Final = re.compile(r"(\d{1,6})\*(.+)")


def plan_fleet(options: argparse.Namespace) -> int:
    """Place and print; the exit code is that of the answer."""
    for option, given in (("--run", options.run), ("--td", bool(options.td))):
        if given:
            raise InputError(f"plan: {option} with --fleet; expected one of the two")
    refuse_without(options, "--age and --td", (*AGEING, "life"))
    if options.fleet != GENERATED:
        refuse_without(options, "--fleet generated", ("occupancy",))
        if options.age is not None:
            raise InputError("plan: --age with a file of VMs; expected it with --fleet generated")
    elif options.until is not None:
        raise InputError("plan: --until with made-up VMs; expected --age, or a file of VMs")
    require("plan --fleet", "numpy", "pyarrow")
    if options.ray is not None:
        require("plan --ray", "ray")
    import json

    from dpamt.cli.output import write_document, write_file, write_text
    from dpamt.plan.fleet.both import BothFleets
    from dpamt.plan.fleet.results import write_parquet
    from dpamt.report.plan_fleet import fleet_json, fleet_page, fleet_text

    types = [_host_type(text, options) for text in options.host]
    seeds = 1 if options.seeds is None else options.seeds
    with _trace(options.fleet) as trace:
        fleets = [_play(options, types, trace, (options.seed or 0) + at) for at in range(seeds)]
    share = SHARE_2M if options.share_2m is None else options.share_2m
    both = BothFleets(
        fleets[0][0], fleets[0][1], tuple(fleets), share / 100, options.share_2m is None,
        options.price,
    )  # fmt: skip
    if options.out is not None:
        about = {"command": options.command, "seed": str(options.seed or 0), "time": "today, 4K"}
        write_parquet(both.today, options.out, about)
    source = "standard input" if options.fleet == "-" else options.fleet
    if options.html is not None:
        write_file(options.html, fleet_page(both, source))
    if options.json:
        write_document(json.dumps(fleet_json(both), indent=2) + "\n")
    else:
        write_text(fleet_text(both, source))
    return both.exit_code


def _play(
    options: argparse.Namespace, types: "list[HostType]", trace: "Path | None", seed: int
) -> "tuple[Fleet, Fleet]":
    """The fleet by one seed, today and tomorrow."""
    from dpamt.plan.fleet.generate import Made, generate_vms
    from dpamt.plan.fleet.read import read_vms
    from dpamt.plan.fleet.simulate import Settings, simulate_fleets
    from dpamt.report.progress import watching

    share = (SHARE_2M if options.share_2m is None else options.share_2m) / 100
    until = options.until
    if trace is None:
        pages = sum(one.machine.total_pages * one.count for one in types)
        weeks = 1.0 if options.age is None else options.age
        until = weeks * 168
        occupancy = OCCUPANCY if options.occupancy is None else options.occupancy / 100
        vms = generate_vms(Made(occupancy * pages / (1 << 18), until, seed, share_2m=share))
    else:
        vms = read_vms(trace, tuple(one.name for one in types), share)
    with watching() as watch:

        def progress(what: str, done: int, total: int) -> None:
            if watch is not None and total:
                watch("fleet", "dynamic", what, done, total)
            elif watch is not None:
                watch("fleet", "dynamic", f"{what}, {done:,}", 0, 1)

        settings = Settings(seed=seed, until_hours=until)
        if options.fragmentation is not None:
            settings = replace(settings, fragmentation=options.fragmentation / 100)
        if options.grouping is not None:
            settings = replace(settings, grouping=options.grouping)
        today, tomorrow = simulate_fleets(
            vms, types, settings, options.jobs, options.ray, progress if watch else None
        )
    return today, tomorrow


@contextmanager
def _trace(fleet: str) -> Iterator["Path | None"]:
    """The file of VMs, None for made-up ones; standard input is kept in a file meanwhile."""
    from shutil import copyfileobj
    from tempfile import TemporaryDirectory

    if fleet == GENERATED:
        yield None
        return
    if fleet != "-":
        yield Path(fleet)
        return
    import sys

    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("--fleet -: no standard input; expected lives of VMs there")
    with TemporaryDirectory(prefix="dpamt-fleet-") as folder:
        path = Path(folder) / "standard input"
        with path.open("wb") as file:
            copyfileobj(sys.stdin.buffer, file)
        yield path


def _host_type(text: str, options: argparse.Namespace) -> "HostType":
    """``100*2TiB``, or one host."""
    from dpamt.plan.fleet.hosts import HostType
    from dpamt.plan.plan import machine_named

    match = _COUNTED.fullmatch(text)
    number, name = (int(match[1]), match[2]) if match else (1, text)
    machine = with_widths(machine_named(name), options.pa_bits, options.keyid_bits)
    return HostType(name, machine, number, max_tds=options.max_tds)
