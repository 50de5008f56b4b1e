"""Lines of an input file and the one way to complain about them: file, line, found, expected."""

from typing import Final, NamedTuple

from dpamt.abi.pages import MAX_PA_LIMIT
from dpamt.errors import InputError

_SHOWN: Final = 100


class Line(NamedTuple):
    """One line: its number counted from 1, its text, whether a newline ends it."""

    number: int
    text: str
    ended: bool


def refuse(source: str, number: int, found: str, expected: str) -> InputError:
    """The error for a line that cannot be used; long or unprintable text is shown shortened."""
    shown = found if len(found) <= _SHOWN else found[:_SHOWN] + "..."
    return InputError(f"{source}:{number}: found {shown!r}; expected {expected}")


def decode(data: bytes, source: str) -> str:
    """The text of a file.  Raises InputError for an empty file and for one that is not text."""
    if not data.strip():
        raise InputError(
            f"{source}:1: the file is empty; expected a dmesg (sudo dmesg > FILE), /proc/iomem "
            "or e820 text"
        )
    zero = data.find(b"\0")
    if zero >= 0:
        number = data.count(b"\n", 0, zero) + 1
        raise InputError(
            f"{source}:{number}: found a zero byte at offset {zero}; expected UTF-8 text"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{source}:{number}: found byte {data[error.start]:#04x} at offset {error.start}; "
            "expected UTF-8 text"
        ) from None


def split_lines(text: str) -> list[Line]:
    """The lines of a text, cut at newlines only, carriage returns at their ends dropped."""
    parts = text.split("\n")
    last = parts.pop()
    lines = [Line(number, part.rstrip("\r"), True) for number, part in enumerate(parts, 1)]
    if last:
        lines.append(Line(len(parts) + 1, last, False))
    return lines


def address(digits: str, source: str, line: Line) -> int:
    """A hexadecimal physical address.  Raises InputError above 2^52 - 1."""
    value = int(digits, 16)
    if value >= MAX_PA_LIMIT:
        raise refuse(source, line.number, line.text.strip(), "addresses below 2^52")
    return value
