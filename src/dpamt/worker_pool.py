"""Worker processes that end with the command: an interrupt or an error leaves none behind."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Final

from dpamt.errors import InputError


@contextmanager
def worker_pool(workers: int, forked: bool = False) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes.  Ctrl-C is for the command alone; it then ends its workers at once.

    ``forked``: they begin with all that this process holds now.  Raises InputError where the system
    has no processes for us, or ends one: the kernel does, when memory runs out.
    """
    try:
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("fork") if forked else None,
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        )
    except OSError as error:
        if error.errno not in _NO_SEMAPHORES:
            raise
        raise InputError(
            f"several processes: {error.strerror}; expected /dev/shm to write to, or --jobs 1"
        ) from None
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                "a process of dpamt was ended from outside, as Linux does when memory runs out; "
                "expected more memory, or --jobs 1"
            ) from None
        raise
    pool.shutdown()


_NO_SEMAPHORES: Final = (errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOSYS)
"""What sem_open(3) says where /dev/shm is not there, or cannot be written."""


def usable_cpus() -> int:
    """Processes that are worth beginning: CPUs that this process may run on; 1 where processes
    cannot share anything."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError as error:
        if error.errno in _NO_SEMAPHORES:
            return 1
        raise
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
