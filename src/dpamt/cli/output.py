"""Text on standard output, whatever characters it can take, and in files: whole or not at all."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dpamt.files import Output

_ASCII: Final = str.maketrans({"…": "~", "█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|")})


def write_text(text: str) -> None:
    """Write it; where the output's encoding has no block characters, with ASCII in their place."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text)


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
