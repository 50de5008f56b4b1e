"""Tables with a column for each side; more sides than fit stand in further tables below."""

from collections.abc import Iterator, Sequence
from typing import Final

LABEL_WIDTH: Final = 36
COLUMN_WIDTH: Final = 14
SIDES_PER_TABLE: Final = 3

Row = tuple[str, Sequence[str]]
"""Label, and a cell for each side; a row without a cell in it is left out."""


def side_table(names: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the table: 80 columns at most."""
    for start in range(0, len(names), SIDES_PER_TABLE):
        if start:
            yield ""
        part = slice(start, start + SIDES_PER_TABLE)
        yield _line("", [_fit(name) for name in names[part]])
        for label, cells in rows:
            if any(cells[part]):
                yield _line(label, cells[part])


def _line(label: str, cells: Sequence[str]) -> str:
    text = f"  {label:{LABEL_WIDTH}}"
    for cell in cells:
        text += f"{cell or '-':>{COLUMN_WIDTH}}"
    return text


def _fit(name: str) -> str:
    return name if len(name) < COLUMN_WIDTH else name[: COLUMN_WIDTH - 2] + "…"
