"""Traces of events against a naive replay, and the public forms as they are distributed."""

import gzip
import random
import re
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dpamt.errors import InputError
from dpamt.plan.fleet.read import read_vms

GIB = 512
"""2M ranges of a GiB."""


def read(path: Path, **options: Any) -> list[tuple[float, float, int, int]]:
    rows: list[tuple[float, float, int, int]] = []
    for batch in read_vms(path, **options):
        columns = (batch.column(at).to_pylist() for at in range(4))
        rows += zip(*columns, strict=True)
    return rows


def written(tmp_path: Path, text: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


HUAWEI = """\
vmid,cpu,memory,time,type
1,2,4,100,0
2,1,2,130,0
1,2,4,500,1
1,4,8,600,0
9,1,1,700,1
2,1,2,800,0
1,4,8,900,1
1,4,8,950,1
"""


@pytest.mark.parametrize("named", [True, False])
def test_huawei(tmp_path: Path, named: bool) -> None:
    """Deleted and created again; never deleted; there before the trace; a row twice."""
    text = HUAWEI if named else HUAWEI.split("\n", 1)[1]
    notes: list[str] = []
    rows = read(written(tmp_path, text), notes=notes)
    assert rows == [
        (100, 500, 4 * GIB, 2),
        (100, 700, 1 * GIB, 1),
        (130, np.inf, 2 * GIB, 1),
        (600, 900, 8 * GIB, 4),
    ]
    line = {named: 0, (not named): -1}[True]
    assert notes == [
        "trace.csv: read as Huawei's trace, a row for each event",
        "VMs deleted without having been created, taken to be there from the beginning: 1 "
        f"(first: {tmp_path}/trace.csv, line {6 + line})",
        "creations of a VM that is there, left out: 1 "
        f"(first: {tmp_path}/trace.csv, line {7 + line})",
        "deletions of a VM that was deleted before, left out: 1 "
        f"(first: {tmp_path}/trace.csv, line {9 + line})",
    ]  # fmt: skip


ALIBABA_2017 = """\
0,Create,1,17,8,0.42,0.03,0|1|2|3
0,Create,2,18,4,0.21,0.03,0|1
41562,Create,3,18,4,0.105,0.03,4|5
50000,Remove,2,18,4,0.21,0.03,0|1
"""


def test_alibaba_2017(tmp_path: Path) -> None:
    path = written(tmp_path, ALIBABA_2017)
    with pytest.raises(InputError, match=r"share of a machine's; expected --machine-gib"):
        read(path)
    assert read(path, machine_gib=256.0) == [
        (0, np.inf, int(np.ceil(0.42 * 256 * GIB)), 8),
        (0, 50000, int(np.ceil(0.21 * 256 * GIB)), 4),
        (41562, np.inf, int(np.ceil(0.105 * 256 * GIB)), 4),
    ]


ALIBABA_2018 = """\
c_1,m_2556,0,app_5052,started,400,400,1.56
c_1,m_2556,287942,app_5052,started,400,400,1.56
c_2,m_962,0,app_5052,allocated,450,800,3.13
c_2,m_962,1000,app_5052,unknown,450,800,3.13
c_2,m_962,2000,app_5052,stopped,450,800,3.13
c_2,m_962,3000,app_5052,stopped,450,800,3.13
"""


def test_alibaba_2018(tmp_path: Path) -> None:
    """Rows that repeat what is known are not told; 450 is four cores and a half."""
    notes: list[str] = []
    path = tmp_path / "container_meta.csv.gz"
    path.write_bytes(gzip.compress(ALIBABA_2018.encode()))
    rows = read(path, machine_gib=100.0, notes=notes)
    assert rows == [
        (0, np.inf, int(np.ceil(1.56 * GIB)), 4),
        (0, 2000, int(np.ceil(3.13 * GIB)), 5),
    ]
    assert len(notes) == 3
    assert notes[2].startswith(
        "rows whose status is neither a creation nor a deletion, left out: 1"
    )


def test_alibaba_as_it_is_distributed(tmp_path: Path) -> None:
    """A tar of one table (2018), or of all tables (2017)."""
    written(tmp_path, ALIBABA_2018, "container_meta.csv")
    written(tmp_path, ALIBABA_2017, "container_event.csv")
    written(tmp_path, "0,1\n", "server_usage.csv")
    for name, members in (
        ("container_meta.tar.gz", ["container_meta.csv"]),
        ("trace_201708.tgz", ["server_usage.csv", "container_event.csv"]),
        ("plain.tar.xz", ["container_meta.csv"]),
    ):
        mode: Any = "w:xz" if name.endswith("xz") else "w:gz"
        with tarfile.open(tmp_path / name, mode) as archive:
            for member in members:
                archive.add(tmp_path / member, f"folder/{member}")
        packed = read(tmp_path / name, machine_gib=64.0)
        assert packed == read(tmp_path / members[-1], machine_gib=64.0)


def test_files_of_another_kind(tmp_path: Path) -> None:
    for name, data, said in (
        (
            "p.sqlite",
            b"SQLite format 3\0" + bytes(500),
            "an SQLite database; expected CSV or Parquet",
        ),
        ("z.xlsx", b"PK\x03\x04" + bytes(500), "a zip file or a spreadsheet"),
        ("j.json", b'[{"memory": 4}]', "JSON; expected CSV or Parquet"),
        ("g.csv.gz", gzip.compress(b"{}"), "JSON"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: {said}"):
            read(tmp_path / name)
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        archive.add(tmp_path / "j.json", "a.csv")
        archive.add(tmp_path / "j.json", "b.csv")
    with pytest.raises(InputError, match=r"two.tar: 2 files in it \(a.csv, b.csv\); expected one"):
        read(tmp_path / "two.tar")
    whole = (tmp_path / "two.tar").read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[:700])
    with pytest.raises(InputError, match=r"half.tar: "):
        read(tmp_path / "half.tar")


def test_events_before_the_trace(tmp_path: Path) -> None:
    notes: list[str] = []
    text = HUAWEI.split("\n")[0] + "\n1,2,4,-5,0\n1,2,4,20,1\n"
    assert read(written(tmp_path, text), notes=notes) == [(0, 20, 4 * GIB, 2)]
    assert "events before time 0, taken to be at 0: 1 (first: " in notes[1]


def test_events_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "huawei.parquet"
    columns = {"vmid": [1, 1], "cpu": [2, 2], "memory": [4, 4], "time": [5, 9], "type": [0, 1]}
    pa.parquet.write_table(pa.table(columns), path)
    assert read(path) == [(5, 9, 4 * GIB, 2)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HUAWEI.replace("100,0", "soon,0"), "line 2, time: 'soon'; expected a number"),
        (HUAWEI.replace("100,0", ",0"), "line 2, time: empty; expected seconds"),
        (HUAWEI.replace("1,2,4,100", ",2,4,100"), "line 2, vmid: empty; expected an identifier"),
        (HUAWEI.replace("2,1,2,130", "2,1,-2,130"), "line 3, memory: -2; expected GiB above 0"),
        (HUAWEI.replace("2,1,2,800,0", "2,1,2,1e99,0"), "line 7, time: 1e.99; expected"),
        ("vmid,cpu,memory,time,type\n1,2,4,5,7\n", "line 2, type: no row of the file creates"),
        (HUAWEI.replace("2,1,2,130", "2,0,2,130"), "line 3, cpu: 0; expected a whole number"),
    ],
)
def test_events_that_lie(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(written(tmp_path, text))


def test_a_scale_that_nothing_is_measured_by(tmp_path: Path) -> None:
    for text in (HUAWEI, "arrival,departure,memory_gib,vcpus\n0,1,1,1\n"):
        with pytest.raises(InputError, match="--machine-gib has no effect"):
            read(written(tmp_path, text), machine_gib=64.0)


def test_random_events_against_a_replay(tmp_path: Path) -> None:
    """VMs that are there, and their memory, at every moment: as a replay of the rows says."""
    draw = random.Random(1)
    for _ in range(30):
        alive: dict[int, int] = {}
        rows, counts = [], {}
        for time in range(1, 120):
            vmid = draw.randrange(12)
            if vmid in alive:
                rows.append(f"{vmid},1,{alive.pop(vmid)},{time},1")
            else:
                alive[vmid] = draw.randint(1, 64)
                rows.append(f"{vmid},1,{alive[vmid]},{time},0")
            counts[time] = (len(alive), sum(alive.values()))
        draw.shuffle(rows)
        found = np.array(read(written(tmp_path, HUAWEI.split("\n")[0] + "\n" + "\n".join(rows))))
        for time, (number, memory) in counts.items():
            there = (found[:, 0] <= time) & (found[:, 1] > time)
            assert (there.sum(), found[there, 2].sum() / GIB) == (number, memory)


def test_the_recipe_for_google_s_trace(tmp_path: Path) -> None:
    """The query of the docs, run on a table of a few events; its dots are columns of a record."""
    page = Path(__file__).parents[3] / "docs" / "plan-fleets.md"
    (query,) = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    base = sqlite3.connect(":memory:")
    base.create_function("CEIL", 1, lambda number: float(np.ceil(number)))
    base.create_function("GREATEST", 2, max)
    base.create_function("CONCAT", 3, lambda *parts: "".join(map(str, parts)))
    base.execute(
        "CREATE TABLE instance_events (time INTEGER, type INTEGER, collection_id INTEGER, "
        "instance_index INTEGER, resource_request_memory REAL, resource_request_cpus REAL)"
    )
    after = 9223372036854775807
    events = [
        (0, 0, 7, 0), (0, 3, 7, 0), (5_000_000, 4, 7, 0), (6_000_000, 3, 7, 0), (after, 6, 7, 0),
        (9_000_000, 3, 7, 1), (10_000_000, 10, 7, 1), (12_500_000, 5, 7, 1),
        (3_000_000, 3, 8, 0),
    ]  # fmt: skip
    for event in events:
        base.execute("INSERT INTO instance_events VALUES (?, ?, ?, ?, 0.25, 0.03)", event)
    found = base.execute(query.replace("resource_request.", "resource_request_"))
    names = [column[0] for column in found.description]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in found])
    pa.parquet.write_table(table, tmp_path / "google.parquet")
    rows = read(tmp_path / "google.parquet")
    assert sorted(rows) == [
        (0, 5, 128 * GIB, 2),
        (3, np.inf, 128 * GIB, 2),
        (6, np.inf, 128 * GIB, 2),
        (9, 12.5, 128 * GIB, 2),
    ]
