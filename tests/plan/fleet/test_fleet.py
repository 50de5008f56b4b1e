"""A fleet against its own laws, against hosts that age page by page, and against one process."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings

from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.errors import InputError
from dpamt.plan.ageing.boot import boot_ageing
from dpamt.plan.ageing.host import AgeingHost
from dpamt.plan.fleet import TABLES
from dpamt.plan.fleet.cluster import Cluster
from dpamt.plan.fleet.generate import Made, generate_vms
from dpamt.plan.fleet.hosts import HostType, sizes_of
from dpamt.plan.fleet.read import read_vms
from dpamt.plan.fleet.results import Fleet, HostSaving, Moment, vm_kinds, write_parquet
from dpamt.plan.fleet.runner import run_jobs
from dpamt.plan.fleet.series import HostSeries
from dpamt.plan.fleet.simulate import AS_SAID, Settings, simulate_fleet, simulate_fleets
from dpamt.plan.fleet.spill import Life, lives, spill
from dpamt.plan.fleet.spread import build_td
from dpamt.plan.fleet.vms import SCHEMA
from dpamt.platform.size import machine_from_size

SMALL = HostType("small", machine_from_size("16GiB"), 70, max_tds=31)
SIZES = sizes_of(SMALL)


def fleet(**options: object) -> Fleet:
    vms = generate_vms(Made(70 * 14, 6, seed=2))
    return simulate_fleets(vms, [SMALL], Settings(sample_hours=3), shares=AS_SAID, **options)[0]  # type: ignore[arg-type]


def test_the_same_on_one_process_and_on_two() -> None:
    assert fleet(processes=1) == fleet(processes=2)


def test_the_same_on_ray() -> None:
    pytest.importorskip("ray")
    assert fleet(ray_address="local") == fleet(processes=1)


def test_a_ray_cluster_that_is_not_there() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"--ray nowhere.*expected a running Ray cluster"):
        list(run_jobs(abs, [1], ray_address="nowhere"))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 900), st.integers(1, 5), st.sampled_from((0.0, 0.3, 1.0))),
        min_size=1,
        max_size=4,
    )
)
def test_what_tds_take_is_what_they_take_page_by_page(shapes: list[tuple[int, int, float]]) -> None:
    """Exactly its pages; and its pairs between all packed and each page for itself."""
    host = AgeingHost(boot_ageing(SMALL.machine))
    random = np.random.Generator(np.random.PCG64(1))
    for ranges, vcpus, share in shapes:
        assert build_td(host, ranges, vcpus, share, random) is not None
    takes = [SIZES.takes(*shape) for shape in shapes]
    folios = sum(one.folios for one in takes)
    singles = sum(one.singles + one.scattered for one in takes)
    assert sum(host.counts) == folios * PAGES_PER_2M + singles
    large = sum(host.large)
    memory = sum(one.memory for one in takes)
    assert (large + folios) * SIZE_2M + sum(one.singles for one in takes) * 4096 == memory
    assert folios + singles / PAGES_PER_2M <= host.pairs <= folios + singles


def test_more_tds_fit_where_pamt_is_small() -> None:
    """One host, TDs that fill it to the byte: static PAMT leaves no room for the last one."""
    one = SIZES.takes(512, 1, 1.0)
    room = SIZES.room(True, 0.0)
    count = room // one.dynamic_bytes
    life: Life = (0.0, 9e9, 512, 1, 1.0, True)
    sizes = replace(SIZES, max_tds=count)
    result = Cluster(sizes, 1, 0.0).play([life] * (count + 1), 10.0, 1.0)
    assert result.placed[1] == count
    assert result.placed[0] == min(SIZES.room(False, 0.0) // one.static_bytes, count)
    assert result.turned_away == (count + 1 - result.placed[0], 1)


vm_lives = st.lists(
    st.tuples(
        st.floats(0, 5e4),
        st.floats(1, 5e4),
        st.integers(1, 3000),
        st.integers(1, 8),
        st.sampled_from((0.0, 0.5, 1.0)),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=50, deadline=None)
@given(vm_lives)
def test_samples_against_a_naive_count(made: list[tuple[float, float, int, int, float]]) -> None:
    """With room for all, what is there at a moment is what has come and not gone."""
    vms = sorted((start, start + stay, *rest, True) for start, stay, *rest in made)
    sizes = replace(SIZES, memory_bytes=1 << 50, max_tds=1000)
    end = vms[-1][0]
    result = Cluster(sizes, 3, 0.0).play(vms, end, 3600.0)  # type: ignore[arg-type]
    for at in range(len(result.tds)):
        now = at * 3600.0
        there = [vm for vm in vms if (vm[0] <= now or vm[0] < 0) and vm[1] > now]
        assert result.tds[at].sum() == len(there)
        takes = [sizes.takes(int(vm[2]), int(vm[3]), vm[4]) for vm in there]
        assert result.memory[at].sum() == sum(one.memory for one in takes)
        assert result.scattered[at].sum() == sum(one.scattered for one in takes)


def batches(
    made: list[tuple[float, float, int, int, float]], size: int
) -> Iterator[pa.RecordBatch]:
    rows = [(start, start + stay, *rest, -1, None) for start, stay, *rest in made]
    for at in range(0, len(rows), size):
        columns = zip(*rows[at : at + size], strict=True)
        yield pa.record_batch(
            [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )


@settings(max_examples=40, deadline=None)
@given(made=vm_lives, size=st.integers(1, 20), seed=st.integers(0, 9))
def test_spilled_vms_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[float, float, int, int, float]],
    size: int,
    seed: int,
) -> None:
    """Whatever the order of the file; each VM in one cluster."""
    folder = tmp_path_factory.mktemp("spill")
    spilled = spill(batches(made, size), [(0, 3), (0, 2)], folder, seed)
    parts = [list(lives(path)) for path in spilled.paths]
    for part in parts:
        assert [vm[0] for vm in part] == sorted(vm[0] for vm in part)
    expected = sorted((start, start + stay, *rest, True) for start, stay, *rest in made)
    assert sorted(vm for part in parts for vm in part) == expected
    assert [list(lives(path.read_bytes())) for path in spilled.paths] == parts
    assert spilled.vms == len(made)


def test_memory_does_not_grow_with_the_batches_that_overlap(tmp_path: Path) -> None:
    """Rows in any order: all batches are open at once, and no more rows of them than of a few."""
    random = np.random.Generator(np.random.PCG64(1))
    peaks = []
    for count in (200, 1000):
        made = [
            (float(start), 60.0, 512, 2, 0.5) for start in random.integers(0, 9999, count * 500)
        ]
        folder = tmp_path / str(count)
        folder.mkdir()
        (path,) = spill(batches(made, 400), [(0, 1)], folder, 1).paths
        tracemalloc.start()
        stream = lives(path)
        assert [next(stream)[0] for _ in range(9)] == sorted(vm[0] for vm in made)[:9]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.6 * peaks[0]


def test_a_fleet_sums_up_its_hosts(tmp_path: Path) -> None:
    series = HostSeries(tmp_path / "series.arrow")
    result = fleet(processes=1, series=series)
    series.close()
    assert len(result.hosts) == 70
    assert result.mean_saved == pytest.approx(sum(host.mean_saved for host in result.hosts))
    assert result.mean_saved == pytest.approx(np.mean([one.saved for one in result.moments]))
    assert result.least_saved <= result.mean_saved <= result.peak_saved < result.static_bytes
    for host in result.hosts:
        assert host.mean_saved_low <= host.mean_saved <= host.mean_saved_high
        assert host.most_saved <= host.static_bytes - host.idle_bytes
    spread = result.spreads["small"]
    assert 1 / 512 <= spread.regions_per_page <= 1
    assert result.placed_dynamic + result.turned_away_dynamic == result.vms
    assert result.newly_fitting_tds == result.turned_away_static - result.turned_away_dynamic
    kinds: tuple[tuple[HostSaving | Moment, ...], ...] = (result.hosts, result.moments)
    folder = tmp_path / "out"
    paths = write_parquet(result, series, folder, {"seed": "2"})
    for path, rows in zip(paths[:2], kinds, strict=True):
        assert pa.parquet.read_table(path).to_pylist() == [asdict(row) for row in rows]
    assert sorted(path.name for path in folder.iterdir()) == sorted(TABLES)
    table = pa.parquet.read_table(paths[2])
    assert table.num_rows == 70 * len(result.moments)
    assert table.schema.metadata[b"seed"] == b"2"
    assert table.schema.field("saved").metadata == {b"unit": b"bytes"}
    saved = table.column("saved").to_numpy().reshape(70, -1)
    for host in result.hosts:
        assert saved[host.host].mean() == pytest.approx(host.mean_saved)
        assert saved[host.host].min() == pytest.approx(host.least_saved)
    for name in ("saved", "tds", "td_bytes", "dynamic_bytes"):
        column = table.column(name).to_numpy().reshape(70, -1).sum(axis=0)
        assert column == pytest.approx([getattr(one, name) for one in result.moments])


def test_a_sparse_map_loses() -> None:
    """Section G: a 2 GiB host whose max_pfn is at 4 TiB pays for refcounts, and loses."""
    machine = replace(machine_from_size("2GiB"), max_pfn=4 << 28)
    result = simulate_fleet(
        batches([(0.0, 7200.0, 256, 1, 0.9)], 1), [HostType("sparse", machine, 1)]
    )
    assert result.hosts_losing == result.hosts_losing_on_average == 1
    assert result.peak_saved < 0


def test_a_csv_through_a_fleet(tmp_path: Path) -> None:
    path = tmp_path / "vms.csv"
    path.write_text("arrival,departure,memory_gib,vcpus\n0,7200,4,2\n3600,,2,1\n10800,,1,1\n")
    result = simulate_fleet(read_vms(path), [replace(SMALL, count=1)])
    assert [moment.tds for moment in result.moments] == [1, 2, 1, 2]
    assert [moment.td_bytes >> 30 for moment in result.moments] == [4, 6, 2, 3]


def test_nothing_is_written_where_nothing_can_be(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("")
    with pytest.raises(InputError, match="expected a folder to write to"):
        write_parquet(fleet(processes=1), HostSeries(tmp_path / "series"), target)


@pytest.mark.parametrize(
    ("hosts", "said"),
    [([], "at least one type"), ([SMALL, SMALL], "each name once")],
)
def test_fleets_that_cannot_be(hosts: list[HostType], said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate_fleet([], hosts)


def test_settings_that_cannot_be() -> None:
    for name, value in (("reserve", -1), ("step_hours", 0), ("sample_hours", 0), ("seed", -1)):
        with pytest.raises(InputError, match=f"fleet: {name} {value}: expected"):
            Settings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="hosts of type small: 0; expected at least 1"):
        replace(SMALL, count=0)
    with pytest.raises(InputError, match="no VM; expected at least one"):
        simulate_fleet([], [SMALL])


@given(vm_lives, st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_kinds_of_vms_against_a_naive_count(
    made: list[tuple[float, float, int, int, float]], size: int
) -> None:
    with TemporaryDirectory() as folder:
        spilled = spill(batches(made, size), [(0, 1)], Path(folder), 0)
    for (ranges, vcpus), (number, share) in spilled.kinds.items():
        alike = [vm for vm in made if (vm[2], vm[3]) == (ranges, vcpus)]
        assert number == len(alike)
        assert share == pytest.approx(sum(vm[4] for vm in alike) / len(alike))
    assert sum(number for number, _ in spilled.kinds.values()) == len(made)
    first = vm_kinds(spilled.kinds, SIZES, 0.0)[0]
    assert first.pair_bytes >= first.memory_bytes // SIZE_2M * 8192


def test_normal_vms_take_memory_and_vcpus_and_no_pamt() -> None:
    """Two hosts, one with room for the normal VM only; KeyIDs are for TDs."""
    sizes = replace(SIZES, max_tds=1, vcpus=4)
    vms: list[Life] = [
        (0.0, 9e9, 1024, 1, 0.0, False),
        (1.0, 9e9, 1024, 1, 0.0, False),
        (2.0, 9e9, 1024, 1, 0.0, True),
        (3.0, 9e9, 1024, 1, 0.0, True),
        (4.0, 9e9, 1024, 2, 0.0, False),
    ]
    result = Cluster(sizes, 1, 0.0).play(vms, 10.0, 1.0)
    assert result.placed == (3, 3)
    assert result.turned_away == (2, 2)
    assert (result.memory[-1, 0], result.normal[-1, 0], result.tds[-1, 0]) == (2 << 30, 4 << 30, 1)
    alone = Cluster(sizes, 1, 0.0).play([vms[2]], 10.0, 1.0)
    assert result.singles[-1, 0] == alone.singles[-1, 0]
    assert result.scattered[-1, 0] == alone.scattered[-1, 0]


def test_a_share_of_the_vms_are_tds() -> None:
    vms = list(generate_vms(Made(70 * 14, 6, seed=2)))
    half = simulate_fleet(iter(vms), [SMALL], Settings(sample_hours=2, td_share=0.5), 1)
    assert half.tds / half.vms == pytest.approx(0.5, abs=0.05)
    whole = fleet(processes=1)
    assert whole.tds == whole.vms
    moment, before = half.moments[0], whole.moments[0]
    assert moment.td_bytes + moment.normal_bytes == pytest.approx(before.td_bytes, rel=0.02)
    assert half.mean_saved > whole.mean_saved
    none = Settings(td_share=0.0)
    with pytest.raises(InputError, match="is a TD; expected at least one"):
        simulate_fleet(iter(vms), [SMALL], none, 1)


def test_hosts_that_stay_on_static_pamt() -> None:
    vms = list(generate_vms(Made(70 * 14, 6, seed=2)))
    static = replace(SMALL, name="old", count=30, static=True)
    mixed = simulate_fleet(iter(vms), [replace(SMALL, count=40), static], Settings(), 1)
    assert mixed.static_hosts == 30
    old = [host for host in mixed.hosts if host.host_type == "old"]
    assert {host.mean_saved for host in old} == {0.0}
    assert sum(host.mean_tds for host in old) > 0
    assert mixed.static_bytes == 70 * SIZES.static_bytes
    with pytest.raises(InputError, match="every host stays on static PAMT"):
        simulate_fleet(iter(vms), [static], Settings(), 1)
