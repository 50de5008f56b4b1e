"""Reading VM lives from CSV or Parquet, batch by batch, whatever the size of the file.

Two sets of columns are known (docs/plan-fleets.md): our own, by name; and those of the vmtable of
the public Azure VM traces, with or without a line of names.  CSV may be packed (gz, xz, bz2), as
those traces are distributed, and begin with the byte order mark of a spreadsheet.

Source of the second: Azure/AzurePublicDataset, AzurePublicDatasetV1.md and V2.md.
"""

import bz2
import gzip
import lzma
import re
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
from dpamt.plan.fleet.vms import check_columns

OWN: Final = {
    name: name for name in ("arrival", "departure", "memory_gib", "vcpus", "host_type", "share_2m")
}
REQUIRED: Final = ("arrival", "departure", "memory_gib", "vcpus")
AZURE_NAMES: Final = (
    *("vmid", "subscriptionid", "deploymentid", "vmcreated", "vmdeleted"),
    *("maxcpu", "avgcpu", "p95maxcpu", "vmcategory", "vmcorecount", "vmmemory"),
)
"""Columns of the vmtable, in their order."""
AZURE: Final = {
    "arrival": "vmcreated",
    "departure": "vmdeleted",
    "memory_gib": "vmmemory",
    "vcpus": "vmcorecount",
}
AZURE_OPEN_BUCKETS: Final = {"vcpus": (">24", "32"), "memory_gib": (">64", "128")}
"""The last bucket of the 2019 trace has no upper end: what such a VM is taken for."""

BLOCK_BYTES: Final = 8 << 20
ROWS_OF_A_BATCH: Final = 1 << 17
_NUMBER: Final = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


def read_vms(
    path: Path, host_types: Sequence[str] = (), share_2m: float = 0.0
) -> Iterator[pa.RecordBatch]:
    """Batches of :data:`dpamt.plan.fleet.vms.SCHEMA`, in the order of the file.

    ``share_2m`` is what a VM has that does not say.  Raises InputError, with the file, the line and
    the field, for what is not as it has to be.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a CSV or Parquet file of VM lives")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        rows = _parquet_rows(path) if magic == b"PAR1" else _csv_rows(path)
        for first, names, table in rows:
            yield _checked(path, first, names, table, host_types, share_2m)
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}; expected CSV or Parquet") from None


Rows = Iterator[tuple[Callable[[int], str], Mapping[str, str], pa.RecordBatch]]
"""(row of the batch to its place in the file, our name to the file's, the batch)."""


def _names_of(path: Path, found: Sequence[str]) -> dict[str, str]:
    """Which column of the file is which of ours."""
    plain = {re.sub(r"[^a-z0-9]|bucket", "", name.lower()): name for name in found}
    if "vmcreated" in plain:
        chosen = {ours: plain.get(name, "") for ours, name in AZURE.items()}
    else:
        lower = {name.strip().lower(): name for name in found}
        chosen = {ours: lower[name] for ours, name in OWN.items() if name in lower}
    for ours in REQUIRED:
        if not chosen.get(ours):
            expected = AZURE[ours] if "vmcreated" in plain else ours
            raise InputError(
                f"{path}, line 1: no column {expected}; expected {', '.join(REQUIRED)} "
                "(or the vmtable of an Azure VM trace), found " + ", ".join(found)[:200]
            )
    return chosen


def _csv_rows(path: Path) -> Rows:
    with _opened(path) as file:
        line = file.readline(1 << 16).decode("utf-8-sig", "replace").strip()
    if not line:
        raise InputError(f"{path}, line 1: empty; expected names of columns, or VM lives")
    found = [name.strip().strip('"') for name in line.split(",")]
    headless = len(found) == len(AZURE_NAMES) and all(
        _NUMBER.fullmatch(found[at]) for at in (3, 4, 5, 6, 7)
    )
    if headless:
        found = list(AZURE_NAMES)
    names = _names_of(path, found)
    if len(set(found)) < len(found):
        raise InputError(f"{path}, line 1: a column twice; expected each name once")

    wrong: list[str] = []

    def invalid(row: pa.csv.InvalidRow) -> str:
        wrong.append(
            f"{path}, line {row.number}: {row.actual_columns} fields; "
            f"expected {row.expected_columns}"
        )
        return "error"

    try:
        yield from _csv_batches(path, names, found, headless, invalid)
    except pa.ArrowInvalid:
        if wrong:
            raise InputError(wrong[0]) from None
        raise


def _csv_batches(
    path: Path,
    names: Mapping[str, str],
    found: Sequence[str],
    headless: bool,
    invalid: Callable[[pa.csv.InvalidRow], str],
) -> Rows:
    with _opened(path) as file:
        yield from _batches_of(file, path, names, found, headless, invalid)


def _opened(path: Path) -> Any:
    """The bytes of a CSV file, unpacked where it is gzip, xz or bzip2, by its first bytes."""
    with path.open("rb") as file:
        magic = file.read(6)
    try:
        if magic.startswith(b"\x1f\x8b"):
            return gzip.open(path)
        if magic.startswith(b"\xfd7zXZ"):
            return lzma.open(path)
        if magic.startswith(b"BZh"):
            return bz2.open(path)
    except (OSError, lzma.LZMAError) as error:
        raise InputError(f"{path}: {error}; expected a compressed file that is whole") from None
    return path.open("rb")


def _batches_of(
    file: Any,
    path: Path,
    names: Mapping[str, str],
    found: Sequence[str],
    headless: bool,
    invalid: Callable[[pa.csv.InvalidRow], str],
) -> Rows:
    reader = pa.csv.open_csv(
        file,
        pa.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            skip_rows=0 if headless else 1,
            column_names=found,
        ),
        pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=invalid),
        pa.csv.ConvertOptions(
            include_columns=list(names.values()),
            column_types=dict.fromkeys(names.values(), pa.string()),
            strings_can_be_null=True,
            null_values=["", "NULL", "null"],
        ),
    )
    line_number = 1 if headless else 2
    for batch in reader:
        yield _line_place(path, line_number), names, batch
        line_number += batch.num_rows


