"""A time series of each host of a fleet, kept in a file while the clusters come in."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

COLUMNS: Final = (
    ("host", pa.int32(), ""),
    ("hours", pa.float64(), "hours"),
    ("tds", pa.int32(), "TDs"),
    ("td_bytes", pa.int64(), "bytes"),
    ("normal_bytes", pa.int64(), "bytes"),
    ("dynamic_bytes", pa.float64(), "bytes"),
    ("saved", pa.float64(), "bytes"),
)
"""Name, type and unit.  ``host`` is that of hosts.parquet; ``saved`` is static PAMT less
``dynamic_bytes``."""

_PLAIN: Final = pa.schema([(name, kind) for name, kind, _ in COLUMNS])


class HostSeries:
    """Rows of hosts x moments, in an Arrow file at ``path``, so that memory does not grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = pa.ipc.new_file(str(path), _PLAIN)

    def add(self, first_host: int, hours: NDArray[np.float64], *values: NDArray[Any]) -> None:
        """A cluster's hosts: arrays of moments x hosts, in the order of :data:`COLUMNS`."""
        moments, hosts = values[0].shape
        columns = [
            np.repeat(np.arange(first_host, first_host + hosts, dtype=np.int32), moments),
            np.tile(hours, hosts),
            *(value.T.ravel() for value in values),
        ]
        arrays = [
            pa.array(column).cast(field.type) for column, field in zip(columns, _PLAIN, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=_PLAIN))

    def close(self) -> None:
        """Nothing more comes."""
        self._writer.close()

    def write(self, file: IO[Any], about: dict[str, str]) -> None:
        """As Parquet, with units and ``about`` as metadata."""
        schema = pa.schema(
            [pa.field(name, kind, metadata={"unit": unit}) for name, kind, unit in COLUMNS], about
        )
        with pa.parquet.ParquetWriter(file, schema) as writer:
            for batch in self._batches():
                writer.write_batch(pa.record_batch(batch.columns, schema=schema))

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as mapped, pa.ipc.open_file(mapped) as reader:
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)
