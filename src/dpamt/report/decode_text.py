"""What `dpamt decode` found, as text, a line for each number, and as one JSON document."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from dpamt.platform.tdx_log import HostLog, distinct
from dpamt.report.run_text import heading, paragraph
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


def why_lines(log: HostLog) -> Iterator[str]:
    """Why TDX did not come up, by the lines of the log; nothing where the log does not say so."""
    if log.guest is not None:
        yield ""
        yield from paragraph(
            f"This is the log of a TD (a guest), by line {log.guest.line}: {log.guest.text}.  Why "
            "TDX does not come up is said in the log of the host that runs it."
        )
    why = log.why or log.doubt
    if why is None:
        return
    if log.why is not None:
        yield from heading("Why does TDX not come up?")
    else:
        yield from heading("The log does not show whether TDX comes up")
    yield from paragraph(f"{why.cause.why[:1].upper()}{why.cause.why[1:]}.")
    for one in distinct(log.failures):
        if one.line:
            yield from paragraph(f"line {one.line}: {one.text}", "  ")
    yield from paragraph(f"Next step: {why.cause.next_step}.")
    yield from paragraph(f"Source: Linux {why.cause.source}.")


def _why_json(log: HostLog) -> dict[str, Any] | None:
    why = log.why or log.doubt
    if why is None:
        return None
    return {
        "key": why.cause.key,
        "cause": why.cause.why,
        "next_step": why.cause.next_step,
        "source": why.cause.source,
        "shown_by": [
            {"line": one.line, "text": one.text} for one in distinct(log.failures) if one.line
        ],
    }


def log_json(lines: Iterable[ExplainedLine], log: HostLog) -> dict[str, Any]:
    """The document for a log."""
    return {
        "format": JSON_FORMAT,
        "why": _why_json(log),
        "guest": log.guest is not None,
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
