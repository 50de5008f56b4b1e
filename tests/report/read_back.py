"""Reads a report back: numbers with their units, and the cells of its tables.

Written apart from dpamt.report: a number in a text stands for all values that are shown so.
"""

import re
from dataclasses import dataclass
from typing import Final

UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_NUMBER: Final = re.compile(r"(-?)([\d,]+)(?:\.(\d+))?(?: (B|KiB|MiB|GiB|TiB|%))?")


@dataclass(frozen=True)
class Shown:
    """A number and the half of what its last digit counts."""

    value: float
    half: float

    def stands_for(self, value: float) -> bool:
        return abs(value - self.value) <= self.half * 1.0001 + 1e-9


def number(text: str) -> Shown:
    """``-1,234``, ``42.1 MiB`` (bytes), ``0.391 %`` (a share of 1).

    Bytes without decimals are exact.
    """
    found = _NUMBER.fullmatch(text.strip())
    assert found is not None, text
    sign, whole, decimals, unit = found.groups()
    assert re.fullmatch(r"\d{1,3}(,\d{3})*|\d{1,3}\d*", whole), text
    scale = 0.01 if unit == "%" else float(UNITS.get(unit, 1))
    value = float(f"{whole.replace(',', '')}.{decimals or '0'}") * scale
    exact = decimals is None and unit != "%"
    half = 0.0 if exact else scale * 10 ** -len(decimals or "") / 2
    return Shown(-value if sign else value, half)


def shows(text: str, value: float) -> bool:
    """Whether the text is this number, to the figures that it has."""
    return number(text).stands_for(value)


def saving(text: str, size: float, whole: float) -> bool:
    """Whether ``-32.3 MiB (-0.788 %)`` is this size and its share."""
    found = re.fullmatch(r"(\S+ \w+) \((\S+ %)\)", text.strip())
    return (
        found is not None and shows(found[1], round(size)) and shows(found[2], round(size) / whole)
    )


def numbers(line: str) -> list[Shown]:
    """All numbers of a sentence, in their order."""
    pattern = rf"(?<![\w.]){_NUMBER.pattern}(?![\w])"
    return [number(match[0].rstrip(",")) for match in re.finditer(pattern, line)]


def section(text: str, heading: str) -> list[str]:
    """The lines below the first heading that has these words (a pattern), to the next heading.

    Blank lines are left out.
    """
    lines = text.split("\n")
    rules = [n for n, line in enumerate(lines) if re.fullmatch(r"-{2,}", line)]
    starts = [max((n for n in range(rule) if not lines[n]), default=-1) + 1 for rule in rules]
    titles = [" ".join(lines[start:rule]) for start, rule in zip(starts, rules, strict=True)]
    at = next(n for n, title in enumerate(titles) if re.search(heading, title))
    end = starts[at + 1] if at + 1 < len(starts) else len(lines)
    below = lines[rules[at] + 1 : end]
    return [line for line in below if line]


def cells(line: str) -> list[str]:
    """The cells of a row, which two spaces keep apart."""
    return re.split(r"  +", line.strip())


def row(lines: list[str], label: str) -> list[str]:
    """The cells behind the label of the one row that has it."""
    ((_, *found),) = [cells(line) for line in lines if cells(line)[0] == label]
    return found
