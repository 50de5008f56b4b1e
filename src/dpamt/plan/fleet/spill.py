"""VM lives sorted onto clusters, on disk: what keeps memory bounded whatever the file's size.

Each cluster has an Arrow IPC file; each batch of it is sorted by arrival, and batches that overlap
in time are merged when they are read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from dpamt.plan.fleet.vms import SCHEMA

Life = tuple[float, float, int, int, float, bool]
"""Arrival and departure in seconds, 2M ranges, VCPUs, share at 2M, whether it is a TD."""

_ROWS_AT_ONCE: Final = 1 << 16
"""Of all batches that are merged; a file whose rows come in any order has them all overlap."""
_LEAST_ROWS: Final = 8
"""Of one batch."""
_SPILLED: Final = pa.schema([field for field in SCHEMA if field.name != "host_type"])


@dataclass(frozen=True, slots=True)
class Spilled:
    """In seconds: ``begin`` is the first arrival, ``end`` the last departure that is known, or the
    last arrival where that is later."""

    paths: tuple[Path, ...]
    vms: int
    begin: float
    end: float
    kinds: dict[tuple[int, int], tuple[int, float]]
    """2M ranges and VCPUs of a TD to how many TDs are like that, and their mean share at 2M."""
    tds: int
    """VMs that are TDs."""
    said: int
    """VMs of which the file says whether they are TDs."""


def spill(
    batches: Iterable[pa.RecordBatch],
    clusters: Sequence[tuple[int, int]],
    folder: Path,
    seed: int,
    td_share: float = 1.0,
) -> Spilled:
    """Give each VM a cluster, by its number and the seed, in proportion to the clusters' hosts.

    Of the VMs that do not say whether they are TDs a share ``td_share`` are, by the same numbers.
    ``clusters`` are (host type, hosts), in order; a VM of a type goes to one of that type.
    """
    paths = tuple(folder / f"{index}.arrow" for index in range(len(clusters)))
    writers = [pa.ipc.new_file(str(path), _SPILLED) for path in paths]
    total, begin, end, tds, said = 0, np.inf, 0.0, 0, 0
    kinds: dict[tuple[int, int], tuple[int, float]] = {}
    try:
        for batch in batches:
            arrivals = batch.column(0).to_numpy()
            if len(arrivals):
                begin = min(begin, float(arrivals.min()))
                departures = batch.column(1).to_numpy()
                known = departures[np.isfinite(departures)]
                end = max(end, float(arrivals.max()), float(known.max(initial=0.0)))
            is_td = _are_tds(batch.column(6), total, seed, td_share)
            said += batch.num_rows - batch.column(6).null_count
            tds += int(is_td.sum())
            batch = batch.set_column(6, "td", pa.array(is_td))
            _count_kinds(batch.filter(pa.array(is_td)), kinds)
            chosen = _choose(batch.column(5).to_numpy(), clusters, total, seed)
            total += batch.num_rows
            order = np.lexsort((arrivals, chosen))
            edges = np.searchsorted(chosen[order], np.arange(len(clusters) + 1))
            plain = batch.select(_SPILLED.names)
            for index, writer in enumerate(writers):
                if edges[index] < edges[index + 1]:
                    writer.write_batch(plain.take(pa.array(order[edges[index] : edges[index + 1]])))
    finally:
        for writer in writers:
            writer.close()
    return Spilled(paths, total, begin if total else 0.0, end, kinds, tds, said)


def _are_tds(column: pa.Array, first: int, seed: int, td_share: float) -> NDArray[np.bool_]:
    """Which VMs of a batch are TDs: those that say so, and a share of those that do not say."""
    numbers = _mixed(np.arange(first, first + len(column), dtype=np.uint64), seed + 1)
    drawn = (numbers >> np.uint64(11)).astype(np.float64) / 2.0**53 < td_share
    said = column.is_valid().to_numpy(zero_copy_only=False)
    return np.where(said, column.fill_null(False).to_numpy(zero_copy_only=False), drawn)


def _count_kinds(batch: pa.RecordBatch, kinds: dict[tuple[int, int], tuple[int, float]]) -> None:
    """Add the VMs of a batch."""
    both = np.stack([batch.column(2).to_numpy(), batch.column(3).to_numpy()], axis=1)
    shares = batch.column(4).to_numpy().astype(np.float64)
    found, where = np.unique(both, axis=0, return_inverse=True)
    counts = np.bincount(where.ravel(), minlength=len(found))
    sums = np.bincount(where.ravel(), weights=shares, minlength=len(found))
    for (ranges, vcpus), number, share in zip(found.tolist(), counts, sums, strict=True):
        before, mean = kinds.get((ranges, vcpus), (0, 0.0))
        total = before + int(number)
        kinds[ranges, vcpus] = total, (before * mean + float(share)) / total


def _choose(
    kinds: NDArray[np.int16], clusters: Sequence[tuple[int, int]], first: int, seed: int
) -> NDArray[np.int64]:
    """A cluster for each VM, from its number in the file."""
    numbers = _mixed(np.arange(first, first + len(kinds), dtype=np.uint64), seed)
    chosen = np.zeros(len(kinds), np.int64)
    for kind in np.unique(kinds).tolist():
        members = [at for at, (of, _) in enumerate(clusters) if kind < 0 or of == kind]
        ends = np.cumsum([clusters[at][1] for at in members])
        of_kind = kinds == kind
        hosts = (numbers[of_kind] % np.uint64(ends[-1])).astype(np.int64)
        chosen[of_kind] = np.array(members)[np.searchsorted(ends, hosts, side="right")]
    return chosen


def _mixed(numbers: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 (G. Steele et al., OOPSLA 2014): numbers that look random."""
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64(seed % 2**32) * np.uint64(2**32)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def lives(source: Path | bytes) -> Iterator[Life]:
    """The VMs of a cluster by arrival; ``source`` is its file, or the bytes of it."""
    buffer = pa.BufferReader(source) if isinstance(source, bytes) else pa.memory_map(str(source))
    with buffer, pa.ipc.open_file(buffer) as reader:
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        bounds = [(batch.column(0)[0].as_py(), batch.column(0)[-1].as_py()) for batch in batches]
        order = sorted(range(len(batches)), key=lambda index: bounds[index])
        begin = 0
        while begin < len(order):
            until = bounds[order[begin]][1]
            end = begin + 1
            while end < len(order) and bounds[order[end]][0] < until:
                until = max(until, bounds[order[end]][1])
                end += 1
            rows = max(_LEAST_ROWS, _ROWS_AT_ONCE // (end - begin))
            streams = [_rows(batches[index], rows) for index in order[begin:end]]
            yield from streams[0] if len(streams) == 1 else merge(*streams, key=itemgetter(0))
            begin = end


def _rows(batch: pa.RecordBatch, at_once: int) -> Iterator[Life]:
    for start in range(0, batch.num_rows, at_once):
        part = batch.slice(start, at_once)
        yield from zip(*(column.to_pylist() for column in part.columns), strict=True)
