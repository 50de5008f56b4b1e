"""A recording as a Parquet file: a row for each SEAMCALL, get, put and loss, in bounded memory."""

from types import TracebackType
from typing import IO, Any, Final

from dpamt.abi.leaves import RAX_VERSION_MASK, RAX_VERSION_SHIFT
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import status_name
from dpamt.own_files import STAMP
from dpamt.trace.recording.model import MOST_CALLER, Item, Lost, PamtOp, shown

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
_NONE: Final = (None,) * len(_WORDS)
_MOST_KEPT: Final = 1 << 14
Row = tuple[Any, ...]
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
        self._fresh: list[Row] = []
        self._texts: dict[bytes, str] = {}
        self._names: dict[int, str] = {}
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
        self._fresh.append(self._row(item))
        self.rows += 1
        if len(self._fresh) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._fresh:
            return
        columns = zip(COLUMNS, zip(*self._fresh, strict=True), strict=True)
        table = self._pa.table(
            {
                name: self._pa.array(column, type=self._schema.field(name).type)
                for name, column in columns
            },
            schema=self._schema,
        )
        self._writer.write_table(table)
        self._fresh.clear()

    def _row(self, item: Item) -> Row:
        """In the order of :data:`COLUMNS`."""
        if isinstance(item, Lost):
            return ("lost", *_NONE[:5], item.at, item.cpu, *_NONE[:5], item.count, *_NONE)
        comm, caller = self._text(item.comm), self._text(item.caller)
        when = item.start, item.end, item.cpu, item.pid
        if isinstance(item, PamtOp):
            kind = "put" if item.put else "get"
            about = item.pfn, item.result, item.waited, None
            return (kind, comm, None, None, caller, *when, None, *about, *_NONE)
        status, after = item.status, item.after
        name = None if status is None else self._status(status)
        version = item.rax >> RAX_VERSION_SHIFT & RAX_VERSION_MASK
        return (
            *("seamcall", comm, item.name, name, caller, *when, version, *_NONE[:4], status),
            *(*item.before, *(_NONE[: len(REGISTER_NAMES)] if after is None else after)),
        )

    def _text(self, data: bytes) -> str:
        text = self._texts.get(data)
        if text is None:
            if len(self._texts) >= _MOST_KEPT:
                self._texts.clear()
            text = self._texts[data] = shown(data, MOST_CALLER)
        return text

    def _status(self, status: int) -> str:
        name = self._names.get(status)
        if name is None:
            if len(self._names) >= _MOST_KEPT:
                self._names.clear()
            name = self._names[status] = status_name(status)
        return name
