"""On which line of a TOML text each value stands: what ``tomllib`` reads but does not tell.

Only texts that ``tomllib`` has accepted come here, so the scanner checks nothing; it follows the
grammar just closely enough to know where a value begins.
"""

import re
import tomllib
from typing import Any, Final

from dpamt.errors import InputError, ModelError

Lines = dict[str, int]
"""Path of a value (``td[0].memory``) to its line, counted from 1; tables stand at their header."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRINGS: Final = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}(?!")', re.DOTALL),
    re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
_SYNTAX_AT: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


def read_toml(text: str, source: str) -> tuple[dict[str, Any], Lines]:
    """The document and the line of each of its values; InputError, with its line, for bad TOML."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _SYNTAX_AT.fullmatch(str(error))
        reason = match[1] if match else str(error)
        line = int(match[2]) if match and match[2] else text.rstrip("\n").count("\n") + 1
        raise InputError(
            f"{source}:{line}: not valid TOML: {reason}; expected a scenario"
        ) from None
    except RecursionError:
        raise InputError(f"{source}:1: nested too deeply; expected a scenario") from None
    return document, _Scanner(text).lines()


class _Scanner:
    """One pass over a valid text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._found: Lines = {}
        self._tables: dict[str, int] = {}

    def lines(self) -> Lines:
        prefix = ""
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return self._found
            if self._text[self._at] == "[":
                prefix = self._header()
            else:
                self._key_value(prefix)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _header(self) -> str:
        line = self._here()
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        parts = self._key()
        self._at += 2 if array else 1
        prefix = ""
        for part in parts[:-1]:
            prefix = self._last_of(_join(prefix, part))
        prefix = _join(prefix, parts[-1])
        self._found.setdefault(prefix, line)
        if array:
            index = self._tables.get(prefix, -1) + 1
            self._tables[prefix] = index
            prefix = f"{prefix}[{index}]"
            self._found[prefix] = line
        return prefix

    def _last_of(self, path: str) -> str:
        """The element of an array of tables that a later header means."""
        index = self._tables.get(path)
        return path if index is None else f"{path}[{index}]"

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            quote = self._text[self._at]
            if quote in "\"'":
                raw = self._string()
                parts.append(str(tomllib.loads(f"k = {raw}")["k"]))
            else:
                parts.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _key_value(self, prefix: str) -> None:
        line = self._here()
        path = prefix
        for part in self._key():
            path = _join(path, part)
            self._found.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: str) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._items(path, "]")
        elif first == "{":
            self._items(path, "}")
        else:
            self._skip(_SCALAR)

    def _items(self, path: str, closing: str) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            character = self._text[self._at]
            if character == closing:
                self._at += 1
                return
            if character == ",":
                self._at += 1
            elif closing == "]":
                item = f"{path}[{index}]"
                self._found[item] = self._here()
                self._value(item)
                index += 1
            else:
                self._key_value(path)

    def _string(self) -> str:
        for pattern in _STRINGS:
            raw = self._skip(pattern)
            if raw:
                return raw
        raise ModelError("tomllib accepted a string that has no end")


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
