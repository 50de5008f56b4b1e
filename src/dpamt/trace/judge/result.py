"""What came of judging a recording: values, nothing that runs; and the leaks at its end."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from dpamt.trace.judge.findings import COUNT_LEAK, LEAK, Findings, TraceFinding
from dpamt.trace.judge.state import PAIR, Region, State
from dpamt.trace.judge.times import Histogram
from dpamt.trace.recording.model import MOST_CALLER, Health, seconds, shown

_JUST_NOW: Final = 1_000_000
"""Nanoseconds before the end of a recording: a put may be under way, unless one was done since."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything that is known at the end of a recording."""

    name: str
    form: str
    health: Health
    from_boot: bool
    """It has TDH.SYS.CONFIG and no loss: nothing is unknown."""
    dynamic: bool | None
    """Whether the module runs Dynamic PAMT; None: the recording does not show it."""
    blind: bool
    """Pages are not followed: the recording has no outputs of calls that take pages back."""
    forgotten: int
    """How often everything had to be forgotten after a loss."""
    statuses: Counter[tuple[int, int]]
    """(leaf, status without details; -1 for no answer) to how often."""
    findings: Findings
    undecided: int
    contention: Counter[tuple[str, str, str]]
    """(leaf, busy operand, who can have held it) to how often."""
    adds: int
    removes: int
    pairs_now: int
    pairs_most: int
    pages_now: int
    tds_now: int
    series: list[tuple[int, ...]]
    """(time, pairs known to be installed, 4K pages known to be in use)."""
    by_leaf: dict[int, Histogram]
    """Durations by leaf; -1 - leaf has those of calls that did not succeed."""
    ops: dict[str, Histogram]
    slow: list[str]
    slow_calls: int
    seconds: float

    @property
    def clean(self) -> bool:
        """No finding."""
        return not self.findings.counts


def leaks(state: State, now: int, counted: bool) -> list[tuple[TraceFinding, int]]:
    """Pairs without a user and counts without pages at the end, by who is to be asked.

    ``counted``: the recording has gets and puts.
    """
    pairs: dict[tuple[bytes, bytes], list[tuple[int, Region]]] = {}
    counts: list[tuple[int, Region]] = []
    for index, region in sorted(state.regions.items()):
        if not region.exact or region.used or state.blind:
            continue
        if region.ended > now - _JUST_NOW and region.put_at < region.ended:
            continue
        if region.state == PAIR and state.dynamic:
            added = region.added
            key = (b"", b"") if added is None else added[1:]
            pairs.setdefault(key, []).append((index, region))
        elif counted and region.refs:
            counts.append((index, region))
    found = []
    for (comm, caller), regions in sorted(pairs.items(), key=lambda item: -len(item[1])):
        index, region = regions[0]
        at = 0 if region.added is None else region.added[0]
        who = shown(caller, MOST_CALLER) + (f" ({shown(comm)})" if comm else "")
        what = "1 page pair" if len(regions) == 1 else f"{len(regions):,} page pairs"
        because = f"the first is of region {index << 21:#x}"
        if region.added is not None:
            because += f", added at {seconds(at)}"
        found.append(
            (TraceFinding(LEAK, region.ended, region.cpu, what, because, who), len(regions))
        )
    if counts:
        index, region = counts[0]
        what = f"{len(counts):,} regions"
        because = f"the first is {index << 21:#x}, count {region.refs}"
        found.append(
            (TraceFinding(COUNT_LEAK, region.ended, region.cpu, what, because), len(counts))
        )
    return found
