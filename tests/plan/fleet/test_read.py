"""Reading VM lives: both sets of columns, and every way to be wrong."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dpamt.errors import InputError
from dpamt.plan.fleet.forms import AZURE_NAMES
from dpamt.plan.fleet.generate import AZURE_2017, PROFILES, Made, generate_vms
from dpamt.plan.fleet.read import BLOCK_BYTES, read_vms
from dpamt.plan.fleet.vms import SCHEMA

HEAD = "arrival,departure,memory_gib,vcpus,host_type\n"


def read(tmp_path: Path, text: str, **options: object) -> list[dict[str, object]]:
    path = tmp_path / "vms.csv"
    path.write_text(text)
    rows: list[dict[str, object]] = []
    for batch in read_vms(path, **options):  # type: ignore[arg-type]
        assert batch.schema == SCHEMA
        rows += batch.to_pylist()
    return rows


def test_own_columns(tmp_path: Path) -> None:
    rows = read(tmp_path, HEAD + "0,10.5,4,2,b\n3, ,0.001,1,\n", host_types=("a", "b"))
    assert rows == [
        {
            "arrival": 0,
            "departure": 10.5,
            "ranges": 2048,
            "vcpus": 2,
            "share_2m": 0,
            "host_type": 1,
            "td": None,
        },
        {
            "arrival": 3,
            "departure": np.inf,
            "ranges": 1,
            "vcpus": 1,
            "share_2m": 0,
            "host_type": -1,
            "td": None,
        },
    ]


@pytest.mark.parametrize("head", [False, True])
def test_the_vmtable_of_the_public_azure_traces(tmp_path: Path, head: bool) -> None:
    """Column names as the trace's own notebooks give them; the file comes without any."""
    names = ",".join(AZURE_NAMES[:9]) + ",vmcorecountbucket,vmmemorybucket\n"
    text = "xQ,Sy,Ze,0,2591700,91.7,0.72,20.7,Delay-insensitive,2,4\n"
    text += "aB,Cd,Ef,300,600,1.0,0.5,0.9,Interactive,>24,>64\n"
    rows = read(tmp_path, (names if head else "") + text, share_2m=0.5)
    assert [row["arrival"] for row in rows] == [0, 300]
    assert [row["departure"] for row in rows] == [2591700, 600]
    assert [row["vcpus"] for row in rows] == [2, 32]
    assert [row["ranges"] for row in rows] == [2048, 65536]
    assert [row["share_2m"] for row in rows] == [0.5, 0.5]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "vms.parquet"
    table = {"arrival": [1, 2], "departure": [5.0, None], "memory_gib": [1.5, 2], "vcpus": [1, 2]}
    pa.parquet.write_table(pa.table(table), path)
    (batch,) = read_vms(path)
    assert batch.column(1).to_pylist() == [5.0, np.inf]
    assert batch.column(2).to_pylist() == [768, 1024]
    table["arrival"] = [1, 7]
    table["departure"] = [5.0, 6.0]
    pa.parquet.write_table(pa.table(table), path)
    with pytest.raises(InputError, match=r"vms.parquet, row 2, departure: 6; expected a time not"):
        list(read_vms(path))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_with_timestamps_and_decimals(tmp_path: Path, unit: str) -> None:
    """What pandas and Spark write: timestamps of any unit, with a zone or without, and decimals."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    path = tmp_path / "vms.parquet"
    begin = 1_700_000_000
    for zone in (None, "UTC"):
        arrivals = [begin * per_second, (begin + 90) * per_second]
        departures = [(begin + 7200) * per_second, None]
        kind = pa.timestamp(unit, zone)
        columns = {
            "arrival": pa.array(arrivals, kind),
            "departure": pa.array(departures, kind),
            "memory_gib": pa.array([Decimal("4.50"), Decimal("0.25")], pa.decimal128(9, 2)),
            "vcpus": pa.array([Decimal(2), Decimal(1)], pa.decimal128(4, 0)),
        }
        pa.parquet.write_table(pa.table(columns), path)
        (batch,) = read_vms(path)
        assert batch.column(0).to_pylist() == [begin, begin + 90]
        assert batch.column(1).to_pylist() == [begin + 7200, np.inf]
        assert batch.column(2).to_pylist() == [2304, 128]
        assert batch.column(3).to_pylist() == [2, 1]


def test_parquet_with_durations(tmp_path: Path) -> None:
    path = tmp_path / "vms.parquet"
    columns = {
        "arrival": pa.array([0, 500], pa.duration("ms")),
        "departure": pa.array([1000, 2500], pa.duration("ms")),
        "memory_gib": [1, 1],
        "vcpus": [1, 1],
    }
    pa.parquet.write_table(pa.table(columns), path)
    (batch,) = read_vms(path)
    assert batch.column(0).to_pylist() == [0, 0.5]
    assert batch.column(1).to_pylist() == [1, 2.5]


def test_which_vms_are_tds(tmp_path: Path) -> None:
    head = "arrival,departure,memory_gib,vcpus,td\n"
    rows = read(tmp_path, head + "0,1,1,1,1\n0,1,1,1,no\n0,1,1,1,\n0,1,1,1,True\n")
    assert [row["td"] for row in rows] == [True, False, None, True]
    with pytest.raises(InputError, match=r"vms.csv, line 3, td: 'maybe'; expected 1, 0 or nothing"):
        read(tmp_path, head + "0,1,1,1,1\n0,1,1,1,maybe\n")


def test_repeated_identifiers_are_told(tmp_path: Path) -> None:
    notes: list[str] = []
    text = "vmid,arrival,departure,memory_gib,vcpus\na,0,1,1,1\nb,0,1,1,1\n,0,1,1,1\n,0,1,1,1\n"
    rows = read(tmp_path, text + "b,2,3,1,1\na,4,5,1,1\nb,6,7,1,1\n", notes=notes)
    assert len(rows) == 7
    assert notes == [
        "rows that repeat the identifier of an earlier row: 3 (first: line 6, as line 3); each is "
        "counted as a VM of its own"
    ]
    notes.clear()
    read(tmp_path, text, notes=notes)
    assert notes == []


GOOD = "0,1,4,2,\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + GOOD + "0,1,-4,2,\n", "line 3, memory_gib: -4; expected GiB above 0"),
        (HEAD + "0,1,0,2,\n", "line 2, memory_gib: 0; expected GiB above 0"),
        (HEAD + GOOD * 5 + "9,8,4,2,\n", "line 7, departure: 8; expected a time not before"),
        (HEAD + "-1,8,4,2,\n", "line 2, arrival: -1; expected seconds from 0"),
        (HEAD + ",8,4,2,\n", "line 2, arrival: empty; expected seconds from 0"),
        (HEAD + "nan,8,4,2,\n", "line 2, arrival: "),
        (HEAD + "inf,,4,2,\n", "line 2, arrival: inf; expected"),
        (HEAD + "0,1e12,4,1,\n", "line 2, departure: 1e.12; expected seconds up to 1e.10"),
        (HEAD + "0,8,4,1.5,\n", "line 2, vcpus: 1.5; expected a whole number"),
        (HEAD + "0,8,4,0,\n", "line 2, vcpus: 0; expected a whole number"),
        (HEAD + "0,8,4e9,2,\n", "line 2, memory_gib: 4e.09; expected GiB"),
        (HEAD + GOOD + "0,8,many,2,\n", "line 3, memory_gib: 'many'; expected a number"),
        (HEAD + GOOD + "0,8,4\n", "line 3: 3 fields; expected 5"),
        (HEAD + GOOD + "\n" + GOOD, "line 3, arrival: empty; expected"),
        (HEAD + "0,8,4,2,c\n", "line 2, host_type: 'c'; expected one of a, b"),
        ("arrival,memory_gib,vcpus\n0,1,1\n", "line 1: no column departure; expected arrival, dep"),
        ("vmcreated,vmdeleted,vmmemory\n", "line 1: no column vmcorecount; expected"),
        ("arrival,arrival,departure,memory_gib,vcpus\n", "line 1: a column twice"),
        ("", "line 1: empty; expected"),
        ("PAR1 but not quite", "expected CSV or Parquet"),
    ],
)
def test_files_that_lie(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as told:
        read(tmp_path, text, host_types=("a", "b"))
    assert "\n" not in str(told.value)
    assert "vms.csv" in str(told.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a CSV or Parquet file"):
        list(read_vms(tmp_path / "none.csv"))


def test_lines_are_counted_across_blocks(tmp_path: Path) -> None:
    line = "1,2,4,2,\n"
    lines = 3 * BLOCK_BYTES // len(line)
    path = tmp_path / "vms.csv"
    path.write_text(HEAD + line * lines + "1,2,-1,2,\n" + line)
    with pytest.raises(InputError, match=f"line {lines + 2}, memory_gib: -1"):
        list(read_vms(path))


def test_a_stream_is_bounded_by_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "vms.csv"
    path.write_text(HEAD + "1,2,4,2,\n" * 3_000_000)
    before = pa.total_allocated_bytes()
    rows = most = 0
    for batch in read_vms(path):
        rows += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == 3_000_000
    assert most < 20 * BLOCK_BYTES


def vms(made: Made) -> Iterator[tuple[float, float, int, int]]:
    for batch in generate_vms(made):
        columns = (batch.column(at).to_pylist() for at in range(4))
        yield from zip(*columns, strict=True)


def test_generated_vms_keep_the_fleet_as_full_as_asked() -> None:
    """Little's law, from the first moment to the last."""
    made = Made(200_000, 96, seed=5, daily_swing=0.0)
    rows = np.array(list(vms(made)))
    for hour in (0.01, 24, 48, 95):
        alive = (rows[:, 0] <= hour * 3600) & (rows[:, 1] > hour * 3600)
        assert rows[alive, 2].sum() / 512 == pytest.approx(200_000, rel=0.12)
    came = rows[rows[:, 0] > 0]
    long = (came[:, 1] - came[:, 0] > 72 * 3600).mean()
    assert long == pytest.approx(0.05 / 2, rel=0.2)
    assert (np.diff(came[:, 0]) >= 0).all()


