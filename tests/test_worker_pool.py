"""Processes that cannot be begun, and processes that end before their work is done."""

import errno
import multiprocessing
import os
import signal
import time
from typing import Any, NoReturn

import pytest

from dpamt import worker_pool as module
from dpamt.errors import InputError
from dpamt.worker_pool import usable_cpus, worker_pool


def end_at_once(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_process_that_is_killed_is_one_line() -> None:
    said = "ended from outside, as Linux does when memory runs out"
    with pytest.raises(InputError, match=said), worker_pool(2, forked=True) as pool:
        list(pool.map(end_at_once, range(4)))
    end = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS])
def test_without_shared_memory(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without /dev/shm: by default one process does it; two are refused."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    assert usable_cpus() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    assert usable_cpus() == 1
    said = r"^several processes: .*; expected /dev/shm to write to"
    with pytest.raises(InputError, match=said), worker_pool(2):
        pass


def test_another_error_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(module, "ProcessPoolExecutor", refuse)
    with pytest.raises(OSError, match="Too many open files"), worker_pool(2):
        pass
