"""Jobs on all local cores, or on a Ray cluster; results in the order of the jobs either way."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from dpamt.ray_cluster import connect
from dpamt.worker_pool import usable_cpus, worker_pool

J = TypeVar("J")
R = TypeVar("R")

_AHEAD: Final = 3
"""Jobs for each worker that are dealt out before the first of them is asked for."""


def run_jobs(
    function: Callable[[J], R],
    jobs: Iterable[J],
    processes: int | None = None,
    ray_address: str | None = None,
) -> Iterator[R]:
    """``function`` of each job, in order; few jobs and results are held at a time.

    ``ray_address`` is what ray.init() takes (``auto``, ``ray://host:10001``, ``local``).  Raises
    InputError when Ray is not installed or not there.
    """
    if ray_address is not None:
        yield from _on_ray(function, jobs, ray_address)
        return
    workers = processes or usable_cpus()
    if workers <= 1:
        yield from map(function, jobs)
        return
    with worker_pool(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(function, job))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _on_ray(function: Callable[[J], R], jobs: Iterable[J], address: str) -> Iterator[R]:
    ray = connect(address)
    try:
        remote = ray.remote(function)
        resources = ray.cluster_resources()
        most = _AHEAD * max(1, int(resources.get("CPU", 1)))
        waiting: deque[Any] = deque()
        for job in jobs:
            waiting.append(remote.remote(job))
            if len(waiting) > most:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    finally:
        ray.shutdown()
