"""Tables with a column for each side; more sides than fit stand in further tables below."""

from collections.abc import Iterator, Sequence
from typing import Final

from dpamt.report.width import width

LABEL_WIDTH: Final = 36
COLUMN_WIDTH: Final = 14
_LEAST_LABEL: Final = 10

Row = tuple[str, Sequence[str]]
"""Label, and a cell for each side; a row without a cell in it is left out."""


def side_table(names: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the table: as many sides beside each other as there is room for."""
    room = width() - 2
    labels = min(LABEL_WIDTH, max(room - COLUMN_WIDTH * min(len(names), 2), _LEAST_LABEL))
    sides = max((room - labels) // COLUMN_WIDTH, 1)
    for start in range(0, len(names), sides):
        if start:
            yield ""
        part = slice(start, start + sides)
        yield from _lines("", [_fit(name) for name in names[part]], labels)
        for label, cells in rows:
            if any(cells[part]):
                yield from _lines(label, cells[part], labels)


def _lines(label: str, cells: Sequence[str], labels: int) -> Iterator[str]:
    """A row; a label that is too long has a line of its own."""
    if len(label) > labels:
        yield f"  {label}"
        label = ""
    text = f"  {label:{labels}}"
    for cell in cells:
        text += f"{cell or '-':>{COLUMN_WIDTH}}"
    yield text


def _fit(name: str) -> str:
    return name if len(name) < COLUMN_WIDTH else name[: COLUMN_WIDTH - 2] + "…"
