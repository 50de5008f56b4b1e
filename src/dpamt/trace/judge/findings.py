"""What a judge finds: kinds, counts, and the first of each kind in full."""

from dataclasses import dataclass, field
from typing import Final

IMPOSSIBLE: Final = "impossible-answer"
"""The module cannot have given this answer after those before it."""
MISSING_PAIR: Final = "missing-pair"
DOUBLE_ADD: Final = "double-add"
BAD_REMOVE: Final = "bad-remove"
PUT_TOO_MANY: Final = "put-too-many"
GET_FAILED: Final = "get-failed"
PAIR_BUSY: Final = "pair-busy"
BUSY_ALONE: Final = "busy-alone"
PAIR_PAGE: Final = "pair-page-not-free"
LEAK: Final = "leak"
COUNT_LEAK: Final = "count-leak"
COUNT_DIFFERS: Final = "count-differs"
NOT_ANSWERED: Final = "no-module"

ABOUT: Final = {
    IMPOSSIBLE: "the module cannot have given this answer after the calls before it",
    MISSING_PAIR: "a SEAMCALL met a region without its page pair",
    DOUBLE_ADD: "PAMT.ADD for a region that has a pair, or is a 2M page",
    BAD_REMOVE: "PAMT.REMOVE for a region without a pair, or with pages in use",
    PUT_TOO_MANY: "tdx_pamt_put() of a region whose count was 0",
    GET_FAILED: "tdx_pamt_get() failed",
    PAIR_BUSY: "PAMT.ADD or PAMT.REMOVE met a held lock",
    BUSY_ALONE: "a lock was busy, and nobody in the recording can have held it",
    PAIR_PAGE: "a page offered for a page pair was not free",
    LEAK: "page pairs that no page uses",
    COUNT_LEAK: "regions whose count is above 0 and no page is in use",
    COUNT_DIFFERS: "a counter of the kernel is not the number of pages in use (--counts)",
    NOT_ANSWERED: "a SEAMCALL that no module answered",
}
"""Kind to what it means.  Names shared with `dpamt boot` and `dpamt verify` mean the same there."""

KEPT: Final = 20
"""Findings of one kind that are kept in full."""


@dataclass(frozen=True, slots=True)
class TraceFinding:
    """One finding: what, when (nanoseconds of the recording), on which CPU, and why."""

    kind: str
    at: int
    cpu: int
    what: str
    """The call and its answer, or what else it is about."""
    because: str
    """What was known, and from where."""
    caller: str = ""


@dataclass(slots=True)
class Findings:
    """All of them: counts by kind, and the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: list[TraceFinding] = field(default_factory=list)

    def add(self, finding: TraceFinding, count: int = 1) -> None:
        """One more; ``count`` where it stands for several."""
        seen = self.counts.get(finding.kind, 0)
        self.counts[finding.kind] = seen + count
        if sum(one.kind == finding.kind for one in self.first) < KEPT:
            self.first.append(finding)
