"""The output that README.md and docs/ show, made by running the commands: ``python docs/shown.py``.

Before a block stands what is shown: ``<!-- $ COMMAND: "BEGINNING" LINES, "BEGINNING" LINES -->``.
Each part goes from the first line that begins so; between parts stands a line of three dots.
Commands run in a folder that has the files that the documents name (``tests/bare.py``).  A COMMAND
is one of dpamt, or ``python -m dpamt.MODULE``, whose ``main()`` is called.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Final
from unittest import mock

from dpamt.cli.main import main as dpamt

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.bare import make_files  # noqa: E402  (found by the line above)

PAGES: Final = (
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("first-hour", "decode", "vectors", "benchmarks")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
)

_BLOCK: Final = re.compile(
    r'( *)(<!-- \$ (?P<command>[^\n]+?): (?P<parts>"[^\n]+) -->\n) *```\n.*?```\n', re.DOTALL
)
_PART: Final = re.compile(r'"([^"]+)" (\d+)')


def renewed(text: str) -> str:
    """The text with every shown output as it is now."""
    return _BLOCK.sub(_block, text)


def _block(match: re.Match[str]) -> str:
    lines = ["```\n", *_shown(match).splitlines(keepends=True), "```\n"]
    inside = "".join(match[1] * (line != "\n") + line for line in lines)
    return f"{match[1]}{match[2]}{inside}"


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
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")  # with an encoding, so that bars are bars
    with (
        (ROOT / (source or "README.md")).open(encoding="utf-8") as read,
        tempfile.TemporaryDirectory(prefix="dpamt-shown-") as folder,
        contextlib.chdir(folder),
        mock.patch("sys.stdin", read),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
    ):
        os.environ.pop("COLUMNS", None)
        make_files(Path(folder))
        if words.startswith("python -m "):
            import_module(words.removeprefix("python -m ")).main()
        else:
            dpamt(words.split()[1:])
    out.flush()
    return out.buffer.getvalue().decode()


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
