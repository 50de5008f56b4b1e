"""Delays: chosen SEAMCALLs are answered late, by rule or by seed, while other CPUs go on.

    LEAF:delay=MS[:nth=N][:every=N][:times=N][:share=P:seed=N]     TDH.MEM.*:delay=20:share=0.1

LEAF may have ``*`` in it.  MS are milliseconds from the call to its answer, and the module sees the
call when they are over.  ``share`` is the part of the calls that is hit, drawn from ``seed`` (0).
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.boot.tally import Tally
from dpamt.errors import InputError

DELAY: Final = "delay="
_EXPECTED: Final = "expected one each of delay, nth, every, times, share, seed"
_LONGEST: Final = 60_000
"""Milliseconds."""


@dataclass(frozen=True, slots=True)
class DelayRule:
    """A line; 0 stands for any (``nth``, ``every``, ``times``)."""

    text: str
    leaves: frozenset[int]
    milliseconds: int
    nth: int = 0
    every: int = 0
    times: int = 0
    share: float = 1.0
    seed: int = 0


class Delays(Tally[DelayRule]):
    """The rules of one boot, and what came of them."""

    def __init__(self, rules: tuple[DelayRule, ...]) -> None:
        super().__init__(rules)
        self._randoms = [Random(rule.seed) for rule in rules]

    def seconds(self, leaf: int) -> float:
        """How late this call of a leaf is answered: by the first rule that hits it; 0: at once."""
        for index, rule in enumerate(self.rules):
            if leaf not in rule.leaves:
                continue
            drawn = self._randoms[index].random() < rule.share
            if self.is_hit(index, drawn):
                return rule.milliseconds / 1000
        return 0.0


def parse_delay(text: str) -> DelayRule:
    """The rule of a line with ``delay=``; InputError for one that is none."""
    if not text.isprintable():
        raise InputError(f"{text!r}: expected a rule on one line of plain text")
    name, *parts = text.split(":")
    leaves = frozenset(leaf for leaf, known in LEAF_NAMES.items() if fnmatchcase(known, name))
    if not leaves:
        raise InputError(f"{text}: leaf {name!r}; expected a name such as TDH.MEM.PAGE.AUG")
    numbers: dict[str, int] = {}
    share: float | None = None
    for part in parts:
        key, _, value = part.partition("=")
        if key == "share" and share is None:
            share = _share(text, part, value)
        elif key in ("delay", "nth", "every", "times", "seed") and key not in numbers:
            most = _LONGEST if key == "delay" else 1 << 60
            least = 0 if key == "seed" else 1
            if not (value.isascii() and value.isdigit()) or not least <= int(value) <= most:
                raise InputError(f"{text}: {part}; expected a whole number from {least} to {most}")
            numbers[key] = int(value)
        else:
            raise InputError(f"{text}: {part!r}; {_EXPECTED}")
    if "delay" not in numbers:
        raise InputError(f"{text}: no delay; expected delay=MILLISECONDS")
    milliseconds = numbers.pop("delay")
    return DelayRule(text, leaves, milliseconds, share=1.0 if share is None else share, **numbers)


def _share(text: str, part: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise InputError(f"{text}: {part}; expected a share above 0, up to 1")
    return share
