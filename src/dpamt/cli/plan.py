"""`dpamt plan`: what PAMT takes on hosts, static and dynamic, and what to do about it."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpamt.cli.extras import require
from dpamt.cli.plan_options import AGEING, BOTH, FLEET, plan_parser, refuse_without, with_widths

if TYPE_CHECKING:
    from dpamt.plan.ageing.both import BothAges
    from dpamt.plan.counted import InUseNow
    from dpamt.plan.mix import TdMix
    from dpamt.plan.plan import HostPlan
    from dpamt.platform.dmesg import NoMemoryInLog
    from dpamt.platform.machine import Machine
    from dpamt.report.progress import Watch


def main(arguments: list[str]) -> int:
    """Plan and print; the exit code is that of the answers (docs/plan.md)."""
    options = plan_parser().options(arguments)
    if options.html is not None:
        require("plan --html", "plotly")
    if options.fleet is not None:
        from shlex import join

        from dpamt.cli.plan_fleet import plan_fleet

        options.command = join(("dpamt", "plan", *arguments))

        return plan_fleet(options)
    return _plan(options)


def _plan(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_document, write_text
    from dpamt.errors import InputError
    from dpamt.plan.mix import parse_mix
    from dpamt.plan.plan import DEFAULT_SHARE_2M, plan_host
    from dpamt.platform.dmesg import NoMemoryInLog
    from dpamt.report.plan_json import plan_json
    from dpamt.report.plan_text import log_text, plan_text
    from dpamt.report.progress import watching

    if options.age is not None:
        require("plan --age", "numpy")
    mixes = [parse_mix(text) for text in options.td]
    if not mixes:
        for option, name in (("--run", "run"), ("--age", "age"), ("--share-2m", "share_2m")):
            if getattr(options, name) not in (None, False):
                raise InputError(f"plan: {option} without TDs; expected --td as well")
    if options.share_2m is not None and all(mix.share_said for mix in mixes):
        raise InputError("plan: --share-2m has no effect where each --td has a share; expected one")
    if options.age is None:
        refuse_without(options, "--age", AGEING)
        refuse_without(options, "--age or --fleet", BOTH)
    refuse_without(options, "--fleet", FLEET)
    share = DEFAULT_SHARE_2M if options.share_2m is None else options.share_2m / 100
    read = [_machine(host, options) for host in options.host]
    machines = [machine for machine in read if not isinstance(machine, NoMemoryInLog)]
    if len(machines) < len(read) and options.html is not None:
        raise next(one for one in read if isinstance(one, NoMemoryInLog))
    with watching() as watch:
        plans = [
            machine
            if isinstance(machine, NoMemoryInLog)
            else plan_host(machine, mixes, options.release, options.run, watch, share)
            for machine in read
        ]
        whole = [plan for plan in plans if not isinstance(plan, NoMemoryInLog)]
        now = None if options.counts is None else _in_use_now(options, read, whole)
        aged = [] if options.age is None else _age(options, machines, mixes, watch, share)
        if options.html is not None:
            _write_page(options, machines, whole, aged, watch)
    code = int(len(whole) < len(plans) or any(plan.found for plan in whole))
    pairs = list(zip(whole, aged, strict=bool(aged)))
    if aged:  # what ages needs numpy, and nothing else here does
        from dpamt.report.plan_ageing import aged_exit_code, aged_lines, ageing_json

        found = [aged_exit_code(plan, both) for plan, both in pairs]
        code = int(len(whole) < len(plans) or any(found))
    code = int(code or (now is not None and bool(now.differences)))
    if options.json:
        old = [ageing_json(plan, both) for plan, both in pairs]
        document = plan_json(plans, old)
        if now is not None:
            from dpamt.report.plan_counted import counted_json

            document["hosts"][0]["in_use_now"] = counted_json(now, options.counts)
        write_document(json.dumps(document, indent=2) + "\n")
        return code
    for plan in plans:
        if isinstance(plan, NoMemoryInLog):
            write_text(log_text(plan.source, plan.log))
    if now is not None:
        from dpamt.report.plan_counted import counted_text

        write_text(counted_text(now, options.counts) + "\n")
    if whole:
        write_text(plan_text(whole, [aged_lines(plan, both) for plan, both in pairs]))
    return code


def _in_use_now(
    options: argparse.Namespace,
    read: "Sequence[Machine | NoMemoryInLog]",
    plans: "Sequence[HostPlan]",
) -> "InUseNow":
    """The counters of the one host beside its plan."""
    from dpamt.errors import InputError
    from dpamt.plan.counted import in_use_now
    from dpamt.trace.judge.counts import read_counts

    if len(read) != 1 or not plans:
        raise InputError(
            f"--counts: they are those of one host; expected one HOST with its memory, found "
            f"{len(read)}"
        )
    return in_use_now(read_counts(options.counts), plans[0].host)


def _machine(host: str, options: argparse.Namespace) -> "Machine | NoMemoryInLog":
    """The machine of a HOST; of a log without memory what it says, where that is a failure."""
    from dpamt.plan.plan import machine_named
    from dpamt.platform.dmesg import NoMemoryInLog

    try:
        return with_widths(machine_named(host), options.pa_bits, options.keyid_bits)
    except NoMemoryInLog as told:
        if told.log.why is None and told.log.doubt is None:
            raise
        return told


def _age(
    options: argparse.Namespace,
    machines: "Sequence[Machine]",
    mixes: "Sequence[TdMix]",
    watch: "Watch | None",
    share: float,
) -> "list[BothAges]":
    from dataclasses import replace

    from dpamt.plan.ageing.both import age_both
    from dpamt.plan.ageing.tornado import tornado

    first = options.seed or 0
    seeds = range(first, first + (5 if options.seeds is None else options.seeds))
    aged = []
    for machine in machines:

        def progress(what: str, done: int, total: int, host: str = machine.source) -> None:
            if watch is not None:
                watch(host, "dynamic", what, done, total)

        told = progress if watch else None
        given, release = drivers(options), options.release
        both = age_both(
            machine, mixes, share, given, options.age, tuple(seeds), None, told, release
        )
        if options.tornado:
            bars = tornado(
                machine, mixes, share, given, options.age, tuple(seeds), None, told, release
            )
            both = replace(both, tornado=bars)
        aged.append(both)
    return aged


def drivers(options: argparse.Namespace) -> dict[str, Any]:
    """What drives ageing, as :class:`dpamt.plan.ageing.workload.Workload` calls it, where given."""
    found: dict[str, Any] = {}
    for option, name, scale in (
        ("occupancy", "occupancy", 0.01),
        ("life", "mean_life_hours", 1.0),
        ("fragmentation", "fragmentation", 0.01),
        ("conversions", "converted_per_hour", 0.01),
    ):
        if getattr(options, option) is not None:
            found[name] = getattr(options, option) * scale
    for option, name in (
        ("pair_pages", "pairs"),
        ("control_pages", "control"),
        ("max_tds", "max_tds"),
        ("grouping", "grouping"),
    ):
        if getattr(options, option) is not None:
            found[name] = getattr(options, option)
    return found


def _write_page(
    options: argparse.Namespace,
    machines: "Sequence[Machine]",
    plans: "Sequence[HostPlan]",
    aged: "Sequence[BothAges]",
    watch: "Watch | None",
) -> None:
    from dpamt.cli.output import write_file
    from dpamt.plan.address_map import aged_map
    from dpamt.plan.plan import map_host
    from dpamt.report.plan_html import plan_page

    maps = [
        map_host(machine, plan, options.release, watch)
        for machine, plan in zip(machines, plans, strict=True)
    ]
    old = [
        (both, aged_map(machine, both.today.regions))
        for machine, both in zip(machines, aged, strict=bool(aged))
    ]
    write_file(options.html, plan_page(plans, maps, old))
