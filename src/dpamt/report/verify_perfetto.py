"""A counterexample as a Chrome trace-event file, for ui.perfetto.dev: a track for each CPU."""

import json
from typing import Any, Final

from dpamt.own_files import STAMP
from dpamt.report.verify_text import operation
from dpamt.verify.evidence.counterexample import GHOSTS, Counterexample, StepTold
from dpamt.verify.learn.automaton import CHOICE, MARK

_PROCESS: Final = 1
_STEP: Final = 10
"""Microseconds of the picture that a step takes; the model knows no time."""


def perfetto_trace(found: Counterexample) -> str:
    """The file's text: steps in the order of the schedule, SEAMCALLs as slices around them."""
    events: list[dict[str, Any]] = [
        _named("process_name", 0, f"{found.broken}: {found.text} ({found.size})")
    ]
    for number, what in enumerate(found.cpus):
        events.append(_named("thread_name", number + 1, f"CPU{number}: {what}"))
    inside = dict.fromkeys(range(len(found.cpus)), "")
    end = 0
    for step in found.steps:
        begins = step.at * _STEP
        end = begins + _STEP
        if step.seamcall != inside[step.cpu]:
            if inside[step.cpu]:
                events.append(_edge("E", step.cpu, begins, inside[step.cpu]))
            if step.seamcall:
                events.append(_edge("B", step.cpu, begins, step.seamcall))
            inside[step.cpu] = step.seamcall
        if step.method != MARK and not step.word.startswith(GHOSTS):
            events.append(_slice(step, begins))
        for text in step.events:
            if not text.startswith(f"{step.seamcall} -> ") or not step.seamcall:
                events.append(_instant(step, begins, text))
        answered = [text for text in step.events if step.seamcall and " -> " in text]
        if answered:
            events.append(_edge("E", step.cpu, end, step.seamcall, {"answer": answered[-1]}))
            inside[step.cpu] = ""
        if step.value.lstrip("-").isdigit() or step.value.startswith(("0x", "-0x")):
            events.append(_counter(step, begins))
    events += [_edge("E", cpu, end, name) for cpu, name in inside.items() if name]
    document = {"otherData": STAMP, "traceEvents": events, "displayTimeUnit": "ns"}
    return json.dumps(document, indent=1) + "\n"


def _named(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": _PROCESS, "tid": thread, "name": kind, "args": {"name": name}}


def _edge(
    phase: str, cpu: int, at: int, name: str, arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "ph": phase,
        "pid": _PROCESS,
        "tid": cpu + 1,
        "ts": at,
        "name": name,
        "args": arguments or {},
    }


def _slice(step: StepTold, begins: int) -> dict[str, Any]:
    name = str(step.arguments[0]) if step.method == CHOICE else operation(step)
    return {
        "ph": "X",
        "pid": _PROCESS,
        "tid": step.cpu + 1,
        "ts": begins,
        "dur": _STEP,
        "name": name,
        "args": {
            "function": step.function,
            "source": f"{step.file}:{step.line}" if step.line else step.file,
            "result": str(step.result),
            "value after": step.value,
        },
    }


def _instant(step: StepTold, begins: int, text: str) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "t",
        "pid": _PROCESS,
        "tid": step.cpu + 1,
        "ts": begins + _STEP // 2,
        "name": text,
    }


def _counter(step: StepTold, begins: int) -> dict[str, Any]:
    """The word's value as a track of numbers."""
    number = int(step.value.partition(",")[0], 0)
    return {
        "ph": "C",
        "pid": _PROCESS,
        "ts": begins + _STEP,
        "name": step.word,
        "args": {"value": number},
    }
