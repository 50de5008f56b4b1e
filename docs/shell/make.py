"""Shell completion and man pages, made from the parsers: ``python docs/shell/make.py [FOLDER]``."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Final

import shtab
from argparse_manpage.manpage import Manpage

from dpamt.cli.main import VERBS
from dpamt.cli.parser import Parser
from dpamt.cli.parsers import parsers

HERE: Final = Path(__file__).parent
DATE: Final = "2026"
"""Of the man pages: a day would change them without a change of what they say."""


def files() -> dict[str, str]:
    """File name to text, of everything."""
    made = {
        "dpamt": shtab.complete(_whole(True), "bash"),
        "_dpamt": shtab.complete(_whole(True), "zsh"),
        "dpamt.fish": shtab.complete(_whole(True), "fish"),
        "dpamt.1": _page(_whole(False), "Intel TDX Dynamic PAMT without the hardware"),
    }
    for verb, parser in parsers().items():
        made[f"dpamt-{verb}.1"] = _page(parser, VERBS[verb])
    return {name: text.rstrip() + "\n" for name, text in made.items()}


def _whole(with_options: bool) -> argparse.ArgumentParser:
    """One parser with a subparser for each verb, as the command behaves."""
    whole = argparse.ArgumentParser(
        prog="dpamt",
        description="Intel TDX Dynamic PAMT without the hardware: run it, prove it, size it. Exit "
        "codes: 0 clean, 1 a finding, 2 bad usage or input, 3 dpamt itself is wrong, 130 "
        "interrupted. dpamt VERB --help says what a verb takes; each has a man page, dpamt-VERB.",
    )
    whole.add_argument("--version", "-V", action="store_true", help="which dpamt this is")
    verbs = whole.add_subparsers(dest="verb", metavar="VERB")
    for verb, parser in parsers().items():
        for action in parser._actions:
            if action.dest in parser.file_options:
                _complete(action, parser)
        parents = [parser] if with_options else []
        verbs.add_parser(verb, help=VERBS[verb], parents=parents, conflict_handler="resolve")
    return whole


def _complete(action: Any, parser: Parser) -> None:
    action.complete = shtab.DIRECTORY if action.metavar == "FOLDER" else shtab.FILE


def _page(parser: argparse.ArgumentParser, about: str) -> str:
    """A man page, section 1."""
    parser.formatter_class = _Wide
    data = {
        "project_name": "dpamt",
        "date": DATE,
        "manual_title": "dpamt",
    }
    page = Manpage(parser, _data=data, format="single-commands-section")
    name = parser.prog.replace(" ", "-")
    head = f'.TH {name.upper()} 1 "{DATE}" "dpamt" "dpamt"\n.SH NAME\n{name} \\- {about}\n'
    rest = str(page).partition(".SH SYNOPSIS")[2].replace(".SH\nPOSITIONAL ARGUMENTS", ".SH VERBS")
    return head + ".SH SYNOPSIS" + re.sub(r"\nusage: dpamt [a-z]+ \[.-h\]\n", "", rest)


class _Wide(argparse.HelpFormatter):
    """Lines are man's to break; the terminal of whoever makes the page is not looked at."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=10_000)


def main(arguments: list[str]) -> None:
    """Write them all."""
    folder = Path(arguments[0]) if arguments else HERE
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
