"""Verdicts as a document that can be kept: what was asked, what was said, and whether it still is.

The document of `dpamt verify --json` and `--save` is the same.  It names for each trial what was
asked, so that `--check` can ask again and `--replay` can make the machine again.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dpamt
from dpamt.errors import InputError
from dpamt.host.designs.base import Design
from dpamt.verify.asked import Asked, asked_of, prepare
from dpamt.verify.programs.problem import WORDS
from dpamt.verify.programs.suite import Trial
from dpamt.verify.properties.named import Property

if TYPE_CHECKING:
    from dpamt.verify.verdict import Verdict

FORMAT: Final = 1
"""Version of the document."""
PYTHON: Final = sys.version.split()[0]
COMPARED: Final = ("verdict", "properties", "states", "transitions", "depth", "ends", "nodes")
"""What a certificate and a new verdict must agree in; and in the hash of the code."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial of one design: what was asked, and what came of it."""

    asked: Asked
    trial: Trial
    verdict: "Verdict"
    replayed: tuple[str, ...] = ()
    fine: dict[str, str] = field(default_factory=dict)
    """By property, of counterexamples that were looked for with all switches: see ``refined``."""
    """For each counterexample: how it went on threads, ``the same`` or what was not."""


SAME: Final = "the same"


def confirm(
    design: Design, trial: Trial, verdict: "Verdict", judges: tuple[Property, ...]
) -> tuple[str, ...]:
    """Run every counterexample of a verdict again on threads, each step of it."""
    if not verdict.counterexamples:
        return ()

    from dpamt.verify.evidence.replay import replay

    said = []
    for found in verdict.counterexamples:
        again = replay(trial.make(design), judges, plain(found.as_json()))
        if again.departure:
            said.append(again.departure)
        elif found.broken not in again.broken:
            said.append(f"{found.broken} holds there")
        else:
            said.append(SAME)
    return tuple(said)


def refined(design: Design, tried: Sequence[Tried]) -> list[Tried]:
    """Look for the nearest failure of each property with CPUs switched at every shared word."""
    from dpamt.verify.evidence.refine import Refinement

    nearest: dict[str, tuple[int, int]] = {}
    for n, one in enumerate(tried):
        for found in one.verdict.counterexamples:
            best = nearest.get(found.broken)
            if best is None or len(found.steps) < best[0]:
                nearest[found.broken] = len(found.steps), n
    looked = []
    for n, one in enumerate(tried):
        wanted = [
            found
            for found in one.verdict.counterexamples
            if nearest[found.broken][1] == n and found.granularity != WORDS
        ]
        if wanted:
            trial, judges = prepare(one.asked, design)
            fine = Refinement(trial.make(design), judges)
            one = replace(one, fine={found.broken: fine.look(found) for found in wanted})
        looked.append(one)
    return looked


def document(results: Mapping[str, list[Tried]]) -> dict[str, Any]:
    """The document, as plain values."""
    found: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "dpamt": dpamt.__version__,
            "python": PYTHON,
            "clean": all(
                tried.verdict.verdict == "holds" for every in results.values() for tried in every
            ),
            "designs": [
                {
                    "design": name,
                    "trials": [
                        {
                            "trial": tried.trial.name,
                            "meaning": tried.trial.meaning,
                            "asked": asdict(tried.asked),
                            **tried.verdict.as_json(),
                            "replayed": tried.replayed,
                            "fine": tried.fine,
                        }
                        for tried in every
                    ],
                }
                for name, every in results.items()
            ],
        }
    )
    return found


def read(path: str) -> dict[str, Any]:
    """The document in a file.  Raises InputError for anything else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected what --save wrote") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}; expected JSON as --save writes it") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or "designs" not in found:
        raise InputError(f"{path}: format: expected {FORMAT}, as --save writes it")
    try:
        for _, trial in trials(found):
            asked_of(trial["asked"])
            for name in (*COMPARED, "code"):
                trial[name]
            for one in trial["counterexamples"]:
                one["broken"], one["text"]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(
            f"{path}: designs: {what}; expected trials as --save writes them"
        ) from None
    return found


def trials(kept: Mapping[str, Any]) -> Iterator[tuple[Asked, dict[str, Any]]]:
    """What was asked, and what was said, trial by trial."""
    for design in kept["designs"]:
        for trial in design["trials"]:
            yield asked_of(trial["asked"]), trial


def differences(kept: Mapping[str, Any], python: str, verdict: "Verdict") -> list[str]:
    """In what a new verdict is not what was kept; empty: it is the same."""
    now = plain(verdict.as_json())
    lines = [
        f"{name}: {kept[name]} in the certificate, {now[name]} now"
        for name in COMPARED
        if kept[name] != now[name]
    ]
    same_bytecode = python.split(".")[:2] == PYTHON.split(".")[:2]
    if same_bytecode and kept["code"] != now["code"]:
        lines.append("code: the functions that ran are not those of the certificate")
    return lines


def plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))
