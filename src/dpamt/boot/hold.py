"""Hold rules: which CPU waits where, and for what; so that a schedule is made to happen.

A rule is one line::

    CPU@PLACE:until=CPU:CALLS[:nth=N]      0@TDH.PHYMEM.PAMT.ADD:until=1:3

    CPU@PLACE   the CPU, at a SEAMCALL by its leaf's name, or at a call in the kernel's code,
                CALLER/CALLEE by their symbols (mailbox transport): tdx_pamt_put/_raw_spin_lock
    until=C:N   kept there until CPU C has done N more SEAMCALLs or rendezvous
    nth=N       at the N-th time it comes there (1)
"""

import re
from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.errors import InputError

_RULE: Final = re.compile(
    r"(?P<cpu>\d{1,3})@(?P<place>[\w./]+):until=(?P<other>\d{1,3}):(?P<calls>\d{1,9})"
    r"(?::nth=(?P<nth>\d{1,9}))?"
)
_LEAVES: Final = {name: leaf for leaf, name in LEAF_NAMES.items()}
_EXPECTED: Final = "CPU@LEAF:until=CPU:CALLS or CPU@CALLER/CALLEE:until=CPU:CALLS"


@dataclass(frozen=True, slots=True)
class HoldRule:
    """``leaf`` is -1 where the place is a call in the kernel's code, ``call`` empty where not."""

    text: str
    cpu: int
    leaf: int
    call: tuple[str, str] | tuple[()]
    other: int
    calls: int
    nth: int


def parse_hold(text: str, cpus: int) -> HoldRule:
    """The rule that a line says.  Raises InputError for one that is none, or names no such CPU."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r}: expected {_EXPECTED} (docs/boot.md)")
    cpu, other = int(match["cpu"]), int(match["other"])
    for number in (cpu, other):
        if number >= cpus:
            raise InputError(f"{text}: CPU {number}; expected 0 to {cpus - 1}")
    if cpu == other:
        raise InputError(f"{text}: CPU {cpu} would wait for itself; expected another CPU")
    caller, slash, callee = match["place"].partition("/")
    if not slash and caller not in _LEAVES:
        raise InputError(f"{text}: leaf {caller!r}; expected {_EXPECTED}")
    nth = int(match["nth"] or 1)
    calls = int(match["calls"])
    if not nth or not calls:
        raise InputError(f"{text}: expected counts from 1")
    leaf = -1 if slash else _LEAVES[caller]
    return HoldRule(text, cpu, leaf, (caller, callee) if slash else (), other, calls, nth)


def held_calls(rules: tuple[HoldRule, ...]) -> list[tuple[str, str]]:
    """The calls in the kernel's code that rules name, each once: (caller, callee)."""
    return list(dict.fromkeys(rule.call for rule in rules if rule.call))


class Holds:
    """The rules of a run, and how far each is."""

    def __init__(self, rules: tuple[HoldRule, ...]) -> None:
        self.rules = rules
        self._seen = [0] * len(rules)
        self.times = [0] * len(rules)
        """How often each rule held somebody."""

    def picked(self, cpu: int, leaf: int, call: tuple[str, str] | tuple[()]) -> int:
        """Index of the rule that holds this CPU here; -1: none does."""
        for index, rule in enumerate(self.rules):
            if rule.cpu == cpu and rule.leaf == leaf and rule.call == call:
                self._seen[index] += 1
                if self._seen[index] == rule.nth:
                    self.times[index] += 1
                    return index
        return -1
