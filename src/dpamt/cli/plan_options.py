"""The options of `dpamt plan`, and which of them need which."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpamt.cli.numbers import parse_bits, parse_jobs, parse_seed
from dpamt.cli.parser import Parser
from dpamt.plan.fleet import TABLES

if TYPE_CHECKING:
    from dpamt.platform.machine import Machine

AGEING: Sequence[str] = ("pair_pages", "control_pages", "conversions", "tornado")
"""Options that only ageing looks at."""
BOTH: Sequence[str] = ("seed", "seeds", "max_tds", "fragmentation", "grouping", "occupancy", "life")
"""Options of ageing and of fleets."""
FLEET: Sequence[str] = ("jobs", "ray", "out", "until", "price", "td_share", "machine_gib")
"""Options of fleets only."""

STATIC = ":static"
"""Behind a HOST of a fleet: it stays on static PAMT."""


def plan_parser() -> Parser:
    """All of them; those that are not given are None."""
    parser = Parser(
        prog="dpamt plan",
        description="Say whether TDX comes up on a host, and what Dynamic PAMT saves there: today"
        " (guest memory at 4K, as in the merged kernel) and tomorrow (guest memory at"
        " 2M, a series that is not merged). With TDs, over weeks of TDs that come and"
        " go, and on a fleet (docs/plan.md).",
    )
    parser.add_input(
        "host",
        as_path=_host_path,
        nargs="+",
        metavar="HOST",
        help="dmesg, /proc/iomem or e820 text (gz and xz too; - is standard input), a size such as "
        "64GiB, or the name of a packaged host",
    )
    parser.add_argument(
        "--td",
        action="append",
        default=[],
        metavar="MIX",
        help="TDs on each host, such as 40x16GiB/4vcpu@2M=90%%; may be given again",
    )
    parser.add_argument(
        "--share-2m",
        type=percent,
        metavar="PERCENT",
        help="share of the memory at 2M under tomorrow's series, for TDs without @2M= (default 90)",
    )
    parser.add_argument(
        "--release",
        "--module",
        default="2.0.18",
        metavar="NAME",
        help="release of the TDX module (2.0.18; dpamt list releases)",
    )
    parser.add_argument(
        "--pa-bits",
        type=parse_bits,
        metavar="N",
        help="width of the host's physical addresses, in bits (default 52)",
    )
    parser.add_argument(
        "--keyid-bits",
        type=parse_bits,
        metavar="N",
        help="width of KeyIDs, in bits (default: from the log, at least 6)",
    )
    parser.add_argument(
        "--run",
        action="store_true",
        help="also run the TDs on the model, for the exact number of pairs",
    )
    parser.add_input(
        "--counts",
        metavar="FILE",
        help="the kernel's own counters of this host (dpamt trace --how drgn): shows the PAMT in "
        "use now",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/plan.md)")
    parser.add_output("--html", kind="page", help="also write a page with plots (needs plotly)")
    ageing = parser.add_argument_group("over weeks (docs/plan-ageing.md)")
    ageing.add_argument(
        "--age",
        type=weeks,
        metavar="WEEKS",
        help="let TDs like these come and go for this many weeks",
    )
    ageing.add_argument(
        "--seed", type=parse_seed, metavar="N", help="seed of the first repetition (default 0)"
    )
    ageing.add_argument(
        "--seeds",
        type=seeds,
        metavar="K",
        help="number of repetitions (default: 5 for ageing, 1 for a fleet)",
    )
    ageing.add_argument(
        "--max-tds",
        type=seeds,
        metavar="N",
        help="most TDs at once on a host (default: its guest KeyIDs)",
    )
    ageing.add_argument(
        "--occupancy",
        type=percent,
        metavar="PERCENT",
        help="share of the memory that TDs take on average (default 80; not with a file of VMs)",
    )
    ageing.add_argument(
        "--life",
        type=hours,
        metavar="HOURS",
        help="mean lifetime of a TD (default 48; ageing only)",
    )
    ageing.add_argument(
        "--fragmentation",
        type=percent,
        metavar="PERCENT",
        help="share of the 2M regions that get a kernel page after boot (default 10)",
    )
    ageing.add_argument(
        "--grouping",
        choices=("page-block", "scattered"),
        help="where those kernel pages lie: together, as Linux groups unmovable pages (default), "
        "or each in a region of its own",
    )
    ageing.add_argument(
        "--conversions",
        type=percent,
        metavar="PERCENT",
        help="share of the 2M ranges in use of which a part becomes shared and private again each"
        " hour (default 0.02)",
    )
    ageing.add_argument(
        "--pair-pages",
        choices=("single", "order-1", "pool"),
        help="how the pages of a pair are allocated (default single, as Linux does)",
    )
    ageing.add_argument(
        "--control-pages",
        choices=("single", "pool"),
        help="how control pages are allocated (default single, as Linux does)",
    )
    ageing.add_argument(
        "--tornado",
        action="store_true",
        default=None,
        help="set each of these assumptions low and high, and show which moves the outcome most "
        "(16 more runs)",
    )
    fleet = parser.add_argument_group("a fleet (docs/plan-fleets.md)")
    parser.add_input(
        "--fleet",
        group=fleet,
        metavar="FILE|generated|generated-azure",
        help="place VMs over time (CSV or Parquet; - is standard input) on the hosts HOST, "
        "COUNT*HOST for several, HOST:static for hosts that keep static PAMT. Made-up VMs: "
        "generated has many short ones, generated-azure has the totals of the Azure trace of"
        " 2017",
    )
    fleet.add_argument(
        "--until",
        type=hours,
        metavar="HOURS",
        help="end of the period, counted from the first arrival (default: last departure)",
    )
    fleet.add_argument(
        "--td-share",
        type=percent,
        metavar="PERCENT",
        help="share of the VMs that are TDs, where the column td is empty (default 100); the "
        "others take memory and VCPUs only",
    )
    fleet.add_argument(
        "--machine-gib",
        type=price,
        metavar="GIB",
        help="memory of a machine, for traces that give memory as a share of it (Alibaba)",
    )
    fleet.add_argument(
        "--price",
        type=price,
        metavar="PRICE",
        help="price of a GiB for a month: what the saving is worth",
    )
    fleet.add_argument(
        "--jobs",
        "--processes",
        type=parse_jobs,
        metavar="N",
        help="number of processes (default: one for each core)",
    )
    fleet.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster (needs ray)")
    parser.add_output_folder(
        "--out", group=fleet, kind="table", names=TABLES, help="write the results as Parquet"
    )
    parser.not_with("--counts", "--fleet", "they are those of one host")
    parser.not_with("--release", "--fleet", "expected without it: the hosts have 2.0.18")
    return parser


def _host_path(text: str) -> str:
    """The file of ``100*HOST`` and of ``HOST:static``."""
    number, star, name = text.partition("*")
    return (name if star and number.isdigit() else text).removesuffix(STATIC)


def refuse_without(options: argparse.Namespace, needs: str, names: Sequence[str]) -> None:
    """Raise InputError where an option is given that has no effect without another."""
    from dpamt.errors import InputError

    for name in names:
        if getattr(options, name, None) is not None:
            raise InputError(
                f"plan: --{name.replace('_', '-')} has no effect here; expected it with {needs}"
            )


def with_widths(machine: "Machine", pa_bits: int | None, keyid_bits: int | None) -> "Machine":
    """The machine with other address widths than its log or the defaults have."""
    from dataclasses import replace

    changes = {"max_pa_bits": pa_bits, "keyid_bits": keyid_bits}
    given: dict[str, int] = {name: bits for name, bits in changes.items() if bits is not None}
    return replace(machine, **given) if given else machine  # type: ignore[arg-type]


def weeks(text: str) -> float:
    """A number of weeks."""
    number = float(text)
    if not 0 < number <= 520:
        raise ValueError(text)
    return number


def hours(text: str) -> float:
    """A number of hours."""
    number = float(text)
    if not 0 < number <= 87600:
        raise ValueError(text)
    return number


def price(text: str) -> float:
    """What a GiB costs."""
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError(text)
    return number


def percent(text: str) -> float:
    """A share in percent."""
    share = float(text)
    if not 0 <= share <= 100:
        raise ValueError(text)
    return share


def seeds(text: str) -> int:
    """A small number of things."""
    number = int(text)
    if not 1 <= number <= 1000:
        raise ValueError(text)
    return number


weeks.__name__ = "number of weeks above 0, up to 520"
hours.__name__ = "number of hours above 0, up to 87600"
price.__name__ = "number above 0"
seeds.__name__ = "whole number from 1 to 1000"
percent.__name__ = "share from 0 to 100"
