"""Ageing over several seeds: hosts in parallel, means with their confidence intervals."""

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.errors import InputError
from dpamt.plan.ageing.boot import RELEASE, boot_ageing
from dpamt.plan.ageing.host_4k import ageing_host, prepare
from dpamt.plan.ageing.weeks import Sample, Weeks
from dpamt.plan.ageing.workload import Workload
from dpamt.plan.confidence import Interval, confidence
from dpamt.platform.machine import Machine
from dpamt.run.world import pamt_of_mode
from dpamt.worker_pool import usable_cpus, worker_pool

Progress = Callable[[str, int, int], None]
"""Called during long work: (what, done, total)."""

HOURS_PER_WEEK: Final = 168


@dataclass(frozen=True, slots=True)
class Ageing:
    """What came of it.  Bytes, pairs and regions at ``times_hours``; moment 0 is the full host."""

    source: str
    seeds: tuple[int, ...]
    times_hours: tuple[float, ...]
    static_bytes: int
    idle_bytes: int
    """Dynamic PAMT without a TD."""
    dynamic_bytes: Interval
    pairs: Interval
    packed_pairs: Interval
    """The least that the same pages could do with, packed without gaps."""
    pinned_by_one: Interval
    td_bytes: Interval
    tds: Interval
    refused: Interval
    """TDs that found no room or no KeyID, or ran out of memory, in all: one value."""
    without_keyid: Interval
    """Those of them that found no KeyID: one value."""
    most_tds: int
    """TDs that may live at once."""
    page_events: int
    regions: bytes
    """At the end of the first seed, each 2M region from address 0 on: 0 free, 1 with a pair, 2 a
    2M page of a TD, 3 other (kernel, pairs' own pages, holes, partly free)."""


@dataclass(frozen=True, slots=True)
class _OfSeed:
    samples: list[Sample]
    refused: int
    without_keyid: int
    most_tds: int
    page_events: int
    static: int
    idle: int
    regions: bytes


def simulate(
    machine: Machine,
    workload: Workload,
    weeks: float = 4.0,
    seeds: Sequence[int] = tuple(range(5)),
    processes: int | None = None,
    progress: Progress | None = None,
    release: str = RELEASE,
) -> Ageing:
    """Let the host age under the workload, once for each seed; the same seeds, the same result.

    ``processes`` (default: one a core) does not change it.  Raises InputError for weeks or seeds
    that make no sense and for a host that does not come up with Dynamic PAMT.
    """
    if not 1 / HOURS_PER_WEEK <= weeks <= 520:
        raise InputError(f"ageing for {weeks:g} weeks: expected an hour to ten years")
    hours = round(weeks * HOURS_PER_WEEK)
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError("ageing: expected at least one seed, each once")
    if not any(td.share_2m for td in workload.tds):
        prepare(machine.max_pfn, progress)
    workers = min(processes or usable_cpus(), len(seeds))
    results: dict[int, _OfSeed] = {}
    if workers == 1:
        for seed in seeds:
            results[seed] = _one_seed(machine, workload, hours, seed, release, progress)
    else:
        with worker_pool(workers) as pool:
            jobs = {
                pool.submit(_one_seed, machine, workload, hours, seed, release): seed
                for seed in seeds
            }
            for done, job in enumerate(as_completed(jobs), 1):
                results[jobs[job]] = job.result()
                if progress is not None:
                    progress("ageing", done, len(seeds))
    return _gather(machine, [results[seed] for seed in seeds], tuple(seeds), hours)


def _one_seed(
    machine: Machine,
    workload: Workload,
    hours: int,
    seed: int,
    release: str,
    progress: Progress | None = None,
) -> _OfSeed:
    kernel = boot_ageing(machine, seed, workload.fragmentation, release, workload.grouping)
    huge = any(td.share_2m for td in workload.tds)
    host = ageing_host(kernel, huge, workload.pairs, workload.control)
    weeks = Weeks(host, workload, seed)
    samples = [weeks.sample()]
    for hour in range(hours):
        samples.append(weeks.step())
        if progress is not None:
            progress(f"ageing, seed {seed}", hour + 1, hours)
    return _OfSeed(
        samples,
        weeks.refused,
        weeks.without_keyid,
        weeks.most,
        weeks.page_events,
        pamt_of_mode(kernel, False, 0).total,
        pamt_of_mode(kernel, True, 0).total,
        weeks.regions(),
    )


def _gather(machine: Machine, results: list[_OfSeed], seeds: tuple[int, ...], hours: int) -> Ageing:
    first = results[0]

    def interval(
        value: Callable[[Sample], float], least: float = 0.0, most: float = float("inf")
    ) -> Interval:
        columns = [[value(result.samples[at]) for result in results] for at in range(hours + 1)]
        return confidence(columns, least, most)

    pair_bytes = 2 << PAGE_SHIFT
    regions = sum(
        -(-block.end_pfn // PAGES_PER_2M) - block.start_pfn // PAGES_PER_2M
        for block in machine.memory
    )
    most_bytes = float(machine.total_pages << PAGE_SHIFT)
    return Ageing(
        source=machine.source,
        seeds=seeds,
        times_hours=tuple(float(hour) for hour in range(hours + 1)),
        static_bytes=first.static,
        idle_bytes=first.idle,
        dynamic_bytes=interval(
            lambda sample: first.idle + sample.pairs * pair_bytes,
            first.idle,
            first.idle + regions * pair_bytes,
        ),
        pairs=interval(lambda sample: sample.pairs, 0, regions),
        packed_pairs=interval(lambda sample: sample.packed, 0, regions),
        pinned_by_one=interval(lambda sample: sample.pinned_by_one, 0, regions),
        td_bytes=interval(lambda sample: sample.td_pages << PAGE_SHIFT, 0, most_bytes),
        tds=interval(lambda sample: sample.tds, 0, first.most_tds),
        refused=confidence([[float(result.refused) for result in results]]),
        without_keyid=confidence([[float(result.without_keyid) for result in results]]),
        most_tds=first.most_tds,
        page_events=sum(result.page_events for result in results),
        regions=first.regions,
    )
