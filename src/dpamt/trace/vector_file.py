"""Vector files: SEAMCALL sequences with a real module's answers, as JSON lines, read and checked.

One scenario a line: ``id``, ``title``, ``setup`` (machine and module state), ``calls`` (leaf,
registers and the recorded answer) and ``final`` (metadata after the last call); docs/vectors.md.
A scenario of ``kind`` "concurrent" is a :class:`Race`: after its calls two CPUs make one call each
at the same time, and ``outcomes`` are all the results that were seen.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.inputs import json_reason, read_text
from dpamt.trace.vector_shape import Json, check_race, check_scenario, number, refuse

__all__ = ["Json", "Race", "Scenario", "VectorFile", "number", "read_vector_file", "read_vectors"]

_REQUIRED: Final = ("id", "title", "setup", "calls", "final")
_CONCURRENT: Final = "concurrent"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of a vector file; ``place`` is the file and line it stands in."""

    place: str
    id: str
    title: str
    setup: Json
    calls: list[Json]
    final: Json


@dataclass(frozen=True, slots=True)
class Race:
    """Two calls at once: ``before`` brings the module there, one call after another."""

    before: Scenario
    a: Json
    b: Json
    outcomes: list[Json]


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A file's scenarios in order, and its races."""

    path: Path
    scenarios: tuple[Scenario, ...]
    races: tuple[Race, ...]


def read_vectors(path: Path) -> list[Scenario]:
    """Every scenario of a file that is not a concurrent one; raises as :func:`read_vector_file`."""
    return list(read_vector_file(path).scenarios)


def read_vector_file(path: Path) -> VectorFile:
    """A vector file.

    Raises InputError, with file, line and field, for a file that cannot be read, a line that is not
    a JSON object, and a scenario that is not written as it must be.
    """
    text = read_text(str(path), "expected a vector file (JSON lines)")
    scenarios: list[Scenario] = []
    races: list[Race] = []
    for index, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}:{index}"
            data = _object(place, line)
            if data.get("kind") == _CONCURRENT:
                races.append(_race(place, data))
            else:
                scenarios.append(_scenario(place, data))
    if not scenarios and not races:
        raise InputError(f"{path}: no scenario; expected one JSON object a line")
    return VectorFile(path, tuple(scenarios), tuple(races))


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: {json_reason(error)}; expected a JSON object") from error
    except RecursionError as error:
        raise InputError(f"{place}: nested too deeply; expected a JSON object") from error
    if not isinstance(data, dict):
        raise refuse(data, place, "a JSON object")
    return data


def _scenario(place: str, data: Json) -> Scenario:
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise InputError(f"{place}: no {missing[0]!r}; expected {', '.join(_REQUIRED)}")
    check_scenario(data, place)
    return Scenario(place, data["id"], data["title"], data["setup"], data["calls"], data["final"])


def _race(place: str, data: Json) -> Race:
    check_race(data, place)
    before = Scenario(place, data["id"], data["title"], data["setup"], data["calls"], {})
    return Race(before, data["a"], data["b"], data["outcomes"])
