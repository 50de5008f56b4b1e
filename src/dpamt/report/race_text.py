"""What `dpamt conform` found of two SEAMCALLs at once: as text, and for its JSON document."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from dpamt.report.run_text import paragraph
from dpamt.report.verify_text import side_by_side
from dpamt.trace.decode import decode_status
from dpamt.verify.races.explored import BENCH_SWITCHES, Beyond, RaceReplay
from dpamt.verify.races.outcomes import End, Left, Outcome

_SHOWN: Final = 4
"""Further outcomes of one race whose schedules are printed."""


def races_lines(path: str, replays: Sequence[RaceReplay], release: str) -> Iterator[str]:
    """Each race that has something to say, then how many agree."""
    for replay in replays:
        if replay.before.agrees and (replay.missed or replay.beyond):
            yield from _race_lines(replay)
            yield ""
    yield f"{path}: {races_total(replays)} agree with module {release}"
    recorded = sum(replay.recorded for replay in replays)
    missed = sum(len(replay.missed) for replay in replays)
    beyond = sum(len(replay.beyond) for replay in replays)
    yield (
        f"  every schedule explored: {recorded - missed} of {recorded} recorded outcomes reached, "
        f"{beyond} others"
    )


def races_total(replays: Sequence[RaceReplay]) -> str:
    """How many of the races agree."""
    return f"{sum(replay.agrees for replay in replays)} of {len(replays)} races"


def _race_lines(replay: RaceReplay) -> Iterator[str]:
    verb = "goes further" if replay.agrees else "differs"
    yield from paragraph(f"{replay.id} {verb}: {replay.title}")
    yield from paragraph(f"a: {replay.calls[0]}", "  ")
    yield from paragraph(f"b: {replay.calls[1]}", "  ")
    for outcome in replay.missed:
        yield "  recorded, and reached by no schedule:"
        yield from _outcome_lines(outcome)
    for extra in replay.beyond[:_SHOWN]:
        yield from _beyond_lines(extra)
    if len(replay.beyond) > _SHOWN:
        yield f"  and {len(replay.beyond) - _SHOWN} more outcomes (--json has all)"


def _beyond_lines(extra: Beyond) -> Iterator[str]:
    if extra.within_bench:
        why = (
            f"although {_times(extra.bench_switches)} at atomic operations are enough and the "
            f"recording tried {BENCH_SWITCHES}"
        )
    elif extra.bench_switches is not None:
        why = (
            f"{_times(extra.bench_switches)} at atomic operations; the recording tried "
            f"{BENCH_SWITCHES}"
        )
    else:
        why = "with a switch that is not at an atomic operation; the recording tried no such"
    yield from paragraph(f"reached, and not recorded: {why}:", "  ")
    yield from _outcome_lines(extra.outcome)
    yield "  a way there:"
    steps = [replace(step, seamcall="") for step in extra.schedule.steps]
    yield from side_by_side(steps, whole=True)


def _times(switches: int | None) -> str:
    return f"{switches} switch{'' if switches == 1 else 'es'}"


def _outcome_lines(outcome: Outcome) -> Iterator[str]:
    for name, end in (("a", outcome.a), ("b", outcome.b)):
        yield from paragraph(f"{name}: {_end_text(end)}", "    ")
    if outcome.left is not None:
        yield from paragraph(f"left: {_left_text(outcome.left)}", "    ")


def _end_text(end: End) -> str:
    if end.event:
        return end.event
    status = decode_status(end.status).text.partition(":")[0]
    registers = "".join(f" {name}={value:#x}" for name, value in end.registers if value)
    return f"{end.status:#x} {status}{registers}"


def _left_text(left: Left) -> str:
    nodes = [
        f"pair of {hpa:#x} (count {count}, {page0:#x} and {page1:#x})"
        for hpa, count, page0, page1 in left.nodes
    ]
    leaves = [f"2M page {hpa:#x}" for hpa in left.leaves_2m]
    return ", ".join([*nodes, *leaves, f"{len(left.bitmap)} pages marked in the bitmap"])


def race_json(replay: RaceReplay) -> dict[str, Any]:
    """One race as plain values; numbers as in the rest of the document."""
    return {
        "id": replay.id,
        "title": replay.title,
        "agrees": replay.agrees,
        "recorded": replay.recorded,
        "reached": replay.reached,
        "states": replay.states,
        "missed": [_outcome_json(outcome) for outcome in replay.missed],
        "beyond": [
            {
                **_outcome_json(extra.outcome),
                "switches": extra.switches,
                "bench_switches": extra.bench_switches,
                "schedule": extra.schedule.as_json(),
            }
            for extra in replay.beyond
        ],
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    left = outcome.left
    return {
        "a": _end_json(outcome.a),
        "b": _end_json(outcome.b),
        "left": left
        and {
            "nodes": [
                dict(zip(("hpa", "count", "hpa0", "hpa1"), map(hex, node), strict=True))
                for node in left.nodes
            ],
            "leaves_2m": [f"{hpa:#x}" for hpa in left.leaves_2m],
            "bitmap": [f"{hpa:#x}" for hpa in left.bitmap],
        },
    }


def _end_json(end: End) -> dict[str, Any]:
    return {
        "status": None if end.event else f"{end.status:#x}",
        "text": _end_text(end),
        "registers": {name: f"{value:#x}" for name, value in end.registers},
    }
