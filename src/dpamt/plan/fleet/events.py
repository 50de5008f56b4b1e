"""Lives of VMs out of a trace of events: a row where a VM is created, another where it is deleted.

The two rows of a VM may be anywhere in the file, so its events are held in memory, 40 bytes each.
Contradictions are settled by a rule and reported, with the line of the first case:

- a deletion of a VM that was never created: the VM was there before the trace began;
- a creation of a VM that is there: left out (not reported where the trace repeats what is known);
- a deletion of a VM that was deleted before: left out (the same);
- a row that is neither: left out;
- a VM that is never deleted stays.
An identifier that comes again after its VM was deleted is a new VM.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dpamt.errors import InputError
from dpamt.plan.fleet.forms import EventForm
from dpamt.plan.fleet.vms import check_columns

EventRows = Iterable[tuple[Callable[[int], str], pa.Array, pa.Array, dict[str, NDArray[Any]]]]
"""(row to its place, identifiers, kinds, times and sizes) of each batch."""

LIVES_AT_ONCE: Final = 1 << 17
_NEVER: Final = float("nan")


@dataclass
class _Told:
    """Cases of one kind: how many, and where the first is."""

    what: str
    number: int = 0
    first: int = 0

    def add(self, row: int) -> None:
        if not self.number or row < self.first:
            self.first = row
        self.number += 1


@dataclass
class _Events:
    """All events, as columns."""

    form: EventForm
    places: list[tuple[int, Callable[[int], str]]] = field(default_factory=list)
    codes: list[NDArray[Any]] = field(default_factory=list)
    starts: list[NDArray[Any]] = field(default_factory=list)
    columns: dict[str, list[NDArray[Any]]] = field(
        default_factory=lambda: {name: [] for name in ("time", "cpus", "memory")}
    )
    rows: int = 0

    def place(self, row: int) -> str:
        """Where a row is in the file."""
        for first, place in reversed(self.places):
            if row >= first:
                return place(row - first)
        raise IndexError(row)

    def add(
        self,
        place: Callable[[int], str],
        vmids: pa.Array,
        kinds: pa.Array,
        sizes: dict[str, NDArray[Any]],
    ) -> None:
        """One batch of the file."""
        self.places.append((self.rows, place))
        self.rows += len(vmids)
        # Identifiers are distinguished by their hashes of 64 bits.
        self.codes.append(np.array([hash(one) for one in vmids.to_pylist()], np.int64))
        said = [str(one).strip() for one in kinds.to_pylist()]
        self.starts.append(
            np.array(
                [1 if s in self.form.begins else -(s in self.form.ends) for s in said], np.int8
            )
        )
        for name, column in self.columns.items():
            column.append(sizes[name])


def lives_of_events(
    form: EventForm, rows: EventRows, machine_gib: float | None, share_2m: float, notes: list[str]
) -> Iterable[pa.RecordBatch]:
    """Batches of :data:`dpamt.plan.fleet.vms.SCHEMA`, by arrival.

    ``machine_gib`` is a machine's memory, where the trace gives memory as a share of it.  What had
    to be settled is added to ``notes``.  Raises InputError for sizes and times that cannot be.
    """
    events = _Events(form)
    for batch in rows:
        events.add(*batch)
    if not events.rows:
        return
    starts, codes = np.concatenate(events.starts), np.concatenate(events.codes)
    columns = {name: np.concatenate(parts) for name, parts in events.columns.items()}
    # A time before the trace is its beginning.
    times = np.maximum(columns["time"], 0.0)
    early = np.flatnonzero(columns["time"] < 0)
    if len(early):
        notes.append(
            f"events before time 0, taken to be at 0: {len(early):,} "
            f"(first: {events.place(int(early[0]))})"
        )
    order = np.lexsort((np.arange(len(codes)), times, codes))
    found = _paired(form, codes, starts, times, order, notes, events.place)
    if not found:
        raise InputError(
            f"{events.place(0)}, {form.kind}: no row of the file creates or deletes a VM; expected "
            f"{', '.join(sorted(form.begins | form.ends))}"
        )
    arrivals, departures, rows_of = (np.array(column) for column in zip(*found, strict=True))
    by_arrival = np.lexsort((rows_of, arrivals))
    vcpus = np.maximum(
        np.ceil(columns["cpus"] / form.cpus_per_vcpu), np.minimum(columns["cpus"], 1)
    )
    scale = 1.0 if form.machine is None else (machine_gib or 0.0) / form.machine
    for at in range(0, len(by_arrival), LIVES_AT_ONCE):
        chosen = by_arrival[at : at + LIVES_AT_ONCE]
        lines = rows_of[chosen].astype(np.int64)
        checked = {
            "arrival": arrivals[chosen],
            "departure": departures[chosen],
            "memory_gib": columns["memory"][lines] * scale,
            "vcpus": vcpus[lines],
        }
        names = {
            "arrival": form.time, "departure": form.time, "memory_gib": form.memory,
            "vcpus": form.cpus, "share_2m": "share_2m",
        }  # fmt: skip
        yield check_columns(checked, _placed(events, lines), names, share_2m)


def _placed(events: _Events, lines: NDArray[Any]) -> Callable[[int], str]:
    return lambda row: events.place(int(lines[row]))


def _paired(
    form: EventForm,
    codes: NDArray[Any],
    starts: NDArray[Any],
    times: NDArray[Any],
    order: NDArray[Any],
    notes: list[str],
    place: Callable[[int], str],
) -> list[tuple[float, float, int]]:
    """(arrival, departure or never, row with the sizes) of each VM."""
    before = _Told("VMs deleted without having been created, taken to be there from the beginning")
    twice = _Told("creations of a VM that is there, left out")
    gone = _Told("deletions of a VM that was deleted before, left out")
    other = _Told(f"rows whose {form.kind} is neither a creation nor a deletion, left out")
    found: list[tuple[float, float, int]] = []
    begin = float(times.min())
    code: int | None = None
    arrival: float | None = None
    row_of = -1
    ended = False
    events = zip(codes[order].tolist(), starts[order].tolist(), times[order].tolist(),
                 order.tolist(), strict=True)  # fmt: skip
    for one, start, time, row in events:
        if one != code:
            if arrival is not None:
                found.append((arrival, _NEVER, row_of))
            code, arrival, ended = one, None, False
        if start > 0:
            if arrival is None:
                arrival, row_of = time, row
            elif not form.repeats:
                twice.add(row)
        elif start < 0:
            if arrival is not None:
                found.append((arrival, time, row_of))
                arrival, ended = None, True
            elif ended:
                if not form.repeats:
                    gone.add(row)
            else:
                before.add(row)
                found.append((begin, time, row))
                ended = True
        else:
            other.add(row)
    if arrival is not None:
        found.append((arrival, _NEVER, row_of))
    for told in (before, twice, gone, other):
        if told.number:
            notes.append(f"{told.what}: {told.number:,} (first: {place(told.first)})")
    return found
