"""A counterexample as one self-contained page: the table, and a slider through the schedule."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from dpamt import __version__
from dpamt.own_files import GENERATOR
from dpamt.report.verify_text import _is_shown, has_place, lines_of, place_text, short_word
from dpamt.verify.evidence.counterexample import Counterexample, StepTold


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
    shown = _data(found)
    data = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    internal = sum(step["internal"] for step in shown["steps"])
    filled = {
        "@GENERATOR@": GENERATOR,
        "@TITLE@": escape(f"{who}: {found.broken} (dpamt {__version__})"),
        "@HEAD@": escape(f"{who}: {found.broken}"),
        "@SAID@": escape(found.text.replace(f"{found.broken}: ", "")),
        "@MADE@": f"Made by dpamt {__version__}.",
        "@PROBLEM@": escape(
            f"{found.problem}; {len(found.cpus)} CPUs, {found.size}, "
            f"CPUs switched at: {found.granularity}. "
            + f"Steps inside the module have no number of their own ({internal}); the box "
            '"internals" shows them.' * bool(internal)
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
            {
                "name": word,
                "short": short_word(word),
                "start": values[word],
                "internal": not _is_shown(word),
            }
            for word in words
        ],
        "steps": [
            _step(step, words, short, whole)
            for step, short, whole in zip(
                found.steps, lines_of(found.steps, False), lines_of(found.steps, True), strict=True
            )
        ],
    }


def _importance(word: str) -> tuple[bool, bool]:
    """Counts come first, then what else is the design's or the module's."""
    return not _is_shown(word), "refcount" not in word


def _step(
    step: StepTold, words: list[str], short: Sequence[str], whole: Sequence[str]
) -> dict[str, Any]:
    """A step with its lines as the text has them, ``short`` without ``--whole``."""
    lines = [*whole, *(line for line in short if line not in whole)] or [""]
    return {
        "cpu": step.cpu,
        "lines": lines,
        "inner": [line not in short for line in lines],
        "event": [any(event in line for event in step.events) for line in lines],
        "where": place_text(step),
        "outside": has_place(step),
        "internal": not short,
        "word": words.index(step.word) if step.word in words else -1,
        "value": step.value,
    }
