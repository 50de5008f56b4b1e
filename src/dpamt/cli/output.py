"""Text on standard output, whatever characters it can take, and in files: whole or not at all."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dpamt.files import Output

_ASCII: Final = str.maketrans({"…": "~", "█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|")})


def write_document(text: str) -> None:
    """Write a document, or any text, as it is; where the output's encoding has no block
    characters, with ASCII in their place."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text)


def write_text(text: str) -> None:
    """Write a report for eyes: as wide as the terminal, with verdicts in colour on one."""
    from dpamt.report.colours import coloured, wanted
    from dpamt.report.width import fits_a_screen, fitted, width
    from dpamt.visible import visible

    text = visible(text)
    shown = fitted(text, width()) if fits_a_screen() else text
    write_document(coloured(shown) if wanted() else shown)
    sys.stdout.flush()  # whoever waits on a pipe sees it now


def write_file(path: "str | Output", text: str) -> None:
    """Write a file, whole or not at all.  Raises InputError when it cannot be written."""
    from dpamt.files import replaced

    with replaced(path) as file:
        file.write(text)


@contextmanager
def whole_file(path: "str | Output | None") -> Iterator[IO[str] | None]:
    """A file to write to, by way of another one beside it: nobody sees half of it, and when the
    block is left by an exception there is none.  None for no path.

    Raises InputError when it cannot be written.
    """
    from dpamt.files import replaced

    if path is None:
        yield None
        return
    with replaced(path) as file:
        yield file
