"""`dpamt plan --fleet`: VMs of a trace, or made up, on many hosts."""

import argparse
import re
from typing import TYPE_CHECKING, Final

from dpamt.cli.extras import require
from dpamt.errors import InputError

if TYPE_CHECKING:
    from dpamt.plan.fleet.hosts import HostType

GENERATED: Final = "generated"
OCCUPANCY: Final = 0.8
"""Share of all memory that made-up VMs take on average."""

_COUNTED: Final = re.compile(r"(\d{1,6})\*(.+)")


def plan_fleet(options: argparse.Namespace) -> int:
    """Place and print; 1 when there are hosts that lose on average."""
    for option, given in (("--run", options.run), ("--td", bool(options.td))):
        if given:
            raise InputError(f"plan: {option} with --fleet; expected one of the two")
    require("plan --fleet", "numpy", "pyarrow")
    if options.ray is not None:
        require("plan --ray", "ray")
    import json
    from pathlib import Path

    from dpamt.cli.output import write_file, write_text
    from dpamt.plan.fleet.generate import Made, generate_vms
    from dpamt.plan.fleet.read import read_vms
    from dpamt.plan.fleet.results import write_parquet
    from dpamt.plan.fleet.simulate import Settings, simulate_fleet
    from dpamt.report.plan_fleet import fleet_json, fleet_page, fleet_text
    from dpamt.report.progress import watching

    types = [_host_type(text, options.max_tds) for text in options.host]
    share = options.share_2m / 100
    if options.fleet == GENERATED:
        pages = sum(one.machine.total_pages * one.count for one in types)
        weeks = 1.0 if options.age is None else options.age
        made = Made(OCCUPANCY * pages / (1 << 18), weeks * 168, options.seed, share_2m=share)
        vms = generate_vms(made)
    else:
        if options.age is not None:
            raise InputError("plan: --age with a file of VMs; expected it with --fleet generated")
        vms = read_vms(Path(options.fleet), tuple(one.name for one in types), share)
    with watching() as watch:

        def progress(what: str, done: int, total: int) -> None:
            if watch is not None and total:
                watch("fleet", "dynamic", what, done, total)
            elif watch is not None:
                watch("fleet", "dynamic", f"{what}, {done:,}", 0, 1)

        settings = Settings(seed=options.seed)
        fleet = simulate_fleet(
            vms, types, settings, options.processes, options.ray, progress if watch else None
        )
    if options.out is not None:
        write_parquet(fleet, options.out)
    if options.html is not None:
        write_file(options.html, fleet_page(fleet, options.fleet))
    if options.json:
        write_text(json.dumps(fleet_json(fleet), indent=2) + "\n")
    else:
        write_text(fleet_text(fleet, options.fleet))
    return int(fleet.hosts_losing_on_average > 0)


def _host_type(text: str, max_tds: int | None) -> "HostType":
    """``100*2TiB``, or one host."""
    from dpamt.plan.fleet.hosts import HostType
    from dpamt.plan.plan import machine_named

    match = _COUNTED.fullmatch(text)
    number, name = (int(match[1]), match[2]) if match else (1, text)
    return HostType(name, machine_named(name), number, max_tds=max_tds)
