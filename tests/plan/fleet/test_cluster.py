"""Placing VMs on a small cluster, against hosts kept as plain numbers and searched one by one."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

from dpamt.plan.fleet.cluster import Cluster
from dpamt.plan.fleet.hosts import HostSizes, Takes
from dpamt.plan.fleet.spill import Life

MIB, REGION = 1 << 20, 2 << 20


def sizes_of(memory: int, vcpus: int, tds: int, static: bool) -> HostSizes:
    pamt, idle = 5 * MIB, (5 * MIB if static else MIB)
    return HostSizes("small", memory, pamt, idle, 10, 6, vcpus, tds, memory // REGION, static)


@dataclass
class ByHand:
    """One mode of a cluster: what each host has, and who is on it."""

    room: int
    sizes: HostSizes
    hosts: int
    dynamic: bool
    there: list[tuple[float, int, int, Life, Takes]] = field(default_factory=list)
    """Departure, number, host, life, what it takes."""
    placed: int = 0
    turned_away: int = 0
    watched: list[tuple[float, int, Life | None]] = field(default_factory=list)

    def need(self, takes: Takes) -> int:
        return takes.dynamic_bytes if self.dynamic else takes.static_bytes

    def free(self, host: int) -> tuple[int, int, int]:
        """Bytes, VCPUs and KeyIDs left, counted over all that are there."""
        mine = [vm for vm in self.there if vm[2] == host]
        return (
            self.room - sum(self.need(vm[4]) for vm in mine),
            self.sizes.vcpus - sum(vm[3][3] for vm in mine),
            self.sizes.max_tds - sum(vm[3][5] for vm in mine),
        )

    def arrive(self, number: int, life: Life, takes: Takes) -> int | None:
        wanted = (self.need(takes), life[3], int(life[5]))
        best = None
        for host in range(self.hosts):
            free = self.free(host)
            fits = all(has >= wants for has, wants in zip(free, wanted, strict=True))
            if fits and (best is None or free[0] < self.free(best)[0]):
                best = host
        if best is None:
            self.turned_away += 1
            return None
        self.placed += 1
        self.there.append((life[1], number, best, life, takes))
        return best

    def leave(self, now: float) -> list[tuple[float, int, int]]:
        gone = sorted((vm[0], vm[1], vm[2]) for vm in self.there if vm[0] <= now)
        self.there = [vm for vm in self.there if vm[0] > now]
        return gone


LIVES = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(0, 30) | st.just(10**6),
        st.integers(1, 12),
        st.integers(1, 4),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(
    LIVES,
    st.integers(1, 4),
    st.integers(30, 70),
    st.integers(3, 9),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.25]),
    st.sampled_from([(40.0, 1.0, 0.0), (25.0, 7.0, 0.0), (30.0, 2.5, 3.0), (20.0, 50.0, 0.0)]),
    st.integers(-1, 3),
    st.none() | st.integers(-1, 1),
)
def test_a_small_cluster_by_hand(
    drawn: list[tuple[int, int, int, int, float, bool]],
    hosts: int,
    memory: int,
    vcpus: int,
    tds: int,
    static: bool,
    reserve: float,
    span: tuple[float, float, float],
    watched: int,
    tight: int | None,
) -> None:
    end, step, begin = span
    lives: list[Life] = sorted(
        (begin + at, begin + at + stay, ranges, cpus, share, td)
        for at, stay, ranges, cpus, share, td in drawn
    )
    sizes = sizes_of(memory * MIB, vcpus, tds, static)
    if tight is not None:  # to the byte what the first VMs take, or one more, or one less
        needs = [sizes.takes(*life[2:5]).dynamic_bytes for life in lives[: memory % 5]]
        room = MIB + sum(needs) + tight
        sizes = replace(sizes, memory_bytes=max(room, 6 * MIB), vcpus=99, max_tds=99)
        reserve = 0.0
    modes = []
    for dynamic in (False, not static):
        pamt = MIB if dynamic else 5 * MIB
        modes.append(ByHand(int(sizes.memory_bytes * (1 - reserve)) - pamt, sizes, hosts, dynamic))
    second = modes[1]

    def leave(now: float) -> None:
        modes[0].leave(now)
        for when, number, host in second.leave(now):
            if host == watched:
                second.watched.append((when, number, None))

    moments = [begin + index * step for index in range(10_000) if begin + index * step <= end]
    samples = []
    todo = [*enumerate(lives)]
    for moment in moments:
        while todo and todo[0][1][0] <= moment:
            number, life = todo.pop(0)
            arrive(sizes, modes, number, life, leave, watched)
        leave(moment)
        samples.append(totals(second, hosts))
    for number, life in todo:
        if life[0] <= end:
            arrive(sizes, modes, number, life, leave, watched)

    result = Cluster(sizes, hosts, reserve, watched).play(lives, end, step, begin)
    assert result.placed == (modes[0].placed, second.placed)
    assert result.turned_away == (modes[0].turned_away, second.turned_away)
    made = (
        result.memory,
        result.tds,
        result.folios,
        result.singles,
        result.scattered,
        result.normal,
    )
    assert [np.asarray(one).shape for one in made] == [(len(moments), hosts)] * 6
    assert [one.dtype for one in made] == [np.int64, np.int32, *[np.int64] * 4]
    for at, wanted in enumerate(samples):
        assert [one[at].tolist() for one in made] == wanted
    assert result.events == second.watched


def arrive(
    sizes: HostSizes,
    modes: list[ByHand],
    number: int,
    life: Life,
    leave: "object",
    watched: int,
) -> None:
    assert callable(leave)
    leave(life[0])
    _, _, ranges, vcpus, share, td = life
    takes = sizes.takes(ranges, vcpus, share) if td else Takes(ranges * REGION, 0, 0, 0, td=False)
    for mode in modes:
        host = mode.arrive(number, life, takes)
        if mode is modes[1] and host is not None and host == watched:
            mode.watched.append((life[0], number, life))


def totals(mode: ByHand, hosts: int) -> list[list[int]]:
    """Memory of TDs, TDs, folios, singles, scattered, memory of others: of each host."""
    rows = []
    for host in range(hosts):
        tds = [vm[4] for vm in mode.there if vm[2] == host and vm[3][5]]
        others = [vm[4] for vm in mode.there if vm[2] == host and not vm[3][5]]
        rows.append(
            [
                sum(one.memory for one in tds),
                len(tds),
                sum(one.folios for one in tds),
                sum(one.singles for one in tds),
                sum(one.scattered for one in tds),
                sum(one.memory for one in others),
            ]
        )
    return [list(column) for column in zip(*rows, strict=True)]
