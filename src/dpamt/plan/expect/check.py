"""Numbers read on a real host, held against the ranges of a case: `dpamt expect --check`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dpamt.errors import InputError
from dpamt.plan.expect.expected import Expectation, Expected
from dpamt.trace.judge.counts import read_counts

PAIR_KB: Final = 8
"""KB of a page pair, as /proc/meminfo counts them."""

_VALUE: Final = re.compile(r"(\d{1,15})\s*(kb|kib|pairs?)?", re.IGNORECASE)
_EXPECTED: Final = (
    "CHECKPOINT=NUMBER, in kB or with 'pairs' behind it, such as launched=4200kB, or the kernel's "
    "counters, such as launched=counts.json"
)
COUNTERS: Final = ".json"
"""How the name of a file of counters ends (`dpamt trace --how drgn`)."""


@dataclass(frozen=True, slots=True)
class Read:
    """A number that somebody read at a checkpoint; ``kb`` as the "TDX:" line shows it."""

    checkpoint: str
    kb: int
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A checkpoint of a repetition (from 1) and what was read there; None: nothing was."""

    repetition: int
    expected: Expected
    read: Read | None
    problem: str
    """Empty where the number is in the range."""


def parse_checks(texts: Iterable[str]) -> list[Read]:
    """The ``--check`` options in order.  Raises InputError for another form."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> Read:
    name, sign, value = text.partition("=")
    if not sign:
        name, _, value = text.strip().partition(" ")
    if value.strip().endswith(COUNTERS):
        counts = read_counts(value.strip()).regions.values()
        pairs_there = sum(count > 0 for count in counts)
        return Read(name.strip(), pairs_there * PAIR_KB, f"{pairs_there}pairs")
    match = _VALUE.fullmatch(value.strip())
    if match is None or not name.strip():
        raise InputError(f"--check {text.strip()[:80]!r}: expected {_EXPECTED}")
    pairs = (match[2] or "").lower().startswith("pair")
    kb = int(match[1]) * (PAIR_KB if pairs else 1)
    return Read(name.strip(), kb, value.strip())


def check(expectation: Expectation, reads: Sequence[Read]) -> list[Checked]:
    """Every checkpoint of every repetition.  The n-th number of a checkpoint is that of the n-th
    repetition.

    Raises InputError for a checkpoint that the case has not, or more numbers than repetitions.
    """
    points = {point.checkpoint.name: point for point in expectation.checkpoints}
    by_name: dict[str, list[Read]] = {}
    for read in reads:
        if read.checkpoint not in points:
            raise InputError(
                f"--check {read.checkpoint}: no such checkpoint of case {expectation.case.name}; "
                f"expected one of {', '.join(points)}"
            )
        by_name.setdefault(read.checkpoint, []).append(read)
        if len(by_name[read.checkpoint]) > expectation.case.repeat:
            raise InputError(
                f"--check {read.checkpoint}: {len(by_name[read.checkpoint])} numbers; expected at "
                f"most {expectation.case.repeat}, one for each repetition of case "
                f"{expectation.case.name}"
            )
    found = []
    repetitions = max((len(numbers) for numbers in by_name.values()), default=1)
    for repetition in range(1, repetitions + 1):
        for name, point in points.items():
            numbers = by_name.get(name, [])
            read_here = numbers[repetition - 1] if repetition <= len(numbers) else None
            problem = "" if read_here is None else _problem(point, read_here)
            found.append(Checked(repetition, point, read_here, problem))
    return found


def _problem(point: Expected, read: Read) -> str:
    least, most = point.pairs_least * PAIR_KB, point.pairs_most * PAIR_KB
    if read.kb % PAIR_KB:
        return f"{read.kb} kB is no whole number of page pairs (8 kB each)"
    if read.kb < least:
        return f"{read.kb} kB is below {least} kB, the least that these TDs need"
    if read.kb > most:
        over = (read.kb - most) // PAIR_KB
        if not most:
            return f"{read.kb} kB are left: {over} page pairs that no TD uses"
        return f"{read.kb} kB is above {most} kB, the most that these TDs can need"
    return ""
