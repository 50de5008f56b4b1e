"""Checking the tables of a scenario against the schema, each refusal naming file, line and key."""

import json
import re
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from dpamt.errors import InputError
from dpamt.run.schema import FIELDS, REQUIRED, Field
from dpamt.run.toml_lines import Lines

_UNITS: Final = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(?:([KMGT])(?:i?B)?|B)", re.IGNORECASE)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,23}")


class Checker:
    """Checks tables of one document against :data:`FIELDS`, telling file, line and path."""

    def __init__(self, source: str, lines: Lines) -> None:
        self._source = source
        self._lines = lines

    def refuse(self, path: str, message: str) -> NoReturn:
        """Raise InputError at the value of that path."""
        raise InputError(f"{self.place(path)}: {message}")

    def place(self, path: str) -> str:
        """``file:line: path`` of a value, or of the nearest thing around it that is written."""
        around = path
        while around and around not in self._lines:
            around = re.sub(r"\.?[^.\[\]]+$|\[\d+\]$", "", around)
        line = self._lines.get(around)
        where = f"{self._source}:{line}" if line else self._source
        return f"{where}: {path}" if path else where

    def table(self, name: str, raw: object, path: str) -> dict[str, Any]:
        """The table's values, checked, defaults filled in; tables inside it stay raw."""
        if not isinstance(raw, dict):
            self.refuse(path, f"expected a table, got {shown(raw)}")
        fields = {field.name: field for field in FIELDS if field.table == name}
        for key in raw:
            if key not in fields:
                nearest = get_close_matches(str(key), fields, 1, 0.5)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                known = "" if nearest else f"; expected one of {', '.join(fields)}"
                self.refuse(_join(path, _key(key)), f"unknown key{hint}{known}")
        values = {}
        for field in fields.values():
            here = _join(path, field.name)
            if field.name in raw:
                values[field.name] = self._value(field, raw[field.name], here)
            elif field.default is REQUIRED:
                self.refuse(here, f"missing; expected {expected(field)}")
            else:
                values[field.name] = field.default
        return values

    def tables(self, raw: object, path: str) -> list[object]:
        """An array of tables."""
        if not isinstance(raw, list):
            self.refuse(path, f"expected an array of tables, got {shown(raw)}")
        return raw

    def _value(self, field: Field, raw: object, path: str) -> Any:
        value = _CONVERT[field.kind](field, raw)
        if value is None:
            self.refuse(path, f"expected {expected(field)}, got {shown(raw)}")
        return value


def expected(field: Field) -> str:
    """What a value of the field must be, in words."""
    if field.kind == "size":
        assert field.low is not None
        assert field.high is not None
        limits = f"{size_text(int(field.low))} to {size_text(int(field.high))}"
        whole = size_text(field.step)
        return f'a size such as "4GiB" ({limits}, whole {whole} pages)'
    if field.kind == "integer":
        return f"a whole number from {field.low} to {field.high}"
    if field.kind == "share":
        return "a number from 0 to 1"
    if field.kind == "choice":
        return "one of " + ", ".join(f'"{choice}"' for choice in field.choices)
    if field.kind == "flag":
        return "true or false"
    if field.kind == "name":
        return "a name of up to 24 letters, digits, '.', '_' and '-'"
    if field.kind == "tables":
        return "tables"
    if field.kind == "texts":
        return "an array of texts in quotes"
    return "a text in quotes"


def parse_bytes(raw: str) -> int | None:
    """Bytes of a size such as ``4GiB`` or ``64K``; None for what is no whole number of bytes."""
    match = _SIZE.fullmatch(raw.strip())
    if match is None:
        return None
    whole, _, fraction = match[1].partition(".")
    unit = (match[2] or "B").upper()
    scaled = int(whole + fraction) << _UNITS[unit]
    divisor = int("1" + "0" * len(fraction))
    return None if scaled % divisor else scaled // divisor


def size_text(size: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number: 4GiB, 1536MiB, 4KiB."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and not size % (1 << shift):
            return f"{size >> shift}{unit}"
    return f"{size}B"


def shown(raw: object) -> str:
    """A value as the scenario writes it."""
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "an array"
    if isinstance(raw, str | int | float | bool):
        text = json.dumps(raw, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + '..."'
    return str(raw)


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _key(key: str) -> str:
    """A key as TOML writes it."""
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def _text(_field: Field, raw: object) -> str | None:
    return raw if isinstance(raw, str) and raw.strip() and raw.isprintable() else None


def _name(_field: Field, raw: object) -> str | None:
    return raw if isinstance(raw, str) and _NAME.fullmatch(raw) else None


def _integer(field: Field, raw: object) -> int | None:
    if not isinstance(raw, int) or isinstance(raw, bool):
        return None
    return raw if _within(field, raw) else None


def _size(field: Field, raw: object) -> int | None:
    size = parse_bytes(raw) if isinstance(raw, str) else raw
    if not isinstance(size, int) or isinstance(size, bool) or size % field.step:
        return None
    return size if _within(field, size) else None


def _share(field: Field, raw: object) -> float | None:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        return None
    return float(raw) if _within(field, raw) else None


def _choice(field: Field, raw: object) -> str | None:
    return raw if isinstance(raw, str) and raw in field.choices else None


def _flag(_field: Field, raw: object) -> bool | None:
    return raw if isinstance(raw, bool) else None


def _texts(field: Field, raw: object) -> tuple[str, ...] | None:
    if not isinstance(raw, list):
        return None
    texts = tuple(text for text in (_text(field, one) for one in raw) if text is not None)
    return texts if len(texts) == len(raw) else None


def _tables(_field: Field, raw: object) -> object:
    return raw


def _within(field: Field, number: int | float) -> bool:
    assert field.low is not None
    assert field.high is not None
    return field.low <= number <= field.high


_CONVERT: Final = {
    "text": _text,
    "name": _name,
    "integer": _integer,
    "size": _size,
    "share": _share,
    "choice": _choice,
    "flag": _flag,
    "texts": _texts,
    "tables": _tables,
}
