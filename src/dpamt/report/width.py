"""How wide a report is, and what becomes of lines that are wider: as the terminal, within bounds;
80 columns elsewhere."""

import os
import sys
from contextlib import suppress
from textwrap import wrap
from typing import Final

DEFAULT: Final = 80
NARROWEST: Final = 40
WIDEST: Final = 200

_MOST_INDENT: Final = 12
_RULES: Final = frozenset("-=")


def width() -> int:
    """Columns: ``COLUMNS`` where it is a number, the terminal's, or 80; 40 to 200."""
    return min(max(_known() or DEFAULT, NARROWEST), WIDEST)


def fits_a_screen() -> bool:
    """Whether lines that are wider would be broken anyhow: elsewhere a line stays a line."""
    return _known() > 0


def _known() -> int:
    text = os.environ.get("COLUMNS", "")
    columns = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not columns:
        with suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
    return columns


def fitted(text: str, columns: int) -> str:
    """The text with lines that are wider wrapped below their beginning, a rule cut off.

    Tables are made for 80 columns: on a narrower terminal their rows take more than one line.
    """
    return "\n".join(line for whole in text.split("\n") for line in _fitted(whole, columns))


def _fitted(line: str, columns: int) -> list[str]:
    if len(line) <= columns:
        return [line]
    if set(line) <= _RULES:
        return [line[:columns]]
    indent = min(len(line) - len(line.lstrip()), _MOST_INDENT)
    return wrap(
        line.strip(),
        columns,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_on_hyphens=False,
    )
