"""One cluster through its weeks: VMs placed under static and under Dynamic PAMT, and counted.

A VM goes to the host on which the least memory is left; where none has room for its memory, its
VCPUs and its KeyID, it is turned away.  Both modes see the same VMs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from dpamt.plan.fleet.hosts import HostSizes, Takes
from dpamt.plan.fleet.spill import Life

Event = tuple[float, int, Life | None]
"""(seconds, number of the VM, its life as it arrives or None as it leaves)."""

FAR = float("inf")


@dataclass(frozen=True)
class ClusterResult:
    """Samples are arrays of moments x hosts, under Dynamic PAMT."""

    memory: NDArray[np.int64]
    """Bytes of the TDs."""
    normal: NDArray[np.int64]
    """Bytes of VMs that are no TDs."""
    tds: NDArray[np.int32]
    folios: NDArray[np.int64]
    singles: NDArray[np.int64]
    scattered: NDArray[np.int64]
    placed: tuple[int, int]
    """VMs that found a host: static, dynamic."""
    turned_away: tuple[int, int]
    events: list[Event]
    """What happened on the watched host."""


class _Placement:
    """The hosts of a cluster in one mode."""

    def __init__(self, sizes: HostSizes, hosts: int, dynamic: bool, reserve: float) -> None:
        self.dynamic = dynamic and not sizes.static
        self.free = np.full(hosts, sizes.room(self.dynamic, reserve), np.int64)
        self.vcpus = np.full(hosts, sizes.vcpus, np.int64)
        self.slots = np.full(hosts, sizes.max_tds, np.int64)
        self.leaving: list[tuple[float, int, int, int, Takes]] = []
        self.placed = self.turned_away = 0

    def place(self, takes: Takes, vcpus: int) -> int:
        """The host for a VM, or -1; it is not there yet."""
        need = takes.dynamic_bytes if self.dynamic else takes.static_bytes
        fits = (self.free >= need) & (self.vcpus >= vcpus) & (self.slots >= takes.td)
        host = int(np.where(fits, self.free, np.iinfo(np.int64).max).argmin())
        if not fits[host]:
            self.turned_away += 1
            return -1
        self.placed += 1
        return host

    def change(self, host: int, takes: Takes, vcpus: int, sign: int) -> None:
        """A VM comes (1) or leaves (-1)."""
        need = takes.dynamic_bytes if self.dynamic else takes.static_bytes
        self.free[host] -= sign * need
        self.vcpus[host] -= sign * vcpus
        self.slots[host] -= sign * takes.td


class Cluster:
    """``hosts`` hosts of one type; ``watched`` is the host whose events are kept, or -1."""

    def __init__(self, sizes: HostSizes, hosts: int, reserve: float, watched: int = -1) -> None:
        self.sizes = sizes
        self.watched = watched
        self.modes = [_Placement(sizes, hosts, dynamic, reserve) for dynamic in (False, True)]
        self.totals = np.zeros((6, hosts), np.int64)
        """Memory of TDs, TDs, folios, singles, scattered, memory of normal VMs on each host, in the
        second mode."""
        self.events: list[Event] = []
        self._takes: dict[tuple[int, int, float, bool], Takes] = {}

    def play(
        self, vms: Iterable[Life], end: float, step: float, begin: float = 0.0
    ) -> ClusterResult:
        """All VMs up to ``end``, with a sample every ``step`` seconds from ``begin`` on."""
        moments = int((end - begin) // step) + 1
        samples = np.zeros((moments, len(self.totals), self.totals.shape[1]), np.int64)
        at = 0
        for number, life in enumerate(vms):
            arrival = life[0]
            if arrival > end:
                break
            while at < moments and begin + at * step < arrival:
                self._leave_until(begin + at * step)
                samples[at] = self.totals
                at += 1
            self._leave_until(arrival)
            self._arrive(number, life)
        while at < moments:
            self._leave_until(begin + at * step)
            samples[at] = self.totals
            at += 1
        static, dynamic = self.modes
        return ClusterResult(
            samples[:, 0].copy(),
            samples[:, 5].copy(),
            samples[:, 1].astype(np.int32),
            samples[:, 2].copy(),
            samples[:, 3].copy(),
            samples[:, 4].copy(),
            (static.placed, dynamic.placed),
            (static.turned_away, dynamic.turned_away),
            self.events,
        )

    def _arrive(self, number: int, life: Life) -> None:
        arrival, departure, ranges, vcpus, share, td = life
        key = (ranges, vcpus, share, td)
        takes = self._takes.get(key)
        if takes is None:
            sizes = self.sizes
            takes = sizes.takes(ranges, vcpus, share) if td else sizes.takes_of_normal(ranges)
            self._takes[key] = takes
        for at, mode in enumerate(self.modes):
            host = mode.place(takes, vcpus)
            if host < 0:
                continue
            mode.change(host, takes, vcpus, 1)
            heappush(mode.leaving, (departure, number, host, vcpus, takes))
            if at == 1:
                self._count(host, takes, 1)
                if host == self.watched:
                    self.events.append((arrival, number, life))

    def _leave_until(self, now: float) -> None:
        for at, mode in enumerate(self.modes):
            leaving = mode.leaving
            while leaving and leaving[0][0] <= now:
                when, number, host, vcpus, takes = heappop(leaving)
                mode.change(host, takes, vcpus, -1)
                if at == 1:
                    self._count(host, takes, -1)
                    if host == self.watched:
                        self.events.append((when, number, None))

    def _count(self, host: int, takes: Takes, sign: int) -> None:
        totals = self.totals
        if not takes.td:
            totals[5, host] += sign * takes.memory
            return
        totals[0, host] += sign * takes.memory
        totals[1, host] += sign
        totals[2, host] += sign * takes.folios
        totals[3, host] += sign * takes.singles
        totals[4, host] += sign * takes.scattered
