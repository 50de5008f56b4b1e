"""`dpamt decode`: numbers of the SEAMCALL wall, or a whole log, explained."""

import argparse
import sys
from typing import TYPE_CHECKING

from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dpamt.platform.lines import Line

_KINDS = ("status", "leaf", "operand", "page-info", "field", "exit")


def main(arguments: list[str]) -> int:
    """Explain and print; 0."""
    options = _parser().options(arguments)
    if options.values in ([], ["-"]):
        return _decode_log(options, None)
    if len(options.values) == 1 and is_log(options.values[0]):
        return _decode_log(options, options.values[0])
    return _decode_values(options)


def is_log(text: str) -> bool:
    """Whether a VALUE is the path of a file: one that exists or has a ``/``, no number or name."""
    from pathlib import Path

    from dpamt.errors import InputError
    from dpamt.trace.decode_input import read_value

    try:
        read_value(text)
    except InputError:
        if "/" in text:  # meant as one: if it cannot be read, the reason is said
            return True
        try:
            return Path(text).is_file() or Path(text).is_fifo()
        except (OSError, ValueError):
            return False
    return False


def _decode_values(options: argparse.Namespace) -> int:
    import json

    from dpamt.cli.output import write_document, write_text
    from dpamt.errors import InputError
    from dpamt.report.decode_text import value_line, values_json
    from dpamt.trace.decode import DECODERS, meanings
    from dpamt.trace.decode_input import read_value

    found = []
    for text in options.values:
        kind, value = read_value(text)
        if kind and options.kind not in (None, kind):
            raise InputError(f"decode: {text} is a {kind}; expected a number with --as, or no --as")
        kind = options.kind or kind
        found.append((text, value, [DECODERS[kind](value)] if kind else meanings(value)))
    if options.json:
        write_document(json.dumps(values_json(found), indent=2) + "\n")
    else:
        write_text("".join(value_line(*item) + "\n" for item in found))
    return 0


def _decode_log(options: argparse.Namespace, path: str | None) -> int:
    import json

    from dpamt.cli.output import write_document, write_text
    from dpamt.platform.tdx_log import LogFacts
    from dpamt.report.decode_text import log_json, log_lines, why_lines
    from dpamt.trace.decode import DECODERS, Meaning, meanings
    from dpamt.trace.decode_log import decode_log

    def alone(value: int) -> list[Meaning]:
        return [DECODERS[options.kind](value)] if options.kind else meanings(value)

    facts = LogFacts()
    explained = decode_log(facts.watched(_lines(path)), alone)
    if options.json:
        lines = list(explained)
        write_document(json.dumps(log_json(lines, facts.log()), indent=2) + "\n")
        return 0
    told = 0
    for line in log_lines(explained):
        write_document(line + "\n")
        sys.stdout.flush()  # the log may go on for hours
        told += 1
    for line in why_lines(facts.log()):
        write_text(line + "\n")
        told += 1
    if not told:
        write_text("nothing here is a status, a failed SEAMCALL or a metadata field\n")
    return 0


def _lines(path: str | None) -> "Iterator[Line]":
    """The lines of a file or of standard input; plain text on the latter is read as it comes."""
    import io
    from pathlib import Path

    from dpamt.inputs import STDIN_NAME, standard_input
    from dpamt.platform.lines import Line
    from dpamt.platform.log_bytes import COMPRESSED, text_of
    from dpamt.platform.log_lines import log_lines, plain
    from dpamt.platform.read_machine import read_file, read_stdin

    if path is not None:
        yield from log_lines(text_of(read_file(Path(path)), path), path)
        return
    stream = standard_input("expected a VALUE, a file, or a log there (dmesg | dpamt decode)")
    peeked = stream.peek(64)[:64] if isinstance(stream, io.BufferedReader) else b""
    # UTF-16 of Western text has a zero in each pair, where its byte order says.
    wide = (peeked[:2], peeked[3:4]) == (b"\xff\xfe", b"\0") or (
        (peeked[:2], peeked[2:3]) == (b"\xfe\xff", b"\0")
    )
    if wide or peeked.startswith((*COMPRESSED, b"{", b"\x1e")):
        yield from log_lines(text_of(read_stdin(stream), STDIN_NAME), STDIN_NAME)
        return
    # A log may hold any bytes.
    for number, line in enumerate(io.TextIOWrapper(stream, "utf-8", errors="replace"), 1):
        yield Line(number, plain(line.rstrip("\r\n").removeprefix("\ufeff")), True)


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt decode",
        description="Explain numbers of the SEAMCALL interface, one line each. Without a VALUE: "
        "explain a log from standard input (dmesg | dpamt decode): every number of a "
        "failed SEAMCALL in its context, and why TDX does not come up.",
    )
    parser.add_argument(
        "values",
        nargs="*",
        metavar="VALUE",
        help="a number (0x22, 34), a name (TDX_OPERAND_BUSY, TDH.MEM.PAGE.AUG), or a log: a file "
        "(gz and xz too), or - for standard input",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=_KINDS,
        help="how to read a plain number; without it all possible meanings are shown, the "
        "likeliest first",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/decode.md)")
    return parser
