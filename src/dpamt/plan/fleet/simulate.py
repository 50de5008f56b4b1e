"""A fleet from VM lives to what Dynamic PAMT saves: spilled, placed, counted, summed up."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

import numpy as np
import pyarrow as pa

from dpamt.errors import InputError
from dpamt.plan.ageing.boot import Grouping
from dpamt.plan.ageing.host_4k import prepare
from dpamt.plan.fleet.cluster import Cluster, ClusterResult
from dpamt.plan.fleet.hosts import HOSTS_PER_CLUSTER, HostSizes, HostType, sizes_of
from dpamt.plan.fleet.results import Fleet, sum_up, vm_kinds
from dpamt.plan.fleet.runner import run_jobs
from dpamt.plan.fleet.series import HostSeries
from dpamt.plan.fleet.spill import Life, lives, spill
from dpamt.plan.fleet.spread import NOT_LOOKED_AT, Spread, find_spread

Progress = Callable[[str, int, int], None]
"""Called during long work: (what, done, total); the total is 0 where it is not known."""

MOST_MOMENTS: Final = 5000
FEW_STEPS: Final = 3
MOMENTS_OF_FEW: Final = 24
"""Least number of moments: a shorter fleet gets shorter steps."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``reserve``: share of each host's memory that is not for TDs.  ``step_hours``: between two
    samples, more when there would be too many of them.  ``sample_hours``: how long the host that
    ages is simulated; its memory is fragmented by ``fragmentation`` and ``grouping`` at boot.  The
    time looked at goes from the first arrival to the end.
    """

    seed: int = 0
    reserve: float = 0.05
    step_hours: float = 1.0
    sample_hours: int = 24
    fragmentation: float = 0.1
    grouping: Grouping = "page-block"
    until_hours: float | None = None
    """End, from the first arrival on; None: the last departure."""
    td_share: float | None = None
    """Of the VMs that do not say whether they are TDs; None: all of them."""

    def __post_init__(self) -> None:
        checks = (
            ("reserve", 0 <= self.reserve < 1, "a share from 0, below 1"),
            ("step_hours", 0 < self.step_hours <= 10000, "hours above 0, up to 10000"),
            ("sample_hours", 1 <= self.sample_hours <= 10000, "1 to 10000 hours"),
            ("fragmentation", 0 <= self.fragmentation <= 1, "a share from 0 to 1"),
            ("td_share", 0 <= (self.td_share or 0) <= 1, "a share from 0 to 1"),
            ("until_hours", (self.until_hours or 1) > 0, "hours above 0"),
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
    begin: float
    end: float
    step: float
    settings: Settings
    share_2m: float | None
    """Of every VM, whatever it says; None: what it says."""
    host_type: HostType | None = None
    """Given: find the spread on the cluster's first host instead."""


AS_SAID: Final = (None,)
TODAY_AND_TOMORROW: Final = (0.0, None)
"""Shares at 2M that a fleet is played with: all at 4K, as merged kernels do; and as VMs say."""


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
    return simulate_fleets(vms, host_types, settings, processes, ray_address, progress, AS_SAID)[0]