def test_the_same_seed_the_same_vms() -> None:
    assert list(vms(Made(1000, 5, 3))) == list(vms(Made(1000, 5, 3)))
    assert list(vms(Made(1000, 5, 3))) != list(vms(Made(1000, 5, 4)))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ((-1.0, 5.0), "memory_gib -1.0: expected GiB above 0"),
        ((1.0, 0.0), "hours 0.0: expected hours above 0"),
        ((1.0, 1.0, 0, 1.5), "long_share 1.5: expected a share"),
        ((1.0, 1.0, 0, 0.1, 1.0), "daily_swing 1.0: expected a share"),
    ],
)
def test_wishes_that_cannot_be(made: tuple[float, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Made(*made)  # type: ignore[arg-type]


def test_the_profile_of_azure_has_the_published_totals() -> None:
    """VMs made up for 30 days, counted as the trace counts them: what lies within."""
    azure = PROFILES["azure"]
    assert sum(azure.size_shares) == pytest.approx(1)
    assert azure.within(720) == pytest.approx(51.8, abs=0.1)
    assert azure.mean_vcpus == pytest.approx(2.28, abs=0.01)
    rows = np.array(list(vms(Made(100_000, 720, seed=3, profile=azure))))
    hours = (np.minimum(rows[:, 1], 720 * 3600) - rows[:, 0]) / 3600
    assert hours.mean() == pytest.approx(AZURE_2017.mean_life_hours, rel=0.03)
    cores = (hours * rows[:, 3]).sum() / hours.sum()
    assert cores == pytest.approx(AZURE_2017.mean_vcpus, rel=0.03)
    assert AZURE_2017.mean_life_hours == pytest.approx(51.8, abs=0.05)
    assert AZURE_2017.mean_vcpus == pytest.approx(2.28, abs=0.005)