def _line_place(path: Path, first: int) -> Callable[[int], str]:
    return lambda row: f"{path}, line {first + row}"


def _row_place(path: Path, first: int) -> Callable[[int], str]:
    return lambda row: f"{path}, row {first + row}"


def _parquet_rows(path: Path) -> Rows:
    with pa.parquet.ParquetFile(path) as file:
        names = _names_of(path, file.schema_arrow.names)
        first = 1
        for batch in file.iter_batches(ROWS_OF_A_BATCH, columns=list(names.values())):
            yield _row_place(path, first), names, batch
            first += batch.num_rows


def _checked(
    path: Path,
    place: Callable[[int], str],
    names: Mapping[str, str],
    batch: pa.RecordBatch,
    host_types: Sequence[str],
    share_2m: float,
) -> pa.RecordBatch:
    columns: dict[str, NDArray[Any]] = {}
    for ours, theirs in names.items():
        column = batch.column(batch.schema.get_field_index(theirs))
        if ours == "host_type":
            columns[ours] = _host_types(column, place, theirs, host_types)
            continue
        if ours in AZURE_OPEN_BUCKETS and theirs != OWN[ours] and pa.types.is_string(column.type):
            text, value = AZURE_OPEN_BUCKETS[ours]
            column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), text), value, column)
        columns[ours] = _numbers(column, place, theirs)
    return check_columns(columns, place, dict(OWN) | dict(names), share_2m)


def _numbers(column: pa.Array, place: Callable[[int], str], name: str) -> NDArray[np.float64]:
    """As floats; an empty field is not a number."""
    try:
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.equal(column, ""), None, column)
        elif pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
            # Seconds, whatever the unit; the first arrival is where time begins.
            per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
            column = pc.divide(column.cast(pa.int64()).cast(pa.float64()), float(per_second))
        floats = column.cast(pa.float64())
    except pa.ArrowInvalid:
        for row, text in enumerate(column.to_pylist()):
            if text is not None and not _NUMBER.fullmatch(str(text)):
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
