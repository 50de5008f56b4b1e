"""A counterexample as one self-contained page: the table, and a slider through the schedule."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

from dpamt import __version__
from dpamt.own_files import GENERATOR
from dpamt.report.verify_text import _is_shown, operation, place_text, told_lines
from dpamt.verify.evidence.counterexample import GHOSTS, Counterexample, StepTold
from dpamt.verify.learn.automaton import CHOICE, MARK


def html_page(
    found: Counterexample,
    design: str = "",
    assumptions: Sequence[str] = (),
    not_reached: Sequence[str] = (),
) -> str:
    """The page: no network, nothing beside it.  ``design`` is what fails, for its title.

    ``assumptions`` and ``not_reached`` are those of the verdict that it belongs to.
    """
    who = f"{design} fails" if design else "fails"
    template = (files("dpamt.report") / "verify_page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(found), separators=(",", ":")).replace("<", "\\u003c")
    filled = {
        "@GENERATOR@": GENERATOR,
        "@TITLE@": escape(f"{who}: {found.broken} (dpamt {__version__})"),
        "@HEAD@": escape(f"{who}: {found.broken}"),
        "@SAID@": escape(found.text.replace(f"{found.broken}: ", "")),
        "@MADE@": f"Made by dpamt {__version__}.",
        "@PROBLEM@": escape(
            f"{found.problem}; {len(found.cpus)} CPUs, {found.size}, "
            f"CPUs switched at: {found.granularity}"
        ),
        "@RESTS@": _list("The verdict rests on", assumptions)
        + _list("Lines of the design that no trial reached", not_reached),
        "@DATA@": data,
    }
    for mark, text in filled.items():
        template = template.replace(mark, text)
    return template


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>{title} ({len(lines)})</summary><ul>{items}</ul></details>"


def _data(found: Counterexample) -> dict[str, Any]:
    values = dict(found.start)
    touched = [step.word for step in found.steps if step.value and step.value != values[step.word]]
    words = sorted(dict.fromkeys(touched), key=_importance)
    return {
        "cpus": list(found.cpus),
        "words": [
            {"name": word, "start": values[word], "internal": not _is_shown(word)} for word in words
        ],
        "steps": [
            _step(step, words, internal)
            for step, internal in zip(found.steps, _internal(found.steps), strict=True)
        ],
    }


def _importance(word: str) -> tuple[bool, bool]:
    """Counts come first, then what else is the design's or the module's."""
    return not _is_shown(word), "refcount" not in word


def _step(step: StepTold, words: list[str], internal: bool) -> dict[str, Any]:
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
        "where": place_text(step),
        "internal": internal,
        "events": list(step.events),
        "word": words.index(step.word) if step.word in words else -1,
        "value": step.value,
    }


def _internal(steps: Sequence[StepTold]) -> list[bool]:
    """As in the text: a step that has no line there; of a turn without any, the first stays."""
    found: list[bool] = []
    for _, turn in groupby(steps, key=lambda step: step.cpu):
        hidden = [not told_lines(step, False) for step in turn]
        found += [False, *hidden[1:]] if all(hidden) else hidden
    return found
