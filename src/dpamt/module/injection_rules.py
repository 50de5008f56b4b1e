"""The rules of injection as users write them: one line each, read, and refused where it cannot be.

A rule is one line::

    LEAF:CONDITION[:OPTION]...      TDH.MEM.PAGE.AUG:busy=SEPT_TREE:nth=3

    LEAF       a name; or several, by *: TDH.MEM.*, or * for every leaf that can meet the condition
    CONDITION  busy=OPERAND    another CPU holds the lock that the operand names (SYS: the global
                               lock, whose answer is TDX_SYS_BUSY)
               no-entropy      RDRAND and RDSEED do not deliver
               interrupt       an interrupt is pending
               no-key          the key engine fails
    OPTION     nth=N           only the N-th of the calls (counted from 1)
               row=N           with nth: that call and those after it, N in a row
               every=N         every N-th
               share=F         each with probability F (0 to 1), by a seed
               seed=S          of share (0 if not given)
               times=N         at most N times in all
               region=HPA      only calls with an operand in that 2M region of memory
               hpa=LOW-HIGH    only calls with an operand in that range of memory, HIGH left out
               gpa=LOW-HIGH    only calls on a guest address in that range

Without nth, every or share: each call.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from dpamt.abi.contention import BUSY_OPERANDS, CONFIGURES_KEYS, DRAWS_ENTROPY, INTERRUPTIBLE
from dpamt.abi.leaf_table import (
    GPA,
    GPA_LEVEL,
    HPA_LEVEL,
    LEAF_OPERANDS,
    PAGE,
    TDR,
    TDR_FLAG,
    TDVPR,
)
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.pages import MAX_PA_LIMIT, SIZE_2M
from dpamt.errors import InputError

BUSY: Final = "busy"
NO_ENTROPY: Final = "no-entropy"
INTERRUPT: Final = "interrupt"
NO_KEY: Final = "no-key"

_ABLE: Final = {NO_ENTROPY: DRAWS_ENTROPY, INTERRUPT: INTERRUPTIBLE, NO_KEY: CONFIGURES_KEYS}
_WHICH: Final = ("nth", "every", "share")
_RANGES: Final = ("region", "hpa", "gpa")
_MEMORY: Final = frozenset({PAGE, HPA_LEVEL, TDR, TDR_FLAG, TDVPR})
_GUEST: Final = frozenset({GPA, GPA_LEVEL})
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_SHARE: Final = re.compile(r"[0-9]*\.?[0-9]+(?:[eE]-?[0-9]{1,3})?|[0-9]+\.")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: which calls of which leaves meet what; -1 (``times``) and None stand for any."""

    text: str
    leaves: frozenset[int]
    condition: str
    operand: str = ""
    nth: int = 0
    row: int = 1
    every: int = 0
    share: float = 1.0
    seed: int = 0
    times: int = -1
    memory: range | None = None
    guest: range | None = None


def memory_operands(leaf: int) -> tuple[str, ...]:
    """Registers that name memory which the module guards."""
    return _registers(leaf, _MEMORY)


def guest_operands(leaf: int) -> tuple[str, ...]:
    """Registers that name guest addresses."""
    return _registers(leaf, _GUEST)


def _registers(leaf: int, kinds: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name, kind in LEAF_OPERANDS[leaf].items() if kind in kinds)


def parse_rule(text: str) -> Rule:
    """The rule that a line says.

    Raises InputError, one line that says what was expected, for a line that is no rule, for a
    condition that the leaf cannot meet, and for addresses of a leaf that is given none.
    """
    if not text.isprintable():
        raise InputError(f"{text!r}: expected a rule on one line of plain text")
    name, *parts = text.split(":")
    named = _leaves_named(text, name)
    if not parts:
        raise InputError(f"{text}: no condition; expected {_able(named)}")
    condition, has_operand, operand = parts[0].partition("=")
    leaves = [leaf for leaf in named if _is_able(leaf, condition, operand)]
    if not leaves or (condition != BUSY and has_operand):
        raise InputError(f"{text}: {parts[0]!r}; {name} can meet {_able(named)}")
    options: dict[str, Any] = {}
    for part in parts[1:]:
        key, _, value = part.partition("=")
        if key in options:
            raise InputError(f"{text}: {key} is said twice")
        options[key] = _option(text, key, value)
    _check_together(text, options)
    memory, guest = (
        options.pop("region", None) or options.pop("hpa", None),
        options.pop("gpa", None),
    )
    if memory is not None:
        leaves = [leaf for leaf in leaves if memory_operands(leaf)]
    if guest is not None:
        leaves = [leaf for leaf in leaves if guest_operands(leaf)]
    if not leaves:
        kind = "guest address" if guest is not None else "address of memory"
        raise InputError(f"{text}: {name} is given no {kind}; expected a rule without that range")
    return Rule(text, frozenset(leaves), condition, operand, memory=memory, guest=guest, **options)


