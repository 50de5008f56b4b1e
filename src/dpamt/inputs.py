"""Files and standard input that the user gives: bytes, UTF-8 text and JSON.

What is wrong with one is said in a single line: the file, its line, and what was expected there.

A byte order mark, which some editors put before UTF-8, is taken off.  Logs have a reader that takes
more (:mod:`dpamt.platform.log_bytes`); packed tables have theirs (``plan/fleet/packed.py``).
"""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from dpamt.errors import InputError

STDIN_NAME: Final = "standard input"
"""Its name in messages."""

_MARK: Final = b"\xef\xbb\xbf"


def read_bytes(path: str, expected: str, most: int = -1) -> bytes:
    """The content of a file, at most this many bytes of it.

    Raises InputError, which ends with ``expected``, for a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {expected}") from None
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{path!r}: {error}; {expected}") from None


def decode(data: bytes, source: str, expected: str) -> str:
    """UTF-8 text without its byte order mark.

    Raises InputError, with the line of the first byte that is not UTF-8.
    """
    try:
        return data.removeprefix(_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source}:{line}: not UTF-8 text; {expected}") from None


def read_text(path: str, expected: str) -> str:
    """The UTF-8 text of a file.  Raises InputError for one that cannot be read or is not text."""
    return decode(read_bytes(path, expected), path, expected)


def json_reason(error: json.JSONDecodeError) -> str:
    """What is wrong with a JSON text, and where in its line: ``column 7: Expecting value``."""
    return f"column {error.colno}: {error.msg}"


@contextmanager
def opened(path: str, expected: str) -> Iterator[BinaryIO]:
    """A file to read piece by piece.

    Raises InputError where it cannot be opened, and where a later read fails.
    """
    try:
        raw = _Raw(path, expected)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {expected}") from None
    except ValueError as error:
        raise InputError(f"{path!r}: {error}; {expected}") from None
    with io.BufferedReader(raw) as file:
        yield file


def standard_input(expected: str) -> BinaryIO:
    """Standard input, which is not closed by whoever reads it.

    Raises InputError where there is none or it is a terminal, and where a later read fails.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(f"-: nothing on standard input; {expected}")
    try:
        number = sys.stdin.fileno()
    except (OSError, AttributeError):  # a caller put a stream of its own there
        return sys.stdin.buffer
    return io.BufferedReader(_Raw(number, expected))


class _Raw(io.FileIO):
    """Says of a read that fails whose it was: an OSError of a stream has no file name."""

    def __init__(self, file: str | int, expected: str) -> None:
        self._expected = expected
        super().__init__(file, closefd=isinstance(file, str))

    def readinto(self, buffer: Any, /) -> int:
        """As the base class; raises InputError."""
        try:
            count = super().readinto(buffer)
        except OSError as error:
            raise self._failed(error) from None
        assert count is not None, "blocking, as all that is opened here"
        return count

    def readall(self) -> bytes:
        """As the base class; raises InputError."""
        try:
            return super().readall()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> InputError:
        what = STDIN_NAME if isinstance(self.name, int) else str(self.name)
        return InputError(f"{what}: {error.strerror or error}; {self._expected}")
