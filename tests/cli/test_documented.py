"""What `--help` and messages say of an option is what it does: its range, default and kind.

The numbers are read from the texts that a user sees, and tried out.
"""

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dpamt.cli.main import VERBS
from dpamt.cli.parsers import parsers

from .command import dpamt

ACTIONS = [
    (verb, action)
    for verb, parser in parsers().items()
    for action in parser._actions
    if action.option_strings and "--help" not in action.option_strings
]


def named(of: Any) -> str:
    verb, action = of
    return f"{verb} {action.option_strings[0]}"


RANGE = re.compile(
    r"\(?(?P<above>above )?(?:from )?(?P<low>\d+)"
    r"(?:,? (?:up )?to (?P<high>\d+)(?:\^(?P<power>\d+) - 1)?| or more)?(?: seconds)?[);]?"
)

LATER = {"--case", "--jobs"}
"""Whose range is known when the other options are: see the refusals of their verbs."""


def ranges() -> Iterator[tuple[str, argparse.Action, re.Match[str]]]:
    for verb, action in ACTIONS:
        name = getattr(action.type, "__name__", "")
        found = RANGE.search(name)
        if found is not None and "such as" not in name and not LATER & {*action.option_strings}:
            yield verb, action, found


@pytest.mark.parametrize("of", list(ranges()), ids=lambda of: named(of[:2]))
def test_the_range_that_a_refusal_names_is_the_range(
    of: tuple[str, argparse.Action, re.Match[str]],
) -> None:
    _, action, found = of
    take: Any = action.type
    low = int(found["low"])
    least = low + 1 if found["above"] else low
    assert take(str(least)) is not None
    wrong = [str(low - 1), "-1", "", "x", "0x10"]
    if found["above"]:
        wrong.append(str(low))
    if found["high"]:
        high = int(found["high"])
        if found["power"]:
            high = high ** int(found["power"]) - 1
        assert take(str(high)) is not None
        wrong += [str(high + 1), "9" * 400]
    if "--cpus" in action.option_strings:
        wrong.append("1+1+1+1+1")  # in at most 4 regions
        assert take("1+1+1+1") == (1, 1, 1, 1)
    for text in wrong:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            take(text)


def test_there_are_many_of_them() -> None:
    assert len(list(ranges())) >= 20


SHOWN = re.compile(r"\((?:default:? )?([\w.+%-]+)(?:, the default)?[;:)]|\((\w+), the default\)")


@pytest.mark.parametrize(
    "of", [one for one in ACTIONS if one[1].default not in (None, False, [], "")], ids=named
)
def test_the_default_that_help_names_is_the_default(of: tuple[str, argparse.Action]) -> None:
    verb, action = of
    text = str(action.help).replace("%%", "%")
    default = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
    shown = [first or second for first, second in SHOWN.findall(text)]
    assert default in shown or re.match(rf"{re.escape(default)} \(the default\)", text), (
        shown,
        text,
    )
    assert action.choices is None or action.default in action.choices
    parsed = parsers()[verb]
    assert parsed.get_default(action.dest) == action.default


@pytest.mark.parametrize("of", [one for one in ACTIONS if one[1].nargs == 0], ids=named)
def test_a_switch_is_off_until_it_is_given(of: tuple[str, argparse.Action]) -> None:
    verb, action = of
    parser = parsers()[verb]
    needed = {
        "plan": ["1GiB"],
        "conform": ["x"],
        "boot": ["--vmlinux", "x"],
        "list": ["hosts"],
    }.get(verb, [])
    for option in action.option_strings:
        given = parser.parse_args([*needed, option])
        assert getattr(given, action.dest) is True
    assert not getattr(parser.parse_args(needed), action.dest)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_in_the_help_and_has_its_name(verb: str) -> None:
    text = dpamt(verb, "--help").out
    for of, action in ACTIONS:
        if of == verb:
            assert all(re.search(rf"(?<!\w){option}\b", text) for option in action.option_strings)
            assert all(option == option.lower() for option in action.option_strings)
            assert action.metavar is None or str(action.metavar) in text


AGED = ("plan", "2GiB", "--td", "2x64MiB/2vcpu", "--age", "0.03", "--seeds", "1", "--json")
VERIFY = ("verify", "merged", "--cpus", "2", "--json")
EXPECT = ("expect", "--case", "3", "--unit", "64MiB", "--json")
DEFAULTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "ageing": (AGED, {
        "--seed": "1", "--occupancy": "60", "--life": "12", "--fragmentation": "30",
        "--grouping": "scattered", "--conversions": "1", "--pair-pages": "pool",
        "--control-pages": "pool", "--share-2m": "50",
    }),
    "sizes": (("plan", "2GiB", "--td", "2x64MiB/2vcpu", "--json"), {
        "--share-2m": "50", "--release": "1.5.25", "--pa-bits": "46",
    }),
    "verify": (VERIFY, {
        "--pairs": "own", "--max-states": "3",
    }),
    "expect": (EXPECT, {
        "--design": "static", "--in-use": "50%", "--layout": "q35",
    }),
}  # fmt: skip
"""A command, and options of it with a value that is not the default."""
ITSELF = {
    "--pairs": "apart", "--grouping": "page-block",
    "--layout": "contiguous",
}  # fmt: skip
"""Defaults that help describes in a sentence; below it is looked for."""


def default_in_help(verb: str, option: str) -> str:
    (action,) = [one for of, one in ACTIONS if of == verb and option in one.option_strings]
    if option in ITSELF:
        return ITSELF[option]
    text = str(action.help).replace("%%", "%")
    found = re.search(r"default:? ([\w.]+)", text) or re.search(r"\(([\w.%-]+)[;)]", text)
    assert found is not None, text
    return found[1].rstrip(".")


def outcome(arguments: tuple[str, ...]) -> Any:
    """The document, without times."""
    ended = dpamt(*arguments)
    assert ended.code in (0, 1), ended.err
    return without_times(json.loads(ended.out))


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "memory")}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_that_is_given_changes_nothing(name: str) -> None:
    command, options = DEFAULTS[name]
    given = [word for option in options for word in (option, default_in_help(command[0], option))]
    assert outcome((*command, *given)) == outcome(command)


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name in DEFAULTS for option in DEFAULTS[name][1]]
)
def test_another_value_changes_something(name: str, option: str) -> None:
    command, options = DEFAULTS[name]
    assert outcome((*command, option, options[option])) != outcome(command)
