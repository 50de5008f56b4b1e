"""`dpamt plan --fleet`: VMs of a trace, or made up, on many hosts."""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dpamt.cli.extras import require
from dpamt.cli.plan_options import AGEING, STATIC, refuse_without, with_widths
from dpamt.errors import InputError

if TYPE_CHECKING:
    from dpamt.plan.fleet.hosts import HostType
    from dpamt.plan.fleet.results import Fleet
    from dpamt.plan.fleet.series import HostSeries

GENERATED: Final = {"generated": "busy", "generated-azure": "azure"}
"""What stands in a file's place, and the profile of the VMs that are made up."""
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
    if options.fleet not in GENERATED:
        refuse_without(options, "--fleet generated", ("occupancy",))
        if options.age is not None:
            raise InputError("plan: --age with a file of VMs; expected it with --fleet generated")
    elif options.until is not None:
        raise InputError("plan: --until with made-up VMs; expected --age, or a file of VMs")
    elif options.machine_gib is not None:
        raise InputError("plan: --machine-gib with made-up VMs; expected it with a file of VMs")
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
    notes = [note for one in types for note in _by_its_log(one)]
    with _trace(options.fleet) as trace, _series(options.out is not None) as series:
        fleets = [
            _play(
                options, types, trace, (options.seed or 0) + at,
                [] if at else notes, None if at else series,
            )
            for at in range(seeds)
        ]  # fmt: skip
        share = SHARE_2M if options.share_2m is None else options.share_2m
        both = BothFleets(
            fleets[0][0], fleets[0][1], tuple(fleets), share / 100, options.share_2m is None,
            options.price, _driven_by(options, fleets[0][0]), tuple(notes),
        )  # fmt: skip
        if series is not None:
            series.close()
            about = {"command": options.command, "seed": str(options.seed or 0)}
            write_parquet(both.today, series, options.out, {**about, "time": "today, 4K"})
    source = "standard input" if options.fleet == "-" else options.fleet
    if options.html is not None:
        write_file(options.html, fleet_page(both, source))
    if options.json:
        write_document(json.dumps(fleet_json(both), indent=2) + "\n")
    else:
        write_text(fleet_text(both, source))
    return both.exit_code


def _play(
    options: argparse.Namespace,
    types: "list[HostType]",
    trace: "Path | None",
    seed: int,
    notes: list[str],
    series: "HostSeries | None",
) -> "tuple[Fleet, Fleet]":
    """The fleet by one seed, today and tomorrow."""
    from dpamt.plan.fleet.generate import PROFILES, Made, generate_vms
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
        profile = PROFILES[GENERATED[options.fleet]]
        memory = occupancy * pages / (1 << 18)
        vms = generate_vms(Made(memory, until, seed, share_2m=share, profile=profile))
    else:
        names = tuple(one.name for one in types)
        vms = read_vms(trace, names, share, options.machine_gib, notes)
    with watching() as watch:

        def progress(what: str, done: int, total: int) -> None:
            if watch is not None and total:
                watch("fleet", "dynamic", what, done, total)
            elif watch is not None:
                watch("fleet", "dynamic", f"{what}, {done:,}", 0, 1)

        td_share = None if options.td_share is None else options.td_share / 100
        settings = Settings(seed=seed, until_hours=until, td_share=td_share)
        if options.fragmentation is not None:
            settings = replace(settings, fragmentation=options.fragmentation / 100)
        if options.grouping is not None:
            settings = replace(settings, grouping=options.grouping)
        today, tomorrow = simulate_fleets(
            vms, types, settings, options.jobs, options.ray, progress if watch else None,
            series=series,
        )  # fmt: skip
    return today, tomorrow


@contextmanager
def _trace(fleet: str) -> Iterator["Path | None"]:
    """The file of VMs, None for made-up ones; standard input is kept in a file meanwhile."""
    from shutil import copyfileobj
    from tempfile import TemporaryDirectory

    from dpamt.inputs import standard_input

    if fleet in GENERATED:
        yield None
        return
    if fleet != "-":
        yield Path(fleet)
        return
    stream = standard_input("expected lives of VMs there (--fleet -)")
    with TemporaryDirectory(prefix="dpamt-fleet-") as folder:
        path = Path(folder) / "standard input"
        with path.open("wb") as file:
            copyfileobj(stream, file)
        try:
            yield path
        except InputError as error:  # nobody knows that file
            raise InputError(str(error).replace(str(path), path.name)) from None


