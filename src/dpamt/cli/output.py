"""Text on standard output, whatever characters it can take, and in files: whole or not at all."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_ASCII: Final = str.maketrans({"…": "~", "█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|")})


def write_text(text: str) -> None:
    """Write it; where the output's encoding has no block characters, with ASCII in their place."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text)


def write_file(path: str, text: str) -> None:
    """Write a file, whole or not at all.  Raises InputError when it cannot be written."""
    with whole_file(path) as file:
        assert file is not None
        file.write(text)


@contextmanager
def whole_file(path: str | None) -> Iterator[IO[str] | None]:
    """A file to write to, by way of another one beside it: nobody sees half of it, and when the
    block is left by an exception there is none.  None for no path.

    Raises InputError when it cannot be written.
    """
    from dpamt.errors import InputError
    from dpamt.files import replaced

    if path is None:
        yield None
        return
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            # A device or a pipe: nothing to replace.
            with target.open("w", encoding="utf-8") as file:
                yield file
            return
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file to write to") from None
    with replaced(path) as file:
        yield file
