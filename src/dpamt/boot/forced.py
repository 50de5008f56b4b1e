"""Answers that a rule dictates, for leaves that the model would answer otherwise.

    LEAF:answer=STATUS[:nth=N[:row=N]][:every=N][:times=N]     TDH.SYS.INIT:answer=TDX_OPERAND_BUSY

STATUS is a name (``dpamt decode`` knows them all) or a number.  The module does not see such a
call, and the registers stay as they were.  Any other rule is one of :mod:`dpamt.boot.delays` or of
:mod:`dpamt.module.injection_rules`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.registers import U64_MASK
from dpamt.abi.status import STATUS_NAMES
from dpamt.boot.delays import DELAY, DelayRule, parse_delay
from dpamt.boot.tally import Tally
from dpamt.errors import InputError
from dpamt.module.injection_rules import Rule, parse_rule

_ANSWER: Final = "answer="


@dataclass(frozen=True, slots=True)
class ForcedRule:
    """A line; 0 stands for any (``nth``, ``every``, ``times``)."""

    text: str
    leaf: int
    status: int
    nth: int = 0
    row: int = 1
    every: int = 0
    times: int = 0


class Forced(Tally[ForcedRule]):
    """The rules of one boot, and what came of them."""

    def status(self, leaf: int) -> int | None:
        """The status that a rule dictates for this call of a leaf; None when none does."""
        for index, rule in enumerate(self.rules):
            if rule.leaf == leaf and self.is_hit(index, row=rule.row):
                return rule.status
        return None


def split_rules(
    lines: Sequence[str],
) -> tuple[tuple[Rule, ...], tuple[ForcedRule, ...], tuple[DelayRule, ...]]:
    """Rules that make a condition true, that dictate an answer, and that delay one.

    Raises InputError for a line that is none of them.
    """
    forced = [line for line in lines if f":{_ANSWER}" in line]
    delays = [line for line in lines if f":{DELAY}" in line and line not in forced]
    rules = [line for line in lines if line not in forced and line not in delays]
    return (
        tuple(map(parse_rule, rules)),
        tuple(map(parse_forced, forced)),
        tuple(map(parse_delay, delays)),
    )


def parse_forced(text: str) -> ForcedRule:
    """The rule of a line with ``answer=``; InputError for one that is none."""
    if not text.isprintable():
        raise InputError(f"{text!r}: expected a rule on one line of plain text")
    name, *parts = text.split(":")
    numbers = {known: leaf for leaf, known in LEAF_NAMES.items()}
    if name not in numbers:
        near = get_close_matches(name, numbers, 1, 0.7)
        hint = f"did you mean {near[0]}?" if near else "expected a name such as TDH.SYS.INIT"
        raise InputError(f"{text}: leaf {name!r}; {hint}")
    options: dict[str, int] = {}
    status = None
    for part in parts:
        key, _, value = part.partition("=")
        if part.startswith(_ANSWER) and status is None:
            status = status_of(text, value)
        elif key in ("nth", "row", "every", "times") and key not in options:
            if not value.isdecimal() or not 0 < int(value) < 1 << 60:
                raise InputError(f"{text}: {part}; expected a whole number from 1")
            options[key] = int(value)
        else:
            raise InputError(
                f"{text}: {part!r}; expected one each of answer, nth, row, every, times"
            )
    if status is None:
        raise InputError(f"{text}: no answer; expected answer=STATUS")
    if "row" in options and "nth" not in options:
        raise InputError(f"{text}: row without nth; expected nth=N:row=N")
    return ForcedRule(text, numbers[name], status, **options)


def status_of(text: str, value: str) -> int:
    """A status by its name or number; raises InputError, naming ``text``, for what is none."""
    for status, name in STATUS_NAMES.items():
        if name == value:
            return status
    try:
        status = int(value, 0)
    except ValueError:
        status = -1
    if not 0 <= status <= U64_MASK:
        near = get_close_matches(value, STATUS_NAMES.values(), 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else "expected a status such as TDX_OPERAND_BUSY"
        raise InputError(f"{text}: answer {value!r}; {hint}")
    return status
