"""Reading VM lives from CSV or Parquet, batch by batch, whatever the size of the file.

Which columns are known stands in forms.py and docs/plan-fleets.md.  CSV may be packed
(packed.py), as public traces are distributed, and begin with the byte order mark of a spreadsheet.
"""

import lzma
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from dpamt.errors import InputError
from dpamt.plan.fleet.events import EventRows, lives_of_events
from dpamt.plan.fleet.forms import (
    AZURE_NAMES,
    AZURE_OPEN_BUCKETS,
    OWN,
    EventForm,
    event_form,
    event_names,
    is_azure_row,
    is_number,
    names_of,
)
from dpamt.plan.fleet.ids import Identifiers
from dpamt.plan.fleet.packed import opened
from dpamt.plan.fleet.vms import MAX_SECONDS, check_columns

BLOCK_BYTES: Final = 8 << 20
ROWS_OF_A_BATCH: Final = 1 << 17
_YES_OR_NO: Final = {"1": 1.0, "yes": 1.0, "true": 1.0, "0": 0.0, "no": 0.0, "false": 0.0}

Rows = Iterator[tuple[Callable[[int], str], int, pa.RecordBatch]]
"""(row of the batch to its place in the file, number of its first row, the batch)."""


def read_vms(
    path: Path,
    host_types: Sequence[str] = (),
    share_2m: float = 0.0,
    machine_gib: float | None = None,
    notes: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches of :data:`dpamt.plan.fleet.vms.SCHEMA`, in the order of the file; those of a trace of
    events by arrival.

    ``share_2m`` is what a VM has that does not say; ``machine_gib`` is a machine's memory, for
    traces that give memory as a share of it.  What is worth telling of the file is added to
    ``notes`` when it is read.  Raises InputError, with the file, the line and the field, for what
    is wrong.
    """
    _check_is_file(path)
    told = [] if notes is None else notes
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        found, headless = (_parquet_names(path), False) if parquet else _csv_names(path)
        form = event_form(found) if not parquet or not _is_own(found) else None
        if form is not None:
            event, names_given = form
            _check_scale(path, event, machine_gib)
            columns = list(found) if names_given else list(event.columns)
            names = event_names(event, columns)
            rows = _rows(path, parquet, columns, names, not names_given)
            told.append(f"{path.name}: read as {event.name}, a row for each event")
            if event.machine is not None:
                told.append("its containers are taken for VMs")
            yield from lives_of_events(event, _event_rows(rows, names), machine_gib, share_2m, told)
            return
        names = names_of(path, found)
        if machine_gib is not None:
            raise InputError(
                f"{path}: --machine-gib has no effect; this file gives memory in GiB, not as a "
                "share of a machine's"
            )
        identifiers = Identifiers()
        for place, first, batch in _rows(path, parquet, found, names, headless):
            if "vmid" in names:
                column = batch.column(batch.schema.get_field_index(names["vmid"]))
                identifiers.add(column, first)
            yield _checked(place, names, batch, host_types, share_2m)
        told += identifiers.notes("row" if parquet else "line")
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: {reason}; expected CSV or Parquet") from None


def _check_is_file(path: Path) -> None:
    """A pipe could be read only once, and a folder not at all."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = error.strerror
    except ValueError as error:  # a zero byte in the name
        reason = str(error)
    else:
        if stat.S_ISREG(mode):
            return
        reason = "is a folder" if stat.S_ISDIR(mode) else "is no regular file"
    raise InputError(f"{path}: {reason}; expected a CSV or Parquet file of VM lives")


def _is_own(found: Sequence[str]) -> bool:
    return {"arrival", "departure"} <= {name.strip().lower() for name in found}


def _check_scale(path: Path, form: EventForm, machine_gib: float | None) -> None:
    if form.machine is not None and machine_gib is None:
        raise InputError(
            f"{path}: {form.name} gives memory as a share of a machine's; expected --machine-gib, "
            "the GiB of such a machine"
        )
    if form.machine is None and machine_gib is not None:
        raise InputError(f"{path}: --machine-gib has no effect; {form.name} gives memory in GiB")


def _rows(
    path: Path, parquet: bool, found: Sequence[str], names: Mapping[str, str], headless: bool
) -> Rows:
    if parquet:
        return _parquet_rows(path, names)
    return _csv_rows(path, names, found, headless)


def _parquet_names(path: Path) -> list[str]:
    with pa.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def _csv_names(path: Path) -> tuple[list[str], bool]:
    """Names of the columns, and whether the file has none."""
    with opened(path) as file:
        line = file.readline(1 << 16).decode("utf-8-sig", "replace").strip()
    if not line:
        raise InputError(f"{path}, line 1: empty; expected names of columns, or VM lives")
    found = [name.strip().strip('"') for name in line.split(",")]
    if is_azure_row(found):
        return list(AZURE_NAMES), True
    form = event_form(found)
    if form is not None and not form[1]:
        return found, True
    if len(set(found)) < len(found):
        names_of(path, found)
        raise InputError(f"{path}, line 1: a column twice; expected each name once")
    return found, False


_WRONG_ROW: Final = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
"""In pyarrow's message (cpp/src/arrow/csv/parser.cc, MismatchingColumns)."""


def _csv_rows(path: Path, names: Mapping[str, str], found: Sequence[str], headless: bool) -> Rows:
    try:
        with opened(path) as file:
            yield from _batches_of(file, path, names, found, headless)
    except pa.ArrowInvalid as error:  # a handler of such rows fails where one is not UTF-8
        row = _WRONG_ROW.search(str(error))
        if row is None:
            raise
        raise InputError(f"{path}, line {row[1]}: {row[3]} fields; expected {row[2]}") from None


def _batches_of(
    file: Any,
    path: Path,
    names: Mapping[str, str],
    found: Sequence[str],
    headless: bool,
) -> Rows:
    reader = pa.csv.open_csv(
        file,
        pa.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            skip_rows=0 if headless else 1,
            column_names=found,
        ),
        pa.csv.ParseOptions(ignore_empty_lines=False),
        pa.csv.ConvertOptions(
            include_columns=list(names.values()),
            column_types=dict.fromkeys(names.values(), pa.string()),
            strings_can_be_null=True,
            null_values=["", "NULL", "null"],
        ),
    )
    line_number = 1 if headless else 2
    for batch in reader:
        yield _place(path, "line", line_number), line_number, batch
        line_number += batch.num_rows


