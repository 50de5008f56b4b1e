"""Weeks on a host: what must hold whatever happens, and what is known to come of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from dpamt.abi.pages import SIZE_1G, SIZE_2M
from dpamt.errors import InputError
from dpamt.plan.ageing.boot import boot_ageing
from dpamt.plan.ageing.host import AgeingHost
from dpamt.plan.ageing.pages import ControlPlacement, OutOfMemory, PairPlacement
from dpamt.plan.ageing.simulate import Ageing, simulate
from dpamt.plan.ageing.tornado import DRIVERS, tornado
from dpamt.plan.ageing.weeks import REGION_LARGE, REGION_PAIR, Weeks
from dpamt.plan.ageing.workload import TdShape, Workload
from dpamt.plan.confidence import quantile
from dpamt.plan.mix import TdMix
from dpamt.plan.plan import plan_host
from dpamt.platform.read_machine import packaged_host
from dpamt.platform.size import machine_from_size


@dataclass(frozen=True)
class Shape:
    count: int = 1
    memory: int = SIZE_1G
    vcpus: int = 2
    share_2m: float = 0.9


MACHINE = machine_from_size("16GiB")
BUSY = Workload(
    [Shape(), Shape(2, SIZE_1G // 2, 1, 0.0)],
    mean_life_hours=8,
    converted_per_hour=0.02,
    ballooned_per_hour=0.05,
)


def run(workload: Workload = BUSY, **options: object) -> Ageing:
    return simulate(MACHINE, workload, 0.15, **({"processes": 1} | options))  # type: ignore[arg-type]


def test_same_seeds_same_result_on_any_number_of_processes() -> None:
    assert run(seeds=(1, 2), processes=2) == run(seeds=(1, 2))
    assert run(seeds=(1,)) != run(seeds=(2,))


@pytest.mark.parametrize("pairs", ["single", "order-1", "pool"])
@pytest.mark.parametrize("control", ["single", "pool"])
@pytest.mark.parametrize("occupancy", [0.7, 1.0])
def test_all_comes_back_when_the_last_td_goes(
    pairs: PairPlacement, control: ControlPlacement, occupancy: float
) -> None:
    """At an occupancy of 1 the host runs out of memory again and again."""
    workload = replace(BUSY, pairs=pairs, control=control, occupancy=occupancy)
    host = AgeingHost(boot_ageing(MACHINE, 3, 0.2), workload.pairs, workload.control)
    before = host.allocator.snapshot()
    weeks = Weeks(host, workload, 3)
    for _ in range(12):
        sample = weeks.step()
        assert sample.packed <= sample.pairs == sum(1 for count in host.counts if count)
        assert sample.pinned_by_one <= sample.pairs
    assert occupancy < 1 or weeks.refused
    weeks.end()
    assert host.pairs == 0
    assert host.allocator.snapshot() == before


class Counted(Weeks):
    """Weeks whose arrivals are counted where the kind of a TD is drawn."""

    drawn = 0

    def _pick(self) -> TdShape:
        self.drawn += 1
        return super()._pick()


@pytest.mark.parametrize(("most", "occupancy"), [(None, 0.25), (4, 0.5)])
def test_every_td_that_comes_is_there_has_left_or_was_refused(
    most: int | None, occupancy: float
) -> None:
    """The door and the host are counted apart from the weeks: calls, and those that failed.

    Now and then a call finds no memory.
    """
    small = [Shape(1, SIZE_1G // 4), Shape(2, SIZE_1G // 8, 1, 0.0)]
    workload = replace(BUSY, tds=small, occupancy=occupancy, mean_life_hours=2, max_tds=most)
    host = AgeingHost(boot_ageing(machine_from_size("4GiB"), 3, 0.15), "single", "single")
    every = {"create": 17, "fault": 97, "punch": 61}
    calls = dict.fromkeys(every, 0)
    failed: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        method = getattr(host, name)

        def call(*arguments: object) -> object:
            calls[name] += 1
            if calls[name] % every[name] == 0:
                failed.append(name)
                raise OutOfMemory(name)
            return method(*arguments)

        return call

    for name in calls:
        setattr(host, name, counted(name))
    weeks = Counted(host, workload, 7)
    assert weeks.refused == len(failed)  # whom there was no room for at the beginning is not
    weeks.drawn, before = 0, calls["create"]
    for _ in range(16):
        weeks.step()
        turned_away = weeks.drawn - (calls["create"] - before)
        assert weeks.refused == turned_away + len(failed)
        assert weeks.without_keyid == (turned_away if most else 0)
    assert turned_away > 3
    assert {*failed} == {*every}


def test_a_pool_for_control_pages_pins_fewer_regions() -> None:
    workload = replace(BUSY, tds=[Shape(share_2m=1.0)])
    scattered = run(workload, seeds=(1, 2, 3))
    together = run(replace(workload, control="pool"), seeds=(1, 2, 3))
    assert together.pairs.mean[-1] < scattered.pairs.mean[-1]
    assert together.packed_pairs.mean[-1] <= together.pairs.mean[-1]


def test_more_at_2m_takes_fewer_pairs() -> None:
    shares = [0.0, 0.5, 1.0]
    pairs = [
        run(replace(BUSY, tds=[Shape(share_2m=share)]), seeds=(1, 2)).pairs.mean[-1]
        for share in shares
    ]
    assert pairs == sorted(pairs, reverse=True)
    assert len(set(pairs)) == len(pairs)


def test_regions_agree_with_the_last_sample() -> None:
    ageing = run(seeds=(1,))
    assert ageing.regions.count(REGION_PAIR) == ageing.pairs.mean[-1]
    assert len(ageing.regions) == -(-MACHINE.max_pfn // 512)
    large = ageing.regions.count(REGION_LARGE) * SIZE_2M
    assert 0 < large < ageing.td_bytes.mean[-1]


def test_dynamic_bytes_are_idle_and_pairs() -> None:
    ageing = run(seeds=(1, 2, 3))
    for at in range(len(ageing.times_hours)):
        expected = ageing.idle_bytes + 8192 * ageing.pairs.mean[at]
        assert ageing.dynamic_bytes.mean[at] == pytest.approx(expected)
        assert (
            ageing.dynamic_bytes.low[at]
            <= ageing.dynamic_bytes.mean[at]
            <= ageing.dynamic_bytes.high[at]
        )


@pytest.mark.parametrize("freedom", range(1, 31))
def test_t_quantiles(freedom: int) -> None:
    """Against the density of Student's t, integrated by Simpson's rule from 0."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    end, steps = quantile(freedom), 4000
    step = end / steps
    total = 0.0
    for at in range(steps + 1):
        weight = 1 if at in (0, steps) else 4 if at % 2 else 2
        total += weight * scale * (1 + (at * step) ** 2 / freedom) ** (-(freedom + 1) / 2)
    assert total * step / 3 == pytest.approx(0.475, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"occupancy": -0.1}, "occupancy -0.1: expected a share from 0 to 1"),
        ({"occupancy": 0.0}, "occupancy 0.0: expected a share above 0"),
        ({"mean_life_hours": -3.0}, "mean_life_hours -3.0: expected hours above 0"),
        ({"conversion_pages": 0}, "conversion_pages 0: expected 1 to 512 pages"),
        ({"tds": []}, "no TDs"),
        ({"tds": [Shape(memory=-SIZE_2M)]}, "expected whole 2 MiB"),
        ({"tds": [Shape(share_2m=1.5)]}, "share at 2M 1.5: expected 0 to 1"),
    ],
)
def test_workloads_that_cannot_be(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(BUSY, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weeks", "seeds", "said"),
    [
        (-1.0, (1,), "for -1 weeks"),
        (math.nan, (1,), "for nan weeks"),
        (math.inf, (1,), "for inf weeks"),
        (1.0, (), "one seed"),
        (1.0, (1, 1), "each once"),
    ],
)
def test_runs_that_cannot_be(weeks: float, seeds: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate(MACHINE, BUSY, weeks, seeds)


def test_keyids_bound_the_tds_that_live_at_once() -> None:
    """A host of 31 guest KeyIDs with room for more TDs never runs more than 31."""
    many = Workload([Shape(1, 64 * SIZE_2M, 1, 0.9)], mean_life_hours=8)
    ageing = run(many, seeds=(1, 2))
    assert ageing.most_tds == 31
    assert max(ageing.tds.mean) == 31.0
    assert max(ageing.tds.high) <= 31
    assert ageing.without_keyid.mean[0] > 0
    few = run(replace(many, max_tds=5), seeds=(1,))
    assert max(few.tds.mean) == 5


def test_kernel_pages_in_page_blocks_spoil_fewer_regions() -> None:
    """As many pages, but together: fewer regions are held by a single page of a TD."""
    scattered, grouped = (
        run(replace(BUSY, fragmentation=0.2, grouping=grouping), seeds=(1, 2, 3))
        for grouping in ("scattered", "page-block")
    )
    assert grouped.pairs.mean[-1] < scattered.pairs.mean[-1]
    assert grouped.pinned_by_one.mean[-1] <= scattered.pinned_by_one.mean[-1]


def test_a_tornado_sorts_drivers_by_what_they_move() -> None:
    mixes = [TdMix(1, SIZE_1G // 2, 2, 0.0, False)]
    told = tornado(machine_from_size("2GiB"), mixes, 0.9, {"fragmentation": 0.3}, 2 / 168, (1,), 1)
    widths = [bar.width for bar in told.bars]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0
    by_name = {bar.driver: bar for bar in told.bars}
    assert len(by_name) == len(DRIVERS) + 1
    assert by_name["--grouping"].saved_low == told.saved == by_name["--pair-pages"].saved_low
    large = by_name["2M pages (not merged)"]
    assert (large.saved_low, large.high) == (told.saved, "90 %")
    assert large.saved_high > told.saved


def test_a_map_that_only_a_patched_kernel_copes_with_ages_on_that_one() -> None:
    machine = packaged_host("reserved-areas")
    plan = plan_host(machine)
    ageing = simulate(
        machine, Workload([Shape(1, 64 << 30, 2, 0.9)], occupancy=0.3), 1 / 168, (1,), processes=1
    )
    assert ageing.static_bytes == plan.host.static.total
    assert ageing.idle_bytes == plan.host.dynamic.total
