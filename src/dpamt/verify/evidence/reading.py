"""Documents that come from elsewhere, read in bounded memory: what is too large or too deep is
refused with one line before it is built.

A document is text: at most :data:`MOST_BYTES` of it are read, with at most :data:`MOST_VALUES`
values, nested at most :data:`MOST_DEPTH` deep, each name once in an object, each number one that
dpamt could have written, each text without control characters, which a terminal would obey.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.inputs import decode, json_reason, read_bytes

MOST_BYTES: Final = 64 << 20
"""Of a document; that of every design of dpamt with every trial has about a third of it."""
MOST_VALUES: Final = 4_000_000
"""Values in a document, which take about 100 bytes each; that of every design has a quarter."""
MOST_DEPTH: Final = 24
_MOST_DIGITS: Final = 1000
"""Of a number; the longest that dpamt writes has 121."""
_SPACES: Final = str.maketrans("\n\t", "  ")
"""Control characters that do no harm: lines are wrapped again before they are shown."""
_BRACKETS: Final = re.compile(rb'[\[\]{}"]')
_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class _UnfitError(ValueError):
    """What is wrong with a document, in words."""


def read_json(path: str, expected: str) -> dict[str, Any]:
    """The object in a file.

    Raises InputError, one line that names the file and ends with ``expected``, for a file that
    cannot be read or is no such document.
    """
    data = read_bytes(path, expected, MOST_BYTES + 1)
    try:
        return parse_json(decode(data, path, expected).encode())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: {json_reason(error)}; {expected}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}; {expected}") from None


def parse_json(text: bytes) -> dict[str, Any]:
    """The object in a text.  Raises ValueError, with what is wrong."""
    if len(text) > MOST_BYTES:
        raise _UnfitError(f"more than {MOST_BYTES >> 20} MiB")
    _check_depth(text)
    found = json.loads(
        text.decode("utf-8"),
        object_pairs_hook=_object,
        parse_int=_integer,
        parse_constant=_no_constant,
    )
    if not isinstance(found, dict):
        raise _UnfitError("no object")
    check_text(found)
    return found


def _check_depth(text: bytes) -> None:
    """Count values, and brackets outside of strings, before anything is built."""
    if sum(map(text.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise _UnfitError(f"more than {MOST_VALUES:,} values")
    depth = at = 0
    while True:
        found = _BRACKETS.search(text, at)
        if found is None:
            return
        at = found.end()
        mark = found.group()
        if mark == b'"':
            end = _STRING.match(text, at)
            if end is None:
                return  # not closed: the parser says so
            at = end.end()
        else:
            depth += 1 if mark in b"[{" else -1
            if depth > MOST_DEPTH:
                raise _UnfitError(f"nested more than {MOST_DEPTH} deep")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _UnfitError(f"{twice[:40]!r} is there twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _UnfitError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise _UnfitError(f"the number {name}")


def check_text(value: Any) -> None:
    """Raise ValueError where a text in a value has characters that a terminal would obey."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if not item.isprintable() and not item.translate(_SPACES).isprintable():
                raise _UnfitError(f"{item[:40]!r}: a text with control characters")
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
