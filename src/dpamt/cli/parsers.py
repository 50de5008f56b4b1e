"""The parsers of all verbs, for what is made from them: completion, man pages, tests."""

from importlib import import_module
from typing import Final

from dpamt.cli.main import VERBS
from dpamt.cli.parser import Parser

_ELSEWHERE: Final = {
    "verify": ("verify_options", "_parser"),
    "plan": ("plan_options", "plan_parser"),
}
"""Verbs whose parser is in another module, and its name."""


def parsers() -> dict[str, Parser]:
    """Verb to its parser."""
    return {verb: _parser_of(verb) for verb in VERBS}


def _parser_of(verb: str) -> Parser:
    module, function = _ELSEWHERE.get(verb, (verb, "_parser"))
    found: Parser = getattr(import_module(f"dpamt.cli.{module}"), function)()
    return found
