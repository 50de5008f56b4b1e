"""Jobs on all local cores, or on a Ray cluster; results in the order of the jobs either way."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from os import cpu_count
from typing import TypeVar

from dpamt.errors import InputError

J = TypeVar("J")
R = TypeVar("R")


def run_jobs(
    function: Callable[[J], R],
    jobs: Sequence[J],
    processes: int | None = None,
    ray_address: str | None = None,
) -> Iterator[R]:
    """``function`` of each job, as they become ready in order.

    ``ray_address`` is what ray.init() takes (``auto``, ``ray://host:10001``, ``local``).  Raises
    InputError when Ray is not installed or not there.
    """
    if ray_address is not None:
        yield from _on_ray(function, jobs, ray_address)
        return
    workers = min(processes or cpu_count() or 1, len(jobs))
    if workers <= 1:
        yield from map(function, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: list[Future[R]] = [pool.submit(function, job) for job in jobs]
        try:
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _on_ray(function: Callable[[J], R], jobs: Sequence[J], address: str) -> Iterator[R]:
    try:
        import ray
    except ImportError:
        raise InputError("--ray: Ray is not installed; expected pip install 'dpamt[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"--ray {address}: {line}; expected a running Ray cluster") from None
    try:
        remote = ray.remote(function)
        for reference in [remote.remote(job) for job in jobs]:
            yield ray.get(reference)
    finally:
        ray.shutdown()
