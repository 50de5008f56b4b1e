"""Files that are written whole or not at all; every room may use it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from dpamt.errors import InputError


@contextmanager
def replaced(path: str, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write to beside ``path``, which takes its place when the block ends; when the block
    is left by an exception there is none.  ``mode``: ``w`` (UTF-8) or ``wb``.

    Raises InputError when it cannot be written.
    """
    import tempfile  # not at the start: help and refusals need none

    target = Path(path)
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file to write to") from None
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, target)
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path}: {error.strerror}; expected a file to write to") from None
        raise
