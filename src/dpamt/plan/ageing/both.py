"""Ageing twice with the same events: as merged kernels map memory, and with 2M pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpamt.plan.ageing.boot import RELEASE
from dpamt.plan.ageing.simulate import Ageing, Progress, simulate
from dpamt.plan.ageing.tornado import Tornado
from dpamt.plan.ageing.workload import Workload
from dpamt.plan.mix import TdMix, at_2m, at_4k
from dpamt.platform.machine import Machine


@dataclass(frozen=True, slots=True)
class BothAges:
    """The same host, TDs and seeds: ``today`` all memory at 4K, ``tomorrow`` with 2M pages."""

    today: Ageing
    tomorrow: Ageing
    workload: Workload
    """Today's."""
    tornado: Tornado | None = None
    """Only where it was asked for."""


def age_both(
    machine: Machine,
    mixes: Sequence[TdMix],
    share_2m: float,
    drivers: Mapping[str, Any],
    weeks: float,
    seeds: Sequence[int],
    processes: int | None = None,
    progress: Progress | None = None,
    release: str = RELEASE,
) -> BothAges:
    """Let the host age both ways; ``drivers`` are fields of :class:`Workload` other than the TDs.

    Raises what :func:`simulate` raises.
    """
    workloads = [Workload(way, **drivers) for way in (at_4k(mixes), at_2m(mixes, share_2m))]
    if tuple(workloads[0].tds) == tuple(workloads[1].tds):
        only = simulate(machine, workloads[0], weeks, seeds, processes, progress, release)
        return BothAges(only, only, workloads[0])
    today, tomorrow = (
        simulate(machine, workload, weeks, seeds, processes, progress, release)
        for workload in workloads
    )
    return BothAges(today, tomorrow, workloads[0])
