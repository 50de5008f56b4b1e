"""What `dpamt decode` found, as text, a line for each number, and as one JSON document."""

from collections.abc import Iterator
from typing import Any, Final

from dpamt.trace.decode import Meaning
from dpamt.trace.decode_log import Explained, ExplainedLine

JSON_FORMAT: Final = 1

_NAME_WIDTH: Final = 8
_UNKNOWN: Final = "nothing that the tables know"


def value_line(asked: str, value: int, told: list[Meaning]) -> str:
    """One line for a value: as it was asked for, its number where that is a name, what it is."""
    number = "" if asked.lower().startswith("0x") or asked == str(value) else f" {value:#x}"
    return f"{asked}{number}  {_told(told)}"


def log_lines(lines: Iterator[ExplainedLine]) -> Iterator[str]:
    """The lines of a log that mean something, each followed by its numbers, a line each."""
    for line in lines:
        yield line.text
        yield from _with_zeros_together(line.found)


def _with_zeros_together(found: list[Explained]) -> Iterator[str]:
    """Registers that are 0 and no operand share a line."""
    zeros = [item.name for item in found if item.meanings and item.meanings[0].text == "0"]
    for item in found:
        if item.name not in zeros:
            yield f"    {item.name:{_NAME_WIDTH}} {item.value:#x}  {_told(item.meanings)}"
    if zeros:
        yield f"    {', '.join(zeros)}: 0"


def _told(told: list[Meaning]) -> str:
    return "; or ".join(meaning.text for meaning in told) or _UNKNOWN


def values_json(values: list[tuple[str, int, list[Meaning]]]) -> dict[str, Any]:
    """The document for values."""
    return {
        "format": JSON_FORMAT,
        "values": [{"asked": asked, **_number(value, told)} for asked, value, told in values],
    }


def log_json(lines: Iterator[ExplainedLine]) -> dict[str, Any]:
    """The document for a log."""
    return {
        "format": JSON_FORMAT,
        "lines": [
            {
                "line": line.number,
                "text": line.text,
                "numbers": [
                    {"name": item.name, **_number(item.value, item.meanings)} for item in line.found
                ],
            }
            for line in lines
        ],
    }


def _number(value: int, told: list[Meaning]) -> dict[str, Any]:
    return {
        "value": f"{value:#x}",
        "meanings": [
            {"as": meaning.kind, "text": meaning.text, "facts": meaning.facts} for meaning in told
        ],
    }
