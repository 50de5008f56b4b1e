"""`dpamt plan`: what PAMT takes on hosts, static and dynamic, and what to do about it."""

import argparse

from dpamt.cli.parser import Parser


def main(arguments: list[str]) -> int:
    """Plan and print; 1 when TDX comes up on some host under no kernel, or the TDs do not fit."""
    options = _parser().parse_args(arguments)
    return _plan(options)


def _plan(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_text
    from dpamt.errors import InputError
    from dpamt.plan.mix import parse_mix
    from dpamt.plan.plan import plan_host
    from dpamt.report.plan_json import plan_json
    from dpamt.report.plan_text import plan_text
    from dpamt.report.progress import watching

    mixes = [parse_mix(text) for text in options.td]
    if options.run and not mixes:
        raise InputError("plan: --run without TDs; expected --td as well")
    with watching() as watch:
        plans = [
            plan_host(host, mixes, options.module, options.run, watch) for host in options.host
        ]
    if options.html is not None:
        from dpamt.cli.output import write_file
        from dpamt.plan.plan import map_host
        from dpamt.report.plan_html import plan_page

        maps = [
            map_host(host, plan, options.module)
            for host, plan in zip(options.host, plans, strict=True)
        ]
        write_file(options.html, plan_page(plans, maps))
    write_text(json.dumps(plan_json(plans), indent=2) + "\n" if options.json else plan_text(plans))
    return int(any(plan.found for plan in plans))


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt plan",
        description="Size PAMT on hosts: static against Dynamic PAMT at idle and with TDs, the "
        "point where Dynamic PAMT stops paying, and whether Linux initialises TDX there at all "
        "(docs/plan.md).",
    )
    parser.add_argument(
        "host",
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
    parser.add_argument("--json", action="store_true", help="facts as JSON (docs/plan.md)")
    parser.add_argument("--html", metavar="FILE", help="a page with plots as well (needs plotly)")
    return parser
