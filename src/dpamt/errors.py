"""Whose fault it is: the three kinds of failure, and the exit code of each.

Exit codes of every command: 0 clean, 1 a finding, 2 bad usage or bad input, 3 dpamt itself is
wrong.
"""


class DpamtError(Exception):
    """Base of everything dpamt raises on purpose; ``str()`` is the one line a user reads."""

    exit_code = 3


class InputError(DpamtError):
    """What the user gave cannot be used: names the file, line and field and what was expected."""

    exit_code = 2


class Finding(DpamtError):  # noqa: N818  (a finding is a result, not an error of ours)
    """The protocol or a caller did something that a real machine would punish."""

    exit_code = 1


class ModelError(DpamtError):
    """dpamt contradicts itself: a fault of the model, not of what it models."""

    exit_code = 3
