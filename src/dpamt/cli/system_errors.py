"""What the system refused, as one line with what helps; dpamt is not to blame for it."""

import errno
import os

_MEMORY = "out of memory; expected more of it (ulimit -v, or a container's limit)"
_FILES = "too many open files; expected a larger limit (ulimit -n)"
_PROCESSES = (
    "no more processes or threads are allowed; expected a larger limit (ulimit -u, or a "
    "container's limit)"
)
_GONE = "the folder where dpamt was started is gone; expected to start in one that exists"


def system_error(error: BaseException) -> str | None:
    """The line for a limit of the system; None for an error of any other kind."""
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _PROCESSES
    if isinstance(error, OSError):
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return _FILES
        if error.errno == errno.ENOMEM:
            return _MEMORY
        if error.errno == errno.EAGAIN and error.filename is None:
            return _PROCESSES
        if error.errno == errno.ENOENT and error.filename is None and not _is_somewhere():
            return _GONE
    # Libraries say it in many ways, or not at all.
    odd = isinstance(error, ImportError | SystemError) or (
        isinstance(error, OSError) and error.errno is None
    )
    return _MEMORY if odd and _has_a_limit() else None


def _is_somewhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _has_a_limit() -> bool:
    """Whether this process may not have all the memory there is."""
    try:
        import resource
    except (ImportError, OSError):
        return True
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
