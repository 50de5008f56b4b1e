"""A recording as a Parquet file: a row for each SEAMCALL, get, put and loss, in bounded memory."""

from types import TracebackType
from typing import IO, Any, Final

from dpamt.abi.leaves import RAX_VERSION_MASK, RAX_VERSION_SHIFT
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import status_name
from dpamt.own_files import STAMP
from dpamt.trace.recording.model import MOST_CALLER, Call, Item, PamtOp, shown

_ROWS: Final = 1 << 15
"""Rows of a row group."""
_TEXTS: Final = ("kind", "comm", "leaf", "status_name", "caller")
_NUMBERS: Final = (
    "start_ns",
    "end_ns",
    "cpu",
    "pid",
    "version",
    "pfn",
    "result",
    "waited_ns",
    "lost",
)
_WORDS: Final = ("status", *REGISTER_NAMES, *(f"out_{name}" for name in REGISTER_NAMES))
COLUMNS: Final = (*_TEXTS, *_NUMBERS, *_WORDS)


class ParquetOut:
    """Rows to an open binary file."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow as pa  # an extra: the command says so before any work
        import pyarrow.parquet as pq

        self._pa: Any = pa
        self._schema = pa.schema(
            [(name, pa.dictionary(pa.int32(), pa.string())) for name in _TEXTS]
            + [(name, pa.int64()) for name in _NUMBERS]
            + [(name, pa.uint64()) for name in _WORDS],
            metadata=STAMP,
        )
        self._writer = pq.ParquetWriter(file, self._schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self.rows = 0

    def __enter__(self) -> "ParquetOut":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, item: Item) -> None:
        """One more row."""
        row = _row(item)
        for name, column in self._columns.items():
            column.append(row.get(name))
        self.rows += 1
        if not self.rows % _ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._columns["kind"]:
            return
        table = self._pa.table(
            {
                name: self._pa.array(column, type=self._schema.field(name).type)
                for name, column in self._columns.items()
            },
            schema=self._schema,
        )
        self._writer.write_table(table)
        for column in self._columns.values():
            column.clear()


def _row(item: Item) -> dict[str, Any]:
    if isinstance(item, Call):
        row: dict[str, Any] = {
            "kind": "seamcall",
            "leaf": item.name,
            "version": item.rax >> RAX_VERSION_SHIFT & RAX_VERSION_MASK,
            "status": item.status,
            "status_name": None if item.status is None else status_name(item.status),
            **dict(zip(REGISTER_NAMES, item.before, strict=True)),
        }
        if item.after is not None:
            row |= {
                f"out_{name}": value for name, value in zip(REGISTER_NAMES, item.after, strict=True)
            }
    elif isinstance(item, PamtOp):
        row = {
            "kind": "put" if item.put else "get",
            "pfn": item.pfn,
            "result": item.result,
            "waited_ns": item.waited,
        }
    else:
        return {"kind": "lost", "end_ns": item.at, "cpu": item.cpu, "lost": item.count}
    return row | {
        "start_ns": item.start,
        "end_ns": item.end,
        "cpu": item.cpu,
        "pid": item.pid,
        "comm": shown(item.comm),
        "caller": shown(item.caller, MOST_CALLER),
    }
