"""Each option that takes a value, with each kind of text that is none: one line, exit code 2.

The options are those of the parsers, so that a new one is in the table at once.
"""

import argparse
from pathlib import Path

import pytest

from dpamt.cli.parsers import parsers
from tests.boot.small_kernel import SmallKernel

from .command import dpamt, refused

EXAMPLES = Path(__file__).parents[2] / "examples"
BEFORE = {
    "run": "run --memory 64MiB",
    "verify": "verify v2 --cpus 2",
    "plan": "plan 1GiB --td 1x64MiB",
    "trace": "trace --how ftrace",
    "conform": "conform given.jsonl",
    "expect": "expect --case 1",
    "boot": "boot --vmlinux given.elf",
}
FLEET = "plan 2*64GiB --fleet given.csv"
AGE = "plan 1GiB --td 1x64MiB --age 1"
SPECIAL = {
    "verify --regions": "verify v2",
    "verify --trial": "verify v2",
    "verify --functions": "verify --vmlinux given.elf --cpus 2",
    "verify --tolerate": "verify --vmlinux given.elf --cpus 2",
    "verify --set": "verify --vmlinux given.elf --cpus 2",
    "verify --spill": "verify v2 --cpus 2 --max-memory 1GiB",
    "plan --age": "plan 1GiB --td 1x64MiB",
    **dict.fromkeys(("plan --seed", "plan --seeds", "plan --occupancy", "plan --life"), AGE),
    **dict.fromkeys(("plan --fragmentation", "plan --conversions", "plan --max-tds"), AGE),
    **dict.fromkeys(("plan --until", "plan --td-share", "plan --machine-gib"), FLEET),
    **dict.fromkeys(("plan --price", "plan --processes", "plan --ray"), FLEET),
    "list --source": "list designs",
    "expect --case": "expect",
    "expect --td": "expect",
    "boot --property": "boot --vmlinux given.elf --replay given.json",
    "boot --core-at": "boot --vmlinux given.elf --core core",
    "boot --sweep": "boot --vmlinux given.elf --kvm",
    "boot --fail-allocations": "boot --vmlinux given.elf --kvm",
}
"""What stands before an option, so that it would have an effect."""

NO_NUMBERS = (
    "",
    "x",
    " ",
    "-1",
    "nan",
    "-inf",
    "1e999",
    "1_0",
    "\uff11",
    "0x",
    "9" * 40,
    "9" * 5000,
)
"""Wrong for every option: none takes a number below 0, one that is not finite, one with more digits
than any machine has, or digits of another script."""

TAKEN = {
    "boot --append": set(NO_NUMBERS),  # words for the kernel, whatever they are
    "boot --core-at": {"9" * 40, "9" * 5000},  # a SEAMCALL that does not come: said at the end
    "verify --ray": set(NO_NUMBERS) - {""},  # an address; Ray says whether it is one, after a time
    "plan --ray": set(NO_NUMBERS) - {""},
}


def options() -> list[tuple[str, str]]:
    found = []
    for verb, parser in parsers().items():
        for action in parser._actions:
            if (
                action.option_strings
                and action.nargs != 0
                and not action.choices
                and action.dest not in parser.file_options
            ):
                found.append((verb, max(action.option_strings, key=len)))
    return found


TABLE = [
    pytest.param(verb, option, text, id=f"{verb} {option} {text[:40]!r}")
    for verb, option in options()
    for text in NO_NUMBERS
    if text not in TAKEN.get(f"{verb} {option}", ())
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    SmallKernel().write(folder / "given.elf")
    (folder / "given.csv").write_bytes((EXAMPLES / "vms.csv").read_bytes())
    (folder / "given.jsonl").write_bytes((EXAMPLES / "vectors.jsonl").read_bytes())
    dpamt("verify", "v2", "--cpus", "2", "--save", "given.json", cwd=folder)
    return folder


def test_there_are_enough() -> None:
    assert len(TABLE) > 300


@pytest.mark.parametrize(("verb", "option", "text"), TABLE)
def test_a_value_that_is_none(verb: str, option: str, text: str, given: Path) -> None:
    before = SPECIAL.get(f"{verb} {option}", BEFORE.get(verb, verb)).split(" ")
    files = sorted(given.iterdir())
    line = refused(*before, f"{option}={text}", cwd=given)
    shown = text.strip()[:100]
    assert option in line or (shown and (shown in line or ascii(shown)[1:-1] in line)), line
    assert any(word in line for word in ("expected", "invalid", "did you mean")), line
    assert "internal error" not in line
    assert len(line) < 1500
    assert sorted(given.iterdir()) == files


ONCE = [
    (verb, max(action.option_strings, key=len))
    for verb, parser in parsers().items()
    for action in parser._actions
    if isinstance(action, argparse._StoreAction) and action.option_strings
]


@pytest.mark.parametrize(("verb", "option"), ONCE, ids=map(" ".join, ONCE))
def test_an_option_given_twice(verb: str, option: str, given: Path) -> None:
    """The first would be dropped without a word."""
    action = parsers()[verb]._option_string_actions[option]
    value = str(next(iter(action.choices))) if action.choices else "1"
    try:
        if action.type is not None:
            action.type(value)  # type: ignore[operator]
    except (TypeError, ValueError):
        value = {"--functions": "get=a,put=b", "--spill": "."}.get(option, "1GiB")
    line = refused(verb, option, value, option, value, cwd=given)
    assert f"{option} is given twice; expected it once" in line
