"""A fleet from VM lives to what Dynamic PAMT saves: spilled, placed, counted, summed up."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import pyarrow as pa

from dpamt.errors import InputError
from dpamt.plan.fleet.cluster import Cluster, ClusterResult
from dpamt.plan.fleet.hosts import HOSTS_PER_CLUSTER, HostSizes, HostType, sizes_of
from dpamt.plan.fleet.results import Fleet, sum_up
from dpamt.plan.fleet.runner import run_jobs
from dpamt.plan.fleet.spill import lives, spill
from dpamt.plan.fleet.spread import Spread, find_spread

Progress = Callable[[str, int, int], None]
"""Told of long work: (what, done, total); the total is 0 where it is not known."""

MOST_MOMENTS = 5000


@dataclass(frozen=True, slots=True)
class Settings:
    """``reserve``: share of each host's memory that is not for TDs.  ``step_hours``: between two
    samples, more when there would be too many of them.  ``sample_hours``: how long the host that
    ages is simulated; its memory is fragmented by ``fragmentation`` at boot.
    """

    seed: int = 0
    reserve: float = 0.05
    step_hours: float = 1.0
    sample_hours: int = 24
    fragmentation: float = 0.02

    def __post_init__(self) -> None:
        checks = (
            ("reserve", 0 <= self.reserve < 1, "a share from 0, below 1"),
            ("step_hours", 0 < self.step_hours <= 10000, "hours above 0, up to 10000"),
            ("sample_hours", 1 <= self.sample_hours <= 10000, "1 to 10000 hours"),
            ("fragmentation", 0 <= self.fragmentation <= 1, "a share from 0 to 1"),
            ("seed", 0 <= self.seed < 1 << 32, "0 or more, below 2^32"),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(f"fleet: {name} {getattr(self, name)}: expected {expected}")


@dataclass(frozen=True)
class _Job:
    sizes: HostSizes
    hosts: int
    source: Path | bytes
    end: float
    step: float
    settings: Settings
    host_type: HostType | None = None
    """Given: find the spread on the cluster's first host instead."""


def simulate_fleet(
    vms: Iterable[pa.RecordBatch],
    host_types: Sequence[HostType],
    settings: Settings | None = None,
    processes: int | None = None,
    ray_address: str | None = None,
    progress: Progress | None = None,
) -> Fleet:
    """Place the VMs on the hosts.  The same VMs, hosts and settings give the same fleet, whatever
    ``processes`` (default: one a core) and wherever it runs.

    ``vms`` are batches of :func:`dpamt.plan.fleet.read.read_vms` or ``generate_vms``.  Memory does
    not grow with their number.  Raises InputError for VMs, hosts or settings that cannot be.
    """
    settings = settings if settings is not None else Settings()
    names = [one.name for one in host_types]
    if not names or len(set(names)) < len(names):
        raise InputError("fleet: expected at least one type of hosts, each name once")
    sizes = [sizes_of(one) for one in host_types]
    clusters = [(index, hosts) for index, one in enumerate(host_types) for hosts in _cut(one.count)]
    with TemporaryDirectory(prefix="dpamt-fleet-") as folder:
        told = _telling(vms, progress)
        spilled = spill(told, clusters, Path(folder), settings.seed)
        if not spilled.vms:
            raise InputError("fleet: no VM; expected at least one")
        step = max(settings.step_hours * 3600, spilled.end / MOST_MOMENTS)
        jobs = [
            _Job(sizes[kind], hosts, path, spilled.end, step, settings)
            for (kind, hosts), path in zip(clusters, spilled.paths, strict=True)
        ]
        aged = []
        for index, one in enumerate(host_types):
            job = jobs[next(at for at, (kind, _) in enumerate(clusters) if kind == index)]
            aged.append(replace(job, host_type=one))
        dealt = iter([*aged, *jobs])
        if ray_address is not None:
            dealt = map(_carried, dealt)
        everything = _counted(
            run_jobs(_run, dealt, processes, ray_address), len(aged) + len(jobs), progress
        )
        spreads = [next(everything) for _ in aged]
        return sum_up(
            clusters,
            sizes,
            cast(Iterator[ClusterResult], everything),
            cast(list[Spread], spreads),
            spilled.vms,
            step,
        )


def _counted(
    results: Iterator[ClusterResult | Spread], total: int, progress: Progress | None
) -> Iterator[ClusterResult | Spread]:
    for done, result in enumerate(results, 1):
        if progress is not None:
            progress("placing VMs", done, total)
        yield result


def _cut(hosts: int) -> list[int]:
    """Clusters of a type, as even as can be."""
    number = -(-hosts // HOSTS_PER_CLUSTER)
    return [hosts // number + (index < hosts % number) for index in range(number)]


def _telling(vms: Iterable[pa.RecordBatch], progress: Progress | None) -> Iterator[pa.RecordBatch]:
    total = 0
    for batch in vms:
        yield batch
        total += batch.num_rows
        if progress is not None:
            progress("reading VMs", total, 0)


def _carried(job: _Job) -> _Job:
    """With the VMs in it, for a machine that does not have our files."""
    assert isinstance(job.source, Path)
    return replace(job, source=job.source.read_bytes())


def _run(job: _Job) -> ClusterResult | Spread:
    settings = job.settings
    if job.host_type is None:
        cluster = Cluster(job.sizes, job.hosts, settings.reserve)
        return cluster.play(lives(job.source), job.end, job.step)
    hours = max(1, min(settings.sample_hours, int(np.ceil(job.end / 3600))))
    cluster = Cluster(job.sizes, job.hosts, settings.reserve, watched=0)
    watched = cluster.play(lives(job.source), min(job.end, hours * 3600.0), job.step)
    return find_spread(
        job.host_type.machine,
        job.sizes,
        watched.events,
        hours,
        settings.seed,
        settings.fragmentation,
    )