def simulate_fleets(
    vms: Iterable[pa.RecordBatch],
    host_types: Sequence[HostType],
    settings: Settings | None = None,
    processes: int | None = None,
    ray_address: str | None = None,
    progress: Progress | None = None,
    shares: Sequence[float | None] = TODAY_AND_TOMORROW,
    series: HostSeries | None = None,
) -> tuple[Fleet, ...]:
    """The same, once for each of ``shares``: what all VMs have at 2M, or None for what they say.

    ``series`` is given the hosts of the first of them at every moment.
    """
    settings = settings if settings is not None else Settings()
    names = [one.name for one in host_types]
    if not names or len(set(names)) < len(names):
        raise InputError("fleet: expected at least one type of hosts, each name once")
    if all(one.static for one in host_types):
        raise InputError("fleet: every host stays on static PAMT; expected one that does not")
    sizes = [sizes_of(one) for one in host_types]
    clusters = [(index, hosts) for index, one in enumerate(host_types) for hosts in _cut(one.count)]
    with TemporaryDirectory(prefix="dpamt-fleet-") as folder:
        told = _telling(vms, progress)
        share = 1.0 if settings.td_share is None else settings.td_share
        spilled = spill(told, clusters, Path(folder), settings.seed, share)
        if not spilled.vms:
            raise InputError("fleet: no VM; expected at least one")
        if settings.td_share is not None and spilled.said == spilled.vms:
            raise InputError("fleet: --td-share has no effect; the column td says it of every VM")
        if not spilled.tds:
            raise InputError(f"fleet: none of {spilled.vms} VMs is a TD; expected at least one")
        begin, end = spilled.begin, spilled.end
        if settings.until_hours is not None:
            end = begin + settings.until_hours * 3600
        # Where every VM says 4K, what VMs say and 4K for all are the same fleet.
        large = any(share for _number, share in spilled.kinds.values())
        asked = [share if large or share is not None else 0.0 for share in shares]
        shares = tuple(dict.fromkeys(asked))
        step = max(settings.step_hours * 3600, (end - begin) / MOST_MOMENTS)
        if end - begin < FEW_STEPS * step:
            step = max((end - begin) / MOMENTS_OF_FEW, 1.0)
        ways = [
            [
                _Job(sizes[kind], hosts, path, begin, end, step, settings, share)
                for (kind, hosts), path in zip(clusters, spilled.paths, strict=True)
            ]
            for share in shares
        ]
        aged = []
        for jobs in ways:
            for index, one in enumerate(host_types):
                job = jobs[next(at for at, (kind, _) in enumerate(clusters) if kind == index)]
                if not one.static:
                    aged.append(replace(job, host_type=one))
        if ray_address is None and 0.0 in shares:
            prepare(max(one.machine.max_pfn for one in host_types), progress)
        dealt = iter([*aged, *(job for jobs in ways for job in jobs)])
        if ray_address is not None:
            dealt = map(_carried, dealt)
        everything = _counted(
            run_jobs(_run, dealt, processes, ray_address),
            len(aged) + len(ways) * len(clusters),
            progress,
        )
        found = iter(cast(list[Spread], [next(everything) for _ in aged]))
        spreads = [NOT_LOOKED_AT if one.static else next(found) for _ in ways for one in host_types]
        dynamic = next(one for one in sizes if not one.static)
        fleets = tuple(
            sum_up(
                clusters,
                sizes,
                cast(Iterator[ClusterResult], islice(everything, len(clusters))),
                spreads[at * len(host_types) : (at + 1) * len(host_types)],
                spilled.vms,
                step,
                begin,
                vm_kinds(spilled.kinds, dynamic, shares[at]),
                spilled.tds,
                None if at else series,
            )
            for at in range(len(ways))
        )
        return tuple(fleets[shares.index(share)] for share in asked)


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
    vms = lives(job.source)
    if job.share_2m is not None:
        vms = _with_share(vms, job.share_2m)
    if job.host_type is None:
        cluster = Cluster(job.sizes, job.hosts, settings.reserve)
        return cluster.play(vms, job.end, job.step, job.begin)
    hours = max(1, min(settings.sample_hours, int(np.ceil((job.end - job.begin) / 3600))))
    cluster = Cluster(job.sizes, job.hosts, settings.reserve, watched=0)
    until = min(job.end, job.begin + hours * 3600.0)
    watched = cluster.play(vms, until, job.step, job.begin)
    return find_spread(
        job.host_type.machine,
        job.sizes,
        [(when - job.begin, number, life) for when, number, life in watched.events],
        hours,
        settings.seed,
        settings.fragmentation,
        settings.grouping,
    )


def _with_share(vms: Iterable[Life], share: float) -> Iterator[Life]:
    for arrival, departure, ranges, vcpus, _said, td in vms:
        yield arrival, departure, ranges, vcpus, share, td
