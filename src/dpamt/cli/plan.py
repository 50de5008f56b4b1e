"""`dpamt plan`: what PAMT takes on hosts, static and dynamic, and what to do about it."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpamt.cli.extras import require
from dpamt.cli.parser import Parser
from dpamt.plan.fleet import TABLES

if TYPE_CHECKING:
    from dpamt.plan.ageing.simulate import Ageing
    from dpamt.plan.mix import TdMix
    from dpamt.plan.plan import HostPlan
    from dpamt.platform.machine import Machine
    from dpamt.report.progress import Watch


def main(arguments: list[str]) -> int:
    """Plan and print; 1 when TDX comes up on some host under no kernel, or the TDs do not fit."""
    options = _parser().options(arguments)
    if options.html is not None:
        require("plan --html", "plotly")
    if options.fleet is not None:
        from dpamt.cli.plan_fleet import plan_fleet

        return plan_fleet(options)
    return _plan(options)


def _plan(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_text
    from dpamt.errors import InputError
    from dpamt.plan.mix import parse_mix
    from dpamt.plan.plan import machine_named, plan_host
    from dpamt.report.plan_json import plan_json
    from dpamt.report.plan_text import plan_text
    from dpamt.report.progress import watching

    if options.age is not None:
        require("plan --age", "numpy")
    mixes = [parse_mix(text) for text in options.td]
    for option, given in (("--run", options.run), ("--age", options.age is not None)):
        if given and not mixes:
            raise InputError(f"plan: {option} without TDs; expected --td as well")
    machines = [machine_named(host) for host in options.host]
    with watching() as watch:
        plans = [
            plan_host(machine, mixes, options.module, options.run, watch) for machine in machines
        ]
        aged = [] if options.age is None else _age(options, machines, mixes, watch)
        if options.html is not None:
            _write_page(options, machines, plans, aged, watch)
    if options.json:
        old = []
        if aged:  # what ages needs numpy, and nothing else here does
            from dpamt.report.plan_ageing import ageing_json

            old = list(map(ageing_json, aged))
        write_text(json.dumps(plan_json(plans, old), indent=2) + "\n")
    else:
        write_text(plan_text(plans))
        if aged:
            from dpamt.report.plan_ageing import ageing_text

            write_text("".join(map(ageing_text, aged)))
    return int(any(plan.found for plan in plans))


def _age(
    options: argparse.Namespace,
    machines: "Sequence[Machine]",
    mixes: "Sequence[TdMix]",
    watch: "Watch | None",
) -> "list[Ageing]":
    from dpamt.plan.ageing.simulate import simulate
    from dpamt.plan.ageing.workload import Workload

    seeds = range(options.seed, options.seed + options.seeds)
    workload = Workload(mixes, pairs=options.pairs, control=options.control)
    aged = []
    for machine in machines:

        def progress(what: str, done: int, total: int, host: str = machine.source) -> None:
            if watch is not None:
                watch(host, "dynamic", what, done, total)

        aged.append(
            simulate(
                machine,
                workload,
                options.age,
                tuple(seeds),
                progress=progress if watch else None,
                release=options.module,
            )
        )
    return aged


def _write_page(
    options: argparse.Namespace,
    machines: "Sequence[Machine]",
    plans: "Sequence[HostPlan]",
    aged: "Sequence[Ageing]",
    watch: "Watch | None",
) -> None:
    from dpamt.cli.output import write_file
    from dpamt.plan.address_map import aged_map
    from dpamt.plan.plan import map_host
    from dpamt.report.plan_html import plan_page

    maps = [
        map_host(machine, plan, options.module, watch)
        for machine, plan in zip(machines, plans, strict=True)
    ]
    old = [
        (ageing, aged_map(machine, ageing.regions))
        for machine, ageing in zip(machines, aged, strict=bool(aged))
    ]
    write_file(options.html, plan_page(plans, maps, old))


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt plan",
        description="Size PAMT on hosts: static against Dynamic PAMT at idle and with TDs, the "
        "point where Dynamic PAMT stops paying, whether Linux initialises TDX there at all, and "
        "what weeks of TDs that come and go make of it (docs/plan.md).",
    )
    parser.add_input(
        "host",
        as_path=_host_path,
        nargs="+",
        metavar="HOST",
        help="dmesg, /proc/iomem or e820 text, a size such as 64GiB, or the name of a packaged "
        "host",
    )
    parser.add_argument(
        "--td",
        action="append",
        default=[],
        metavar="MIX",
        help="TDs on each host, such as 40x16GiB/4vcpu@2M=90%%; may be given again",
    )
    parser.add_argument(
        "--module", default="2.0.18", metavar="RELEASE", help="TDX module (default 2.0.18)"
    )
    parser.add_argument(
        "--run", action="store_true", help="run the TDs on the model as well: exact pairs"
    )
    parser.add_argument(
        "--age", type=_weeks, metavar="WEEKS", help="let TDs like these come and go for so long"
    )
    parser.add_argument("--seed", type=_whole, default=0, metavar="N", help="of the first ageing")
    parser.add_argument(
        "--seeds", type=_seeds, default=5, metavar="K", help="how often it is repeated (default 5)"
    )
    parser.add_argument(
        "--pairs",
        choices=("single", "order-1", "pool"),
        default="single",
        help="how the pages of a pair are allocated while it ages",
    )
    parser.add_argument(
        "--control",
        choices=("single", "pool"),
        default="single",
        help="how control pages are allocated while it ages",
    )
    fleet = parser.add_argument_group("a fleet (docs/plan-fleets.md)")
    parser.add_input(
        "--fleet",
        group=fleet,
        metavar="FILE|generated",
        help="lives of VMs (CSV or Parquet) placed on hosts: HOST, or COUNT*HOST for many of them",
    )
    fleet.add_argument(
        "--share-2m", type=_percent, default=90.0, metavar="PERCENT", help="of VMs that do not say"
    )
    fleet.add_argument("--max-tds", type=_seeds, metavar="N", help="of a host (default: KeyIDs)")
    fleet.add_argument("--processes", type=_seeds, metavar="N", help="default: one a core")
    fleet.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster (needs ray)")
    parser.add_output_folder(
        "--out",
        group=fleet,
        kind="table",
        names=TABLES,
        help="results as Parquet",
    )
    parser.add_argument("--json", action="store_true", help="facts as JSON (docs/plan.md)")
    parser.add_output("--html", kind="page", help="a page with plots as well (needs plotly)")
    return parser


def _host_path(text: str) -> str:
    """The file of ``100*HOST``."""
    number, star, name = text.partition("*")
    return name if star and number.isdigit() else text


def _weeks(text: str) -> float:
    weeks = float(text)
    if not 0 < weeks <= 520:
        raise ValueError(text)
    return weeks


def _percent(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 100:
        raise ValueError(text)
    return share


def _seeds(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise ValueError(text)
    return number


def _whole(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 63:
        raise ValueError(text)
    return number


_whole.__name__ = "whole number from 0"
_weeks.__name__ = "number of weeks above 0, up to 520"
_seeds.__name__ = "whole number from 1 to 1000"
_percent.__name__ = "share from 0 to 100"