def _place(path: Path, what: str, first: int) -> Callable[[int], str]:
    return lambda row: f"{path}, {what} {first + row}"


def _parquet_rows(path: Path, names: Mapping[str, str]) -> Rows:
    with pa.parquet.ParquetFile(path) as file:
        first = 1
        for batch in file.iter_batches(ROWS_OF_A_BATCH, columns=list(names.values())):
            yield _place(path, "row", first), first, batch
            first += batch.num_rows


def _event_rows(rows: Rows, names: Mapping[str, str]) -> EventRows:
    """Batches of events, their numbers checked."""
    for place, _first, batch in rows:
        columns = {
            ours: batch.column(batch.schema.get_field_index(name)) for ours, name in names.items()
        }
        vmids = columns.pop("vmid").cast(pa.string())
        if vmids.null_count:
            row = int(np.argmax(vmids.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"{place(row)}, {names['vmid']}: empty; expected an identifier")
        kinds = columns.pop("kind").cast(pa.string())
        sizes = {ours: _numbers(one, place, names[ours]) for ours, one in columns.items()}
        bad = ~(sizes["time"] <= MAX_SECONDS)
        if bad.any():
            row = int(np.argmax(bad))
            time = sizes["time"][row]
            shown = "empty" if np.isnan(time) else f"{time:g}"
            raise InputError(
                f"{place(row)}, {names['time']}: {shown}; expected seconds up to {MAX_SECONDS:g}"
            )
        yield place, vmids, kinds, sizes


def _checked(
    place: Callable[[int], str],
    names: Mapping[str, str],
    batch: pa.RecordBatch,
    host_types: Sequence[str],
    share_2m: float,
) -> pa.RecordBatch:
    columns: dict[str, NDArray[Any]] = {}
    for ours, theirs in names.items():
        column = batch.column(batch.schema.get_field_index(theirs))
        if ours == "vmid":
            continue
        if ours == "host_type":
            columns[ours] = _host_types(column, place, theirs, host_types)
            continue
        if ours == "td":
            columns[ours] = _yes_or_no(column, place, theirs)
            continue
        if ours in AZURE_OPEN_BUCKETS and theirs != OWN[ours] and pa.types.is_string(column.type):
            text, value = AZURE_OPEN_BUCKETS[ours]
            column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), text), value, column)
        columns[ours] = _numbers(column, place, theirs)
    return check_columns(columns, place, dict(OWN) | dict(names), share_2m)


def _yes_or_no(column: pa.Array, place: Callable[[int], str], name: str) -> NDArray[np.float64]:
    """1 or 0; an empty field is not a number."""
    values = []
    for row, one in enumerate(column.to_pylist()):
        text = "" if one is None else str(one).strip().lower()
        if text and text not in _YES_OR_NO:
            raise InputError(f"{place(row)}, {name}: {one!r}; expected 1, 0 or nothing")
        values.append(_YES_OR_NO.get(text, np.nan))
    return np.array(values, np.float64)


def _numbers(column: pa.Array, place: Callable[[int], str], name: str) -> NDArray[np.float64]:
    """As floats; an empty field is not a number."""
    try:
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.equal(column, ""), None, column)
        elif pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
            # Seconds, whatever the unit.  In two parts: nanoseconds since 1970 are no float.
            per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
            count = column.cast(pa.int64())
            whole = pc.divide(count, per_second)
            rest = pc.subtract(count, pc.multiply(whole, per_second)).cast(pa.float64())
            column = pc.add(whole.cast(pa.float64()), pc.divide(rest, float(per_second)))
        floats = column.cast(pa.float64())
    except pa.ArrowInvalid:
        for row, text in enumerate(column.to_pylist()):
            if text is not None and not is_number(str(text)):
                raise InputError(f"{place(row)}, {name}: {text!r}; expected a number") from None
        raise
    return np.asarray(floats.to_numpy(zero_copy_only=False), np.float64)


def _host_types(
    column: pa.Array, place: Callable[[int], str], name: str, known: Sequence[str]
) -> NDArray[np.int64]:
    """Index of each in the known ones; -1 where the field is empty or there are no types."""
    if not known:
        return np.full(len(column), -1)
    found = pc.index_in(column.cast(pa.string()), pa.array(known, pa.string()))
    wrong = pc.and_(pc.is_null(found), pc.is_valid(column)).to_numpy(zero_copy_only=False)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{place(row)}, {name}: {str(column[row])[:80]!r}; expected one of {', '.join(known)}"
        )
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)
