"""`dpamt run`: a scenario on a host, side by side."""

import argparse
from pathlib import Path

from dpamt.cli.numbers import parse_memory, parse_seed
from dpamt.cli.parser import Parser


def main(arguments: list[str]) -> int:
    """Run and print; 0 when every audit is clean, else 1."""
    options = _parser().options(arguments)
    # The model is imported when the command line is known to be good: help comes at once.
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_document, write_text
    from dpamt.report.progress import watching
    from dpamt.report.run_text import run_text
    from dpamt.run.api import packaged_scenario, packaged_scenarios
    from dpamt.run.failures import KernelFailed
    from dpamt.run.scenario import load_scenario
    from dpamt.run.story import run

    path = options.scenario
    name = "default" if path is None else path
    packaged = path is None or (name in packaged_scenarios() and not Path(name).exists())
    scenario = packaged_scenario(name) if packaged else load_scenario(name)
    scenario = scenario.with_options(
        options.memory or options.host,
        options.design,
        options.pamt,
        options.seed,
        tuple(options.inject),
        options.release,
    )
    try:
        with watching() as watch:
            facts = run(scenario, watch)
    except KernelFailed as failed:
        if not options.json:
            write_text("".join(line + "\n" for line in failed.log))
        raise
    if options.json:
        write_document(json.dumps(facts.to_json(), indent=2) + "\n")
    else:
        write_text(run_text(facts))
    return 0 if facts.clean else 1


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt run",
        description="Boot a TDX host, run TDs on it, and take every page back. All sides of a "
        "scenario run phase by phase, next to each other, and are audited. Without a "
        "scenario: static PAMT against Dynamic PAMT on a 1 TiB host.",
    )
    parser.add_input(
        "scenario",
        nargs="?",
        metavar="SCENARIO.toml",
        help="a scenario file (docs/scenario.md), or a name that dpamt list scenarios prints "
        "(default)",
    )
    parser.add_input(
        "--host",
        metavar="FILE|SIZE",
        help="the machine: dmesg, /proc/iomem or e820 text, a size such as 64GiB, or the name of "
        "a packaged host",
    )
    parser.add_argument(
        "--memory", type=parse_memory, metavar="SIZE", help="a machine of this size, as --host SIZE"
    )
    parser.add_argument(
        "--release",
        "--module",
        metavar="NAME",
        help="release of the TDX module (the scenario's; dpamt list releases)",
    )
    parser.add_input(
        "--design",
        metavar="NAME|FILE",
        help="design of the dynamic sides: merged, v6, v2, lazy ..., static, or a Python file "
        "(docs/how-dynamic-pamt-works.md)",
    )
    parser.add_argument("--pamt", choices=("static", "dynamic"), help="run only this side")
    parser.add_argument(
        "--inject",
        action="append",
        default=[],
        metavar="RULE",
        help="make SEAMCALLs meet a held lock, no entropy or an interrupt, such as "
        "TDH.MEM.PAGE.AUG:busy=SEPT_TREE:every=100; may be given again (docs/injection.md)",
    )
    parser.add_argument(
        "--seed", type=parse_seed, metavar="N", help="seed of everything that is random"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/json-run.md)")
    parser.not_with("--memory", "--host")
    return parser