def _leaves_named(text: str, name: str) -> list[int]:
    """The leaves that are modelled under a name, or a pattern with ``*``."""
    pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
    named = [leaf for leaf in LEAF_OPERANDS if pattern.fullmatch(LEAF_NAMES[leaf])]
    if named:
        return named
    if name in LEAF_NAMES.values():
        raise InputError(f"{text}: {name} is not modelled; expected a leaf of docs/leaves")
    near = get_close_matches(name, [LEAF_NAMES[leaf] for leaf in LEAF_OPERANDS], 1, 0.7)
    hint = f"did you mean {near[0]}?" if near else "expected a name such as TDH.MEM.PAGE.AUG"
    raise InputError(f"{text}: leaf {name!r}; {hint}")


def _is_able(leaf: int, condition: str, operand: str) -> bool:
    if condition == BUSY:
        return operand in BUSY_OPERANDS.get(leaf, ())
    return leaf in _ABLE.get(condition, ())


def _able(leaves: list[int]) -> str:
    """What any of these leaves can meet, in words."""
    operands = dict.fromkeys(name for leaf in leaves for name in BUSY_OPERANDS.get(leaf, ()))
    able = [f"{BUSY}={operand}" for operand in operands]
    able += [what for what, those in _ABLE.items() if those.intersection(leaves)]
    return ", ".join(able) if able else "nothing"


def _check_together(text: str, options: dict[str, Any]) -> None:
    """Options that exclude each other, or that go with another."""
    for group, ours in ((_WHICH, "one of nth, every, share"), (_RANGES[:2], "region or hpa")):
        given = [key for key in group if key in options]
        if len(given) > 1:
            raise InputError(f"{text}: {' and '.join(given)}; expected {ours}")
    if "seed" in options and "share" not in options:
        raise InputError(f"{text}: seed without share; expected share=F:seed=S")
    if "row" in options and "nth" not in options:
        raise InputError(f"{text}: row without nth; expected nth=N:row=N")


def _option(text: str, key: str, value: str) -> int | float | range:
    """The value of an option."""

    def refuse(expected: str) -> NoReturn:
        raise InputError(f"{text}: {key}={value}; expected {expected}")

    if key not in _READERS:
        raise InputError(f"{text}: option {key!r}; expected one of {', '.join(_READERS)}")
    reader, expected = _READERS[key]
    found = reader(value)
    if found is None:
        refuse(expected)
    return found


def _from_one(value: str) -> int | None:
    return int(value) or None if _DIGITS.fullmatch(value) else None


def _from_zero(value: str) -> int | None:
    return int(value) if _DIGITS.fullmatch(value) else None


def _share(value: str) -> float | None:
    share = float(value) if _SHARE.fullmatch(value) else math.inf
    return share if share <= 1 else None


def _address(value: str) -> int | None:
    address = int(value, 16 if value.startswith("0x") else 10) if _ADDRESS.fullmatch(value) else -1
    return address if 0 <= address <= MAX_PA_LIMIT else None


def _region(value: str) -> range | None:
    address = _address(value)
    if address is None or address == MAX_PA_LIMIT:
        return None
    first = address // SIZE_2M * SIZE_2M
    return range(first, first + SIZE_2M)


def _range(value: str) -> range | None:
    low, _, high = value.partition("-")
    first, end = _address(low), _address(high)
    if first is None or end is None or first >= end:
        return None
    return range(first, end)


_READERS: Final[dict[str, tuple[Callable[[str], int | float | range | None], str]]] = {
    "nth": (_from_one, "a whole number from 1"),
    "every": (_from_one, "a whole number from 1"),
    "share": (_share, "a share from 0 to 1"),
    "seed": (_from_zero, "a whole number from 0"),
    "times": (_from_one, "a whole number from 1"),
    "row": (_from_one, "a whole number from 1"),
    "region": (_region, "an address below 2^52, such as 0x40000000"),
    "hpa": (_range, "a range of addresses, such as 0x40000000-0x80000000"),
    "gpa": (_range, "a range of guest addresses, such as 0x0-0x200000"),
}
