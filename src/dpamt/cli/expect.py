"""`dpamt expect`: the numbers that a test of Dynamic PAMT must see at its checkpoints."""

import argparse
import re
from typing import TYPE_CHECKING

from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from dpamt.plan.expect.cases import Case
    from dpamt.plan.expect.check import Read
    from dpamt.plan.expect.ran import RanPoint
    from dpamt.plan.expect.td_range import InUse
    from dpamt.platform.machine import Machine

_SHARES = re.compile(
    r"(\d{1,3}(?:\.\d{1,4})?)\s*%?(?:\s*-\s*(\d{1,3}(?:\.\d{1,4})?)\s*%?)?", re.ASCII
)
_MOST_RUN_PAGES = 1 << 24
_MOST_CLOSED = 64
_MOST_CHECKS = 1 << 20
"""Bytes of standard input."""


def main(arguments: list[str]) -> int:
    """Print the ranges; 1 when a number that was read cannot be, or the model is outside."""
    return _expect(_parser().options(arguments))


def _expect(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_document, write_text
    from dpamt.plan.expect.check import check
    from dpamt.plan.expect.expected import expect
    from dpamt.plan.plan import machine_named
    from dpamt.report.expect_data import expect_json, tap_lines
    from dpamt.report.expect_text import expect_text, outside

    case = _case(options)
    if case is None:
        write_text(_all_cases())
        return 0
    machine = None if options.host is None else machine_named(options.host)
    in_use = _in_use(options.in_use)
    expectation = expect(
        case,
        host=machine,
        design=options.design,
        module=options.release,
        layout=options.layout,
        in_use=in_use,
    )
    ran = _run(options, case, machine, in_use) if options.run else None
    reads = _reads(options.check)
    checked = check(expectation, reads) if reads or options.tap or options.ktap else []
    if options.json:
        write_document(json.dumps(expect_json(expectation, ran, checked), indent=2) + "\n")
    elif options.tap or options.ktap:
        write_document("\n".join(tap_lines(expectation, checked, options.ktap)) + "\n")
    else:
        write_text(expect_text(expectation, ran, checked))
    wrong = any(one.problem for one in checked)
    return int(wrong or (ran is not None and bool(outside(expectation, ran))))


def _case(options: argparse.Namespace) -> "Case | None":
    from dpamt.errors import InputError
    from dpamt.plan.expect.cases import CASE_NUMBERS, UNIT, case_of, case_of_tds, most_tds
    from dpamt.plan.mix import parse_mix
    from dpamt.run.check import parse_bytes

    if options.unit is not None and options.case is None:
        raise InputError("--unit: expected only with --case, whose sizes it sets")
    if options.case is not None and options.td:
        raise InputError("--case and --td: expected one of them")
    if options.case is None and not options.td:
        for name in ("check", "host", "run", "tap", "ktap", "json"):
            if getattr(options, name):
                raise InputError(f"--{name}: expected --case or --td as well")
        return None
    if options.td:
        mixes = [parse_mix(text) for text in options.td]
        if most_tds(mixes) > _MOST_CLOSED:
            raise InputError(
                f"--td: {most_tds(mixes)} TDs, each with a checkpoint of its own; expected at most "
                f"{_MOST_CLOSED}"
            )
        return case_of_tds(mixes)
    if options.case not in CASE_NUMBERS:
        raise InputError(f"--case {options.case}: expected {CASE_NUMBERS[0]} to {CASE_NUMBERS[-1]}")
    unit = UNIT if options.unit is None else parse_bytes(options.unit)
    if unit is None or unit % (2 << 20) or not 2 << 20 <= unit <= 1 << 40:
        raise InputError(f"--unit {options.unit}: expected a size of whole 2MiB, 2MiB to 1TiB")
    return case_of(options.case, unit)


def _in_use(text: str) -> "InUse":
    from dpamt.errors import InputError
    from dpamt.plan.expect.td_range import InUse

    match = _SHARES.fullmatch(text.strip())
    if match is not None:
        low = float(match[1])
        high = low if match[2] is None else float(match[2])
        if low <= high <= 100:
            return InUse(low / 100, high / 100)
    raise InputError(
        f"--in-use {text!r}: expected a share of memory or two, such as 100% or 20-80%"
    )


def _reads(texts: list[str]) -> "list[Read]":
    from dpamt.errors import InputError
    from dpamt.inputs import STDIN_NAME, decode, standard_input
    from dpamt.plan.expect.check import parse_checks

    expected = "expected CHECKPOINT=NUMBER lines"
    lines: list[str] = []
    for text in texts:
        if text != "-":
            lines.append(text)
            continue
        data = standard_input(expected).read(_MOST_CHECKS)
        found = [line for line in decode(data, STDIN_NAME, expected).splitlines() if line.strip()]
        if not found:
            raise InputError(f"--check -: nothing on standard input; {expected}")
        lines += found
    return parse_checks(lines)


def _run(
    options: argparse.Namespace, case: "Case", machine: "Machine | None", in_use: "InUse"
) -> "list[RanPoint]":
    from dpamt.errors import InputError
    from dpamt.plan.expect.ran import run_case
    from dpamt.report.progress import watching

    if machine is None:
        raise InputError("--run: no host to run on; expected --host as well")
    if in_use.least != in_use.most:
        raise InputError("--run: how much memory is in use is not known; expected --in-use 100%")
    if options.layout != "contiguous":
        raise InputError("--run: the model's guests have --layout contiguous; expected that")
    if any((mix.memory >> 21) * in_use.most % 1 for mix in case.tds if mix is not None):
        raise InputError(
            f"--run: {100 * in_use.most:g} % of a TD is no whole number of 2 MiB; expected a share "
            "that is (--in-use)"
        )
    pages = sum(mix.memory >> 12 for mix in case.tds if mix is not None) * case.repeat
    if pages > _MOST_RUN_PAGES:
        raise InputError(
            f"--run: {pages >> 18} GiB of TDs in all; expected at most {_MOST_RUN_PAGES >> 18} GiB,"
            " which take minutes (--unit 16MiB makes the TDs smaller)"
        )
    with watching() as watch:

        def progress(what: str, done: int, total: int) -> None:
            if watch is not None:
                watch("run", "dynamic", what, done, total)

        return run_case(
            case,
            machine,
            design=options.design,
            module=options.release,
            share=in_use.most,
            progress=progress,
        )


def _all_cases() -> str:
    from dpamt.plan.expect.cases import CASE_NUMBERS, case_of

    lines = ["The cases of the public Dynamic PAMT test (intel/lkvs, BM/tdx-host), for --case:", ""]
    lines += [f"  {number:2}  {case_of(number).title}" for number in CASE_NUMBERS]
    return "\n".join(lines) + "\n"


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt expect",
        description="Print the numbers that a correct kernel shows for Dynamic PAMT at each "
        "checkpoint of a test: page pairs, control pages and S-EPT pages of TDs, as "
        "exact ranges. Without --case and --td: the list of cases. docs/expect.md has"
        " the JSON document and a shell test.",
    )
    parser.add_argument(
        "--case", type=_number, metavar="N", help="a case of the public test, 0 to 13"
    )
    parser.add_argument(
        "--td",
        action="append",
        default=[],
        metavar="TD",
        help="TDs of your own instead of a case, such as 2x4GiB/2vcpu@2M=90%%; may be given again",
    )
    parser.add_argument("--unit", metavar="SIZE", help="what a GB of the case stands for (1GiB)")
    parser.add_input(
        "--host",
        metavar="HOST",
        help="dmesg, /proc/iomem or e820 text, a size, or a packaged host: limits the upper bounds",
    )
    parser.add_input(
        "--design", default="merged", metavar="NAME|FILE", help="the kernel's design (merged)"
    )
    parser.add_argument(
        "--release",
        "--module",
        default="2.0.18",
        metavar="NAME",
        help="release of the TDX module (2.0.18; dpamt list releases)",
    )
    parser.add_argument(
        "--in-use",
        default="0-100%",
        metavar="SHARE[-SHARE]",
        help="share of the guest memory in use while a TD runs, such as 100%% or 20-80%% (0-100%%)",
    )
    parser.add_argument(
        "--layout",
        choices=("contiguous", "q35"),
        default="contiguous",
        help="guest addresses: from 0 on (contiguous, the default), or as in QEMU's q35 with "
        "firmware",
    )
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="CHECKPOINT=NUMBER",
        help="a number that you read: in kB as in /proc/meminfo, in pairs (launched=525pairs), or"
        " the kernel's counters (launched=counts.json, dpamt trace --how drgn); - reads such"
        " lines from standard input; may be given again",
    )
    parser.add_argument("--run", action="store_true", help="also run the case on the model")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document (docs/expect.md)")
    form.add_argument(
        "--tap", action="store_true", help="TAP version 13: one test for each checkpoint"
    )
    form.add_argument("--ktap", action="store_true", help="the same as KTAP version 1")
    parser.only_with("--design --release --in-use --layout", "--case --td")
    return parser


def _number(text: str) -> int:
    return int(text)


_number.__name__ = "case (0 to 13)"