@contextmanager
def _series(wanted: bool) -> "Iterator[HostSeries | None]":
    """Where hosts over time are kept until they are written."""
    from tempfile import TemporaryDirectory

    from dpamt.plan.fleet.series import HostSeries

    if not wanted:
        yield None
        return
    with TemporaryDirectory(prefix="dpamt-fleet-") as folder:
        yield HostSeries(Path(folder) / "series.arrow")


def _driven_by(options: argparse.Namespace, fleet: "Fleet") -> str:
    """What drives the outcome, each with its option."""
    from dpamt.plan.fleet.generate import AZURE_2017, PROFILES
    from dpamt.plan.fleet.simulate import Settings

    said = Settings()
    kernel = 100 * said.fragmentation if options.fragmentation is None else options.fragmentation
    grouping = said.grouping if options.grouping is None else options.grouping
    share = SHARE_2M if options.share_2m is None else options.share_2m
    some = "all" if fleet.tds == fleet.vms else f"{fleet.tds:,} of {fleet.vms:,}"
    assumed = ", assumed" if options.share_2m is None else ""
    parts = [
        f"tomorrow {share:g} % at 2M{assumed} (--share-2m)",
        f"kernel pages after boot {kernel:g} % of the regions (--fragmentation), {grouping} "
        "(--grouping)",
        f"{some} VMs are TDs (--td-share, or the column td)",
        f"at most {options.max_tds:,} TDs a host (--max-tds)"
        if options.max_tds is not None
        else "as many TDs a host as it has KeyIDs (--max-tds)",
    ]
    if options.machine_gib is not None:
        parts.append(f"a machine of the trace has {options.machine_gib:g} GiB (--machine-gib)")
    if options.fleet in GENERATED:
        profile = PROFILES[GENERATED[options.fleet]]
        occupancy = 100 * OCCUPANCY if options.occupancy is None else options.occupancy
        parts.insert(0, f"VMs in {occupancy:g} % of memory (--occupancy)")
        life = profile.within(AZURE_2017.hours)
        parts.append(
            f"made-up VMs have {profile.mean_vcpus:.2f} VCPUs and live {life:.1f} h of 30 days on "
            f"average (the Azure trace of 2017: {AZURE_2017.mean_vcpus:.2f} and "
            f"{AZURE_2017.mean_life_hours:.1f} h)"
        )
    return "; ".join(parts)


def _host_type(text: str, options: argparse.Namespace) -> "HostType":
    """``100*2TiB``, or one host; with ``:static`` behind it hosts that stay on static PAMT."""
    from dpamt.plan.fleet.hosts import HostType
    from dpamt.plan.plan import machine_named

    match = _COUNTED.fullmatch(text)
    number, name = (int(match[1]), match[2]) if match else (1, text)
    static = name.endswith(STATIC)
    named = machine_named(name.removesuffix(STATIC))
    machine = with_widths(named, options.pa_bits, options.keyid_bits)
    return HostType(name, machine, number, max_tds=options.max_tds, static=static)


def _by_its_log(host: "HostType") -> Iterator[str]:
    """What the log of a host says against it.

    Raises InputError for a machine on which TDX cannot come up.
    """
    from dpamt.module.releases import offers_dynamic_pamt

    log = host.machine.log
    if log is None:
        return
    if log.why is not None:
        cause, line = log.why.cause, log.why.line
        if cause.for_ever:
            raise InputError(
                f"{host.name}: TDX cannot come up there: {cause.why} (line {line}); expected a "
                "host with TDX, or a size, such as 64GiB"
            )
        yield (
            f"TDX did not come up on {host.name}, by its own log: {cause.why} (line {line}); it is "
            "counted as if it had"
        )
        return
    version = None if log.dynamic_pamt or host.static else log.module_version
    if version is not None and offers_dynamic_pamt(version) is False:
        yield (
            f"{host.name} has TDX module {version}, by its own log, and that has no Dynamic PAMT; "
            "it is counted as if it had"
        )
