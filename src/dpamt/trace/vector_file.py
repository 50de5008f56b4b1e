"""Vector files: SEAMCALL sequences with a real module's answers, as JSON lines, read and checked.

One scenario a line: ``id``, ``title``, ``setup`` (machine and module state), ``calls`` (leaf,
registers and the recorded answer) and ``final`` (metadata after the last call).  Numbers written as
strings are hexadecimal.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError

Json = dict[str, Any]

_REQUIRED: Final = ("id", "title", "setup", "calls", "final")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of a vector file; ``place`` is the file and line it stands in."""

    place: str
    id: str
    title: str
    setup: Json
    calls: list[Json]
    final: Json


def read_vectors(path: Path) -> list[Scenario]:
    """Every scenario of a file.

    Raises InputError for a file that cannot be read, a line that is not a JSON object, or one
    without a required key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a vector file (JSON lines)") from error
    scenarios = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            scenarios.append(_scenario(f"{path}:{number}", line))
    if not scenarios:
        raise InputError(f"{path}: no scenario; expected one JSON object a line")
    return scenarios


def _scenario(place: str, line: str) -> Scenario:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: {error}; expected a JSON object") from error
    if not isinstance(data, dict):
        raise InputError(f"{place}: {type(data).__name__}; expected a JSON object")
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise InputError(f"{place}: no {missing[0]!r}; expected {', '.join(_REQUIRED)}")
    return Scenario(place, data["id"], data["title"], data["setup"], data["calls"], data["final"])


def number(value: Any, place: str) -> int:
    """A number of a vector file: an integer, or a string in hexadecimal; else InputError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise InputError(f"{place}: {value!r}; expected a number or a hexadecimal string")
