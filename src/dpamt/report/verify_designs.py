"""What `dpamt verify --all` says: a table of all designs and properties, and where each fails."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from dpamt.report.verify_text import rests_on, wrapped
from dpamt.verify.evidence.certificate import SAME, Tried, lock_order_of
from dpamt.verify.properties.named import LOCK_ORDER, PROPERTY_NAMES

_SHORT: Final = {
    "missing-pair": "mis",
    "double-add": "dbl",
    "bad-remove": "rem",
    "fatal": "fat",
    "two-owners": "own",
    "at-rest": "rst",
    "leak": "lea",
    "busy": "bsy",
    "kernel": "ker",
    "deadlock": "dea",
    "livelock": "liv",
}
"""Columns of the museum's table."""


def designs_text(results: Mapping[str, Sequence[Tried]], locks: Mapping[str, int]) -> str:
    """Several designs: a table of properties, and where each design fails.

    ``locks``: by design, the locks that a get takes in a region that has its pair.
    """
    return "\n".join([*_table(results, locks), *_where(results)]) + "\n"


def _table(results: Mapping[str, Sequence[Tried]], locks: Mapping[str, int]) -> Iterator[str]:
    yield from wrapped(
        "A number: the property fails, and its shortest counterexample has this number of steps.  "
        "A dot: the property holds.  A question mark: not finished.  locks: the number of locks "
        "that a get takes in a region that has its pair.",
        "",
    )
    yield ""
    names = [name for name in PROPERTY_NAMES if name in _SHORT]
    head = "".join(f"{_SHORT[name]:>4}" for name in names)
    yield f"{'design':13}{head} {'states':>9} {'sec':>6} {'locks':>5}"
    for design, tried in results.items():
        row = "".join(f"{_cell(tried, name):>4}" for name in names)
        states = sum(one.verdict.states for one in tried)
        seconds = sum(one.verdict.seconds for one in tried)
        yield f"{design[-13:]:13}{row} {states:9,} {seconds:6.1f} {locks[design]:5}"
    yield ""
    yield from wrapped(", ".join(f"{_SHORT[name]} {name}" for name in names), "")
    others = [name for name in PROPERTY_NAMES if name not in _SHORT]
    yield from wrapped(f"Without a column, listed below where they fail: {', '.join(others)}.", "")


def _cell(tried: Sequence[Tried], name: str) -> str:
    lengths = [
        len(found.steps)
        for one in tried
        for found in one.verdict.counterexamples
        if found.broken == name
    ]
    if lengths:
        return str(min(lengths))
    finished = all(one.verdict.properties[name] == "holds" for one in tried)
    return "." if finished else "?"


def _where(results: Mapping[str, Sequence[Tried]]) -> Iterator[str]:
    for design, tried in results.items():
        yield ""
        over = lock_order_of(tried)
        verdict = _worst([*(one.verdict.verdict for one in tried), *("fails" for _ in over)])
        yield f"{design}: {verdict.upper()}"
        broken = list(dict.fromkeys(name for one in tried for name in one.verdict.properties))
        for name in broken:
            failing = [
                (len(found.steps), one.trial.name)
                for one in tried
                for found in one.verdict.counterexamples
                if found.broken == name
            ]
            if failing:
                steps, trial_name = min(failing)
                others = len(failing) - 1
                more = f", and in {others} more" if others else ""
                yield f"  {name:14} fails in {trial_name} ({steps} steps){more}"
        for text in over:
            yield from wrapped(f"{LOCK_ORDER}, over the trials together: {text}", "  ")
        for one in tried:
            for found, again in zip(one.verdict.counterexamples, one.replayed, strict=True):
                if again != SAME:
                    yield from wrapped(
                        f"NOT CONFIRMED on threads: {found.broken}, in {one.trial.name}: {again}",
                        "  ",
                    )
        yield from rests_on(tried, "  ")


def _worst(verdicts: Sequence[str]) -> str:
    return next((v for v in ("fails", "not finished") if v in verdicts), "holds")
