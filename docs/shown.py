"""The output that README.md shows, made by running its commands: ``python docs/shown.py``.

Before a block stands what is shown: ``<!-- $ COMMAND: "BEGINNING" LINES, "BEGINNING" LINES -->``.
Each part goes from the first line that begins so; between parts stands a line of three dots.
"""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Final
from unittest import mock

from dpamt.cli.main import main as dpamt

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"

_BLOCK: Final = re.compile(
    r'(<!-- \$ (?P<command>[^\n]+?): (?P<parts>"[^\n]+) -->\n)```\n.*?```\n', re.DOTALL
)
_PART: Final = re.compile(r'"([^"]+)" (\d+)')


def renewed(text: str) -> str:
    """The text with every shown output as it is now."""
    return _BLOCK.sub(lambda match: f"{match[1]}```\n{_shown(match)}```\n", text)


def _shown(match: re.Match[str]) -> str:
    lines = _output(match["command"]).splitlines()
    parts = []
    for beginning, number in _PART.findall(match["parts"]):
        first = next(n for n, line in enumerate(lines) if line.startswith(beginning))
        parts.append("".join(f"{line}\n" for line in lines[first : first + int(number)]))
    return "...\n".join(parts)


def _output(command: str) -> str:
    """What the command prints; ``dpamt decode < FILE`` reads a file of the checkout."""
    words, _, source = command.partition(" < ")
    out = io.StringIO()
    with (
        (ROOT / (source or "README.md")).open(encoding="utf-8") as read,
        mock.patch("sys.stdin", read),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
    ):
        os.environ.pop("COLUMNS", None)
        dpamt(words.split()[1:])
    return out.getvalue()


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
