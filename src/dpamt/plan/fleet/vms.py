"""VM lives as they travel through the simulation: one Arrow schema, checked; no reading, no use."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dpamt.abi.pages import SIZE_2M
from dpamt.errors import InputError

MAX_MEMORY_GIB: Final = 65536
MAX_VCPUS: Final = 4096
MAX_SECONDS: Final = 1e10

SCHEMA: Final = pa.schema(
    [
        ("arrival", pa.float64()),
        ("departure", pa.float64()),
        ("ranges", pa.int32()),
        ("vcpus", pa.int32()),
        ("share_2m", pa.float32()),
        ("host_type", pa.int16()),
        ("td", pa.bool_()),
    ]
)
"""Seconds; 2 MiB ranges of memory; share mapped at 2M; index of the host type, -1 for any; whether
the VM is a TD, null where that is not said."""

Columns = Mapping[str, NDArray[Any]]


def check_columns(
    columns: Columns, place: Callable[[int], str], names: Mapping[str, str], share_2m: float
) -> pa.RecordBatch:
    """Numbers as read (not a number where a field is empty) to a batch of :data:`SCHEMA`.

    ``columns`` has ``arrival``, ``departure`` (empty: never), ``memory_gib``, ``vcpus``, perhaps
    ``share_2m`` (empty: the given one), ``host_type`` and ``td`` (1 or 0, not a number where it is
    not said); ``names`` is what the file calls them,
    ``place`` tells where row n of the batch is.  Raises InputError for a value that cannot be.
    """
    arrival, departure = columns["arrival"], columns["departure"]
    memory, vcpus = columns["memory_gib"], columns["vcpus"]
    share = columns.get("share_2m", np.full(len(arrival), np.nan))
    share = np.where(np.isnan(share), share_2m, share)
    departure = np.where(np.isnan(departure), np.inf, departure)

    def demand(good: NDArray[np.bool_], field: str, values: NDArray[Any], expected: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            value = values[row]
            shown = "empty" if isinstance(value, float) and np.isnan(value) else f"{value:g}"
            raise InputError(f"{place(row)}, {names[field]}: {shown}; expected {expected}")

    fine = (arrival >= 0) & (arrival <= MAX_SECONDS)
    demand(fine, "arrival", arrival, f"seconds from 0 to {MAX_SECONDS:g}")
    demand(
        (departure >= arrival) & (departure >= 0),
        "departure",
        departure,
        "a time not before the arrival, or nothing",
    )
    fine = (departure <= MAX_SECONDS) | np.isinf(departure)
    demand(fine, "departure", departure, f"seconds up to {MAX_SECONDS:g}, or nothing")
    fine = (memory > 0) & (memory <= MAX_MEMORY_GIB)
    demand(fine, "memory_gib", memory, f"GiB above 0 and up to {MAX_MEMORY_GIB}")
    fine = (vcpus >= 1) & (vcpus <= MAX_VCPUS) & (vcpus == np.floor(vcpus))
    demand(fine, "vcpus", vcpus, f"a whole number from 1 to {MAX_VCPUS}")
    demand((share >= 0) & (share <= 1), "share_2m", share, "a share from 0 to 1")
    ranges = np.ceil(memory * (1 << 30) / SIZE_2M)
    kinds = columns.get("host_type", np.full(len(arrival), -1))
    td = columns.get("td", np.full(len(arrival), np.nan))
    arrays = (arrival, departure, ranges, vcpus, share, kinds)
    return pa.record_batch(
        [
            *(
                pa.array(values).cast(field.type, safe=False)
                for values, field in zip(arrays, list(SCHEMA)[:-1], strict=True)
            ),
            pa.array(td != 0, pa.bool_(), mask=np.isnan(td)),
        ],
        schema=SCHEMA,
    )
