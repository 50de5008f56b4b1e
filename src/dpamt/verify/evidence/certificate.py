"""Verdicts as a document that can be kept: what was asked, and what was said.

The document of `dpamt verify --json` and `--save` is the same.  It names for each trial what was
asked, so that `--check` can ask again (:mod:`dpamt.verify.evidence.checking`) and `--replay` can
make the machine again.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import dpamt
from dpamt.errors import InputError
from dpamt.host.designs.base import Design
from dpamt.verify.asked import Asked, asked_of, prepare
from dpamt.verify.evidence.code_hash import dpamt_hash
from dpamt.verify.evidence.reading import read_json
from dpamt.verify.explore.lock_order import joined
from dpamt.verify.programs.problem import WORDS
from dpamt.verify.programs.suite import Trial, trials_of
from dpamt.verify.properties.named import Property

if TYPE_CHECKING:
    from dpamt.verify.evidence.replay import Replayed
    from dpamt.verify.verdict import Verdict

FORMAT: Final = 3
"""Version of the document."""
PYTHON: Final = sys.version.split()[0]
COMPARED: Final = (
    "problem",
    "granularity",
    "verdict",
    "properties",
    "states",
    "transitions",
    "depth",
    "ends",
    "nodes",
    "stopped",
    "module",
    "assumptions",
    "not_reached",
)
"""What a certificate and a new verdict must agree in; and in bounds, code and counterexamples."""
_TRIAL: Final = frozenset(
    {*COMPARED, "trial", "meaning", "asked", "seconds", "code", "bounds", "taken_up"}
    | {"counterexamples", "replayed", "fine"}
)
_HEAD: Final = frozenset({"format", "dpamt", "python", "code", "clean", "designs"})
_DESIGN: Final = frozenset({"design", "suite", "left_out", "lock_order", "trials"})
"""The names of a document, none more and none less: nothing stands in it that is not checked."""
WHOLE: Final = "whole"
PART: Final = "part"
_WRITTEN: Final = "expected JSON as --save writes it"


@dataclass(frozen=True, slots=True)
class Tried:
    """One trial of one design: what was asked, and what came of it."""

    asked: Asked
    trial: Trial
    verdict: "Verdict"
    replayed: tuple[str, ...] = ()
    """For each counterexample: how it went on threads, ``the same`` or what was not."""
    fine: dict[str, str] = field(default_factory=dict)
    """By property, of counterexamples that were looked for with all switches: see ``refined``."""


SAME: Final = "the same"


def confirm(
    design: Design, trial: Trial, verdict: "Verdict", judges: tuple[Property, ...]
) -> tuple[str, ...]:
    """Run every counterexample of a verdict again on threads, each step of it."""
    if not verdict.counterexamples:
        return ()

    from dpamt.verify.evidence.replay import replay

    kept = [plain(found.as_json()) for found in verdict.counterexamples]
    return tuple(how_again(found, replay(trial.make(design), judges, found)) for found in kept)


def how_again(found: Mapping[str, Any], again: "Replayed") -> str:
    """How the replay of a counterexample went: :data:`SAME`, or what was not."""
    if again.departure:
        return again.departure
    return SAME if found["broken"] in again.broken else f"{found['broken']} holds there"


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
            if nearest[found.broken][1] == n
            and found.granularity != WORDS
            and found.broken not in one.fine
        ]
        if wanted:
            trial, judges = prepare(one.asked, design)
            fine = Refinement(trial.make(design), judges)
            looked_for = {found.broken: fine.look(found) for found in wanted}
            one = replace(one, fine=one.fine | looked_for)
        looked.append(one)
    return looked


def document(
    results: Mapping[str, Sequence[Tried]], designs: Mapping[str, Design]
) -> dict[str, Any]:
    """The document, as plain values; both by name of a design."""
    found: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "dpamt": dpamt.__version__,
            "python": PYTHON,
            "code": dpamt_hash(),
            "clean": is_clean(results),
            "designs": [
                {
                    "design": name,
                    **suite_of(designs[name], [tried.asked for tried in every]),
                    "lock_order": lock_order_of(every),
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


def is_clean(results: Mapping[str, Sequence[Tried]]) -> bool:
    """Whether every property holds in every trial, and over the trials of a design."""
    return all(map(holds, results.values()))


def holds(tried: Sequence[Tried]) -> bool:
    """Whether a design holds in every trial, and over them."""
    return all(one.verdict.verdict == "holds" for one in tried) and not lock_order_of(tried)


def lock_order_of(tried: Sequence[Tried]) -> tuple[str, ...]:
    """What the trials of a design break together of the order of locks, and none of them alone."""
    return joined(one.verdict.lock_order for one in tried)


def suite_of(design: Design, asked: Sequence[Asked]) -> dict[str, Any]:
    """``suite``: whether what was asked is the whole suite or a part; ``left_out``: which trials.

    A trial at another granularity than the suite's is not the suite's.
    """
    done = {(one.trial, one.granularity) for one in asked}
    left_out = [
        trial.name for trial in trials_of(design) if (trial.name, trial.granularity) not in done
    ]
    return {"suite": PART if left_out else WHOLE, "left_out": left_out}


def read(path: str) -> dict[str, Any]:
    """The document in a file.  Raises InputError for anything else, and for an empty one."""
    found = read_json(path, _WRITTEN)
    if found.get("format") != FORMAT:
        raise InputError(
            f"{path}: format: {str(found.get('format'))[:20]!r}; expected {FORMAT}, as --save of "
            f"dpamt {dpamt.__version__} writes it"
        )
    try:
        _names(found, _HEAD, "document")
        if not found["designs"]:
            raise ValueError("no design in it")
        for design in found["designs"]:
            _check_design(design)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path}: designs: {what}; expected trials as --save writes them"
        ) from None
    return found


def _check_design(design: dict[str, Any]) -> None:
    _names(design, _DESIGN, "design")
    if not isinstance(design["design"], str):
        raise TypeError("design: expected its name")
    if not design["trials"]:
        raise ValueError(f"no trial of {design['design']}")
    every = []
    for trial in design["trials"]:
        _names(trial, _TRIAL, "trial")
        every.append(asked_of(trial["asked"]))
        for one in trial["counterexamples"]:
            if not isinstance(one["broken"], str) or not isinstance(one["text"], str):
                raise TypeError("broken, text: expected texts")
        if len(trial["replayed"]) != len(trial["counterexamples"]):
            raise ValueError("replayed: expected one for each counterexample")
        if not isinstance(trial["fine"], dict) or not isinstance(trial["code"], dict):
            raise TypeError("fine, code: expected objects")
    if len(set(every)) != len(every):
        raise ValueError(f"a trial of {design['design']} is there twice")
    if len({(one.design, one.property_file) for one in every}) != 1:
        raise ValueError(f"trials of several designs under {design['design']}")


def _names(found: dict[str, Any], expected: frozenset[str], what: str) -> None:
    missing, more = sorted(expected - found.keys()), sorted(found.keys() - expected)
    if missing:
        raise ValueError(f"{what}: {missing[0]!r} is missing")
    if more:
        raise ValueError(f"{what}: {more[0]!r} is no name that --save writes")


def trials(kept: Mapping[str, Any]) -> Iterator[tuple[Asked, dict[str, Any]]]:
    """What was asked, and what was said, trial by trial."""
    for design in kept["designs"]:
        for trial in design["trials"]:
            yield asked_of(trial["asked"]), trial


def plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))
