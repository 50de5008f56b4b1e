"""`dpamt decode`: numbers of the SEAMCALL wall, or a whole log, explained."""

import argparse
import sys

from dpamt.cli.parser import Parser

_KINDS = ("status", "leaf", "operand", "page-info", "field", "exit")


def main(arguments: list[str]) -> int:
    """Explain and print; 0."""
    options = _parser().options(arguments)
    if options.values in ([], ["-"]):
        return _decode_log(options)
    return _decode_values(options)


def _decode_values(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_text
    from dpamt.report.decode_text import value_line, values_json
    from dpamt.trace.decode import DECODERS, meanings
    from dpamt.trace.decode_input import read_value

    found = []
    for text in options.values:
        kind, value = read_value(text)
        kind = options.kind or kind
        found.append((text, value, [DECODERS[kind](value)] if kind else meanings(value)))
    if options.json:
        write_text(json.dumps(values_json(found), indent=2) + "\n")
    else:
        write_text("".join(value_line(*item) + "\n" for item in found))
    return 0


def _decode_log(options: argparse.Namespace) -> int:
    import io
    import json

    from dpamt.cli.output import write_text
    from dpamt.errors import InputError
    from dpamt.report.decode_text import log_json, log_lines
    from dpamt.trace.decode import DECODERS, Meaning, meanings
    from dpamt.trace.decode_log import decode_log

    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("decode: no VALUE; expected one, or a log on standard input")

    def alone(value: int) -> list[Meaning]:
        return [DECODERS[options.kind](value)] if options.kind else meanings(value)

    # A log may hold any bytes.
    lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
    explained = decode_log(lines, alone)
    if options.json:
        write_text(json.dumps(log_json(explained), indent=2) + "\n")
        return 0
    told = 0
    for line in log_lines(explained):
        write_text(line + "\n")
        told += 1
    if not told:
        write_text("nothing here is a status, a failed SEAMCALL or a metadata field\n")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt decode",
        description="Explain numbers of the SEAMCALL interface, a line each.  Without a VALUE: "
        "explain a log on standard input (dmesg | dpamt decode), every number of a failed "
        "SEAMCALL in its context.",
    )
    parser.add_argument(
        "values",
        nargs="*",
        metavar="VALUE",
        help="a number (0x22, 34) or a name (TDX_OPERAND_BUSY, TDH.MEM.PAGE.AUG); - is "
        "standard input",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=_KINDS,
        help="what a bare number is; without it, all that it may be, the likeliest first",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/decode.md)")
    return parser
