"""Standard input, output and error as every command may rely on them: open, and waiting."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NUMBERS = (0, 1, 2)


@contextmanager
def usable_streams() -> Iterator[None]:
    """For the time of a command.

    A caller may have closed a stream: what goes there is not wanted, and no file that is opened
    later may get its number.  Or it has made one that does not wait (``O_NONBLOCK``, as Node.js
    does with pipes): then Python drops what a slow reader has no room for yet, and takes input that
    is not there yet for its end.  The streams are put back as they were, for others share them.
    """
    _open_closed()
    hasty = []
    for number in _NUMBERS:
        with suppress(OSError):
            if not os.get_blocking(number):
                os.set_blocking(number, True)
                hasty.append(number)
    try:
        yield
    finally:
        for number in hasty:
            with suppress(OSError):
                os.set_blocking(number, False)


def _open_closed() -> None:
    for number in _NUMBERS:
        try:
            os.fstat(number)
        except OSError:  # the lowest number that is free is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (for good)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
