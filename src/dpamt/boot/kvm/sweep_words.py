"""What `--sweep` may say, and the `--inject` rules that it stands for, one for each life.

    [LEAF:]WHAT[:row=N]            TDX_OPERAND_INVALID   busy:row=2   TDH.PHYMEM.PAMT.*:TDX_SYS_BUSY

    LEAF   a name or a pattern with *, as in --inject (every leaf)
    WHAT   STATUS            this answer, dictated
           busy[=OPERAND]    another CPU holds a lock: each that the call takes, one life for each
           no-entropy        no random number
           no-key            the key engine fails
    row    N calls of the leaf in a row (1)

Which operands can be busy and which leaves draw random numbers: :mod:`dpamt.abi.contention`.
"""

import re
from dataclasses import dataclass
from typing import Final

from dpamt.abi.contention import BUSY_OPERANDS, CONFIGURES_KEYS, DRAWS_ENTROPY
from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.leaves import LEAF_NAMES, leaf_name
from dpamt.boot.forced import ForcedRule, parse_forced, status_of
from dpamt.errors import InputError
from dpamt.module.injection_rules import BUSY, NO_ENTROPY, NO_KEY, Rule, parse_rule

_ABLE: Final = {NO_ENTROPY: DRAWS_ENTROPY, NO_KEY: CONFIGURES_KEYS}
_LEAF: Final = re.compile(r"TDH\.|.*\*")
_ROW: Final = re.compile(r"row=([1-9][0-9]{0,3})")
_EXPECTED: Final = "expected [LEAF:]WHAT[:row=N], WHAT a status, busy, no-entropy or no-key"


@dataclass(frozen=True, slots=True)
class Swept:
    """One `--sweep`."""

    text: str
    leaves: frozenset[int]
    condition: str
    """A condition of --inject; empty: an answer."""
    operand: str
    answer: str
    row: int

    def lines(self, leaf: int, nth: int, locked: frozenset[str]) -> list[str]:
        """The rules for call ``nth`` of a leaf, whose operands ``locked`` stand for locks."""
        if leaf not in self.leaves:
            return []
        if self.condition == BUSY:
            operands = [name for name in BUSY_OPERANDS.get(leaf, ()) if name in locked]
            whats = [f"{BUSY}={name}" for name in operands if self.operand in ("", name)]
        elif self.condition:
            whats = [self.condition] if leaf in _ABLE[self.condition] else []
        else:
            whats = [f"answer={self.answer}"]
        row = f":row={self.row}" if self.row > 1 else ""
        return [f"{leaf_name(leaf)}:{what}:nth={nth}{row}" for what in whats]


def parse_swept(text: str) -> Swept:
    """What a `--sweep` says.  Raises InputError, one line, for what is none."""
    if not text.isprintable():
        raise InputError(f"--sweep {text!r}: expected one line of plain text")
    parts = text.split(":")
    leaves = frozenset(LEAF_OPERANDS)
    if _LEAF.match(parts[0]):
        leaves = _leaves(text, parts.pop(0))
    row = 1
    if len(parts) == 2 and (found := _ROW.fullmatch(parts[1])):
        row = int(found[1])
        parts.pop()
    if len(parts) != 1 or not parts[0]:
        raise InputError(f"--sweep {text}: {_EXPECTED}")
    condition, _, operand = parts[0].partition("=")
    if condition == BUSY:
        known = {name for leaf in leaves for name in BUSY_OPERANDS.get(leaf, ())}
        if not known or (operand and operand not in known):
            able = ", ".join(f"{BUSY}={name}" for name in sorted(known)) or "no lock"
            raise InputError(f"--sweep {text}: {parts[0]!r}; these leaves can meet {able}")
        return Swept(text, leaves, BUSY, operand, "", row)
    if parts[0] in _ABLE:
        if not leaves & _ABLE[parts[0]]:
            raise InputError(f"--sweep {text}: no such leaf can meet {parts[0]}")
        return Swept(text, leaves, parts[0], "", "", row)
    status_of(f"--sweep {text}", parts[0])
    return Swept(text, leaves, "", "", parts[0], row)


def rule_of(line: str) -> Rule | ForcedRule:
    """The rule of a line of :meth:`Swept.lines`."""
    return parse_forced(line) if ":answer=" in line else parse_rule(line)


def _leaves(text: str, name: str) -> frozenset[int]:
    pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
    leaves = frozenset(leaf for leaf in LEAF_OPERANDS if pattern.fullmatch(LEAF_NAMES[leaf]))
    if not leaves:
        raise InputError(f"--sweep {text}: leaf {name!r}; expected a name such as TDH.MEM.PAGE.AUG")
    return leaves
