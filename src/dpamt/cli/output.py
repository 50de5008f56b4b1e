"""Text on standard output, whatever characters it can take, and in files: whole or not at all."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

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
    """Write a file by way of another one beside it, so that nobody sees half of it.

    Raises InputError when it cannot be written.
    """
    from dpamt.errors import InputError

    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")  # a device or a pipe: nothing to replace
            return
        handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file to write to") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, target)
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path}: {error.strerror}; expected a file to write to") from None
        raise
