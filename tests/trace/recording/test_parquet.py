import io

import pytest

from dpamt.abi.registers import REGISTER_NAMES
from dpamt.trace.recording.model import Call, Lost, PamtOp
from dpamt.trace.recording.parquet import COLUMNS, ParquetOut

from .test_read import lived

pq = pytest.importorskip("pyarrow.parquet")


def test_every_row_comes_back() -> None:
    items = [*lived(), Lost(7, 1, 5), Lost(None, None, 6)]
    file = io.BytesIO()
    with ParquetOut(file) as out:
        for item in items:
            out.add(item)
    table = pq.read_table(io.BytesIO(file.getvalue()))
    assert tuple(table.column_names) == COLUMNS
    rows = table.to_pylist()
    assert len(rows) == len(items)
    for row, item in zip(rows, items, strict=True):
        if isinstance(item, Call):
            assert row["leaf"] == item.name
            assert tuple(row[name] for name in REGISTER_NAMES) == item.before
            assert tuple(row[f"out_{name}"] for name in REGISTER_NAMES) == item.after
            assert (row["start_ns"], row["end_ns"], row["status"]) == (
                item.start,
                item.end,
                item.status,
            )
        elif isinstance(item, PamtOp):
            assert (row["kind"] == "put", row["pfn"]) == (item.put, item.pfn)
        else:
            assert (row["lost"], row["cpu"]) == (item.count, item.cpu)
