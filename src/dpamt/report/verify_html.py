"""A counterexample as one self-contained page: the table, and a slider through the schedule."""

import json
from html import escape
from importlib.resources import files
from typing import Any

from dpamt.own_files import GENERATOR
from dpamt.report.verify_text import operation
from dpamt.verify.evidence.counterexample import GHOSTS, Counterexample, StepTold
from dpamt.verify.learn.automaton import CHOICE, MARK


def html_page(found: Counterexample) -> str:
    """The page: no network, nothing beside it."""
    template = (files("dpamt.report") / "verify_page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(found), separators=(",", ":")).replace("<", "\\u003c")
    filled = {
        "@GENERATOR@": GENERATOR,
        "@TITLE@": escape(f"{found.broken}: {found.text.replace(f'{found.broken}: ', '')}"),
        "@PROBLEM@": escape(
            f"{found.problem}; {len(found.cpus)} CPUs, {found.size}, "
            f"CPUs switched at: {found.granularity}"
        ),
        "@DATA@": data,
    }
    for mark, text in filled.items():
        template = template.replace(mark, text)
    return template


def _data(found: Counterexample) -> dict[str, Any]:
    values = dict(found.start)
    touched = [step.word for step in found.steps if step.value and step.value != values[step.word]]
    words = list(dict.fromkeys(touched))
    return {
        "cpus": list(found.cpus),
        "words": [{"name": word, "start": values[word]} for word in words],
        "steps": [_step(step, words) for step in found.steps],
    }


def _step(step: StepTold, words: list[str]) -> dict[str, Any]:
    if step.method == MARK:
        what = step.seamcall
    elif step.word.startswith(GHOSTS):
        what = ""
    elif step.method == CHOICE:
        what = f"{step.arguments[0]}: {'yes' if step.result else 'no'}"
    else:
        what = operation(step)
    return {
        "cpu": step.cpu,
        "what": what,
        "where": f"{step.function.rpartition('.')[2]} {step.file}:{step.line}",
        "inside": step.seamcall,
        "events": list(step.events),
        "word": words.index(step.word) if step.word in words else -1,
        "value": step.value,
    }
