"""What came of a fleet: summed up from its clusters, and written as Parquet."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from dpamt.abi.pages import PAGE_SIZE, PAGES_PER_2M
from dpamt.files import OutputFolder
from dpamt.own_files import STAMP
from dpamt.plan.fleet import TABLES
from dpamt.plan.fleet.cluster import ClusterResult
from dpamt.plan.fleet.hosts import HostSizes
from dpamt.plan.fleet.series import HostSeries
from dpamt.plan.fleet.spread import Spread

PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)
_PAIR_BYTES: Final = 2 * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class HostSaving:
    """One host; bytes saved are static PAMT less Dynamic PAMT, negative where that costs more.

    ``low`` is with every control and S-EPT page in a region of its own, ``high`` with all packed.
    """

    host: int
    host_type: str
    static_bytes: int
    idle_bytes: int
    mean_tds: float
    mean_td_bytes: float
    mean_normal_bytes: float
    """Of VMs that are no TDs."""
    mean_saved: float
    mean_saved_low: float
    mean_saved_high: float
    least_saved: float
    most_saved: float
    losing_share: float
    """Share of the moments at which Dynamic PAMT takes more than static PAMT."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The whole fleet at one moment: bytes, TDs."""

    hours: float
    tds: int
    td_bytes: int
    normal_bytes: int
    """Of VMs that are no TDs."""
    dynamic_bytes: float
    saved: float
    saved_low: float
    saved_high: float


@dataclass(frozen=True, slots=True)
class VmKind:
    """VMs of one size: how many came, and the bytes that page pairs of one take, its control and
    S-EPT pages packed; ``static_bytes`` is what static PAMT takes for as much memory.
    """

    vcpus: int
    memory_bytes: int
    vms: int
    pair_bytes: int
    static_bytes: int


@dataclass(frozen=True)
class Fleet:
    """A fleet's weeks.  All bytes; see :class:`HostSaving` for what saved means."""

    vms: int
    tds: int
    """VMs that are TDs."""
    hosts: tuple[HostSaving, ...]
    moments: tuple[Moment, ...]
    spreads: dict[str, Spread]
    """By host type."""
    kinds: tuple[VmKind, ...]
    """The sizes that took most memory in all, by the first host type; the most first."""
    memory_bytes: int
    """RAM of all hosts."""
    static_bytes: int
    """Of all hosts."""
    mean_saved: float
    peak_saved: float
    least_saved: float
    saved_percentiles: dict[int, float]
    """Over hosts, of each one's mean."""
    hosts_losing: int
    """Hosts that lose at some moment."""
    hosts_losing_on_average: int
    placed_static: int
    placed_dynamic: int
    turned_away_static: int
    turned_away_dynamic: int

    @property
    def static_hosts(self) -> int:
        """Hosts that stay on static PAMT."""
        return sum(host.static_bytes == host.idle_bytes for host in self.hosts)

    @property
    def most_pairs(self) -> int:
        """Page pairs of all hosts at the moment that has most."""
        idle = sum(host.idle_bytes for host in self.hosts)
        return round(max(moment.dynamic_bytes for moment in self.moments) - idle) // _PAIR_BYTES

    @property
    def newly_fitting_tds(self) -> int:
        """TDs that found a host under Dynamic PAMT beyond those that do under static PAMT."""
        return self.placed_dynamic - self.placed_static


def sum_up(
    clusters: Sequence[tuple[int, int]],
    sizes: Sequence[HostSizes],
    results: Iterable[ClusterResult],
    spreads: Sequence[Spread],
    vms: int,
    step: float,
    begin: float = 0.0,
    kinds: tuple[VmKind, ...] = (),
    tds: int | None = None,
    series: HostSeries | None = None,
) -> Fleet:
    """``clusters`` are (host type, hosts), in the order of ``results``, each used once; ``series``
    is given every host at every moment.
    """
    hosts: list[HostSaving] = []
    sums: Any = 0.0
    placed, turned_away = [0, 0], [0, 0]
    for (kind, _count), result in zip(clusters, results, strict=True):
        size = sizes[kind]
        saved, low, high = savings(size, result, spreads[kind].regions_per_page)
        dynamic = size.static_bytes - saved
        parts = (result.tds, result.memory, result.normal, dynamic, saved, low, high)
        if series is not None:
            hours = (begin + np.arange(len(saved)) * step) / 3600
            series.add(len(hosts), hours, *parts[:5])
        sums = sums + np.array([part.sum(axis=1, dtype=np.float64) for part in parts])
        for mode in (0, 1):
            placed[mode] += result.placed[mode]
            turned_away[mode] += result.turned_away[mode]
        for at in range(saved.shape[1]):
            hosts.append(
                HostSaving(
                    len(hosts),
                    size.name,
                    size.static_bytes,
                    size.idle_bytes,
                    float(result.tds[:, at].mean()),
                    float(result.memory[:, at].mean()),
                    float(result.normal[:, at].mean()),
                    float(saved[:, at].mean()),
                    float(low[:, at].mean()),
                    float(high[:, at].mean()),
                    float(saved[:, at].min()),
                    float(saved[:, at].max()),
                    float((saved[:, at] < 0).mean()),
                )
            )
    means = np.array([host.mean_saved for host in hosts])
    percentiles = np.percentile(means, PERCENTILES).tolist()
    total = sums[4]
    return Fleet(
        vms=vms,
        tds=vms if tds is None else tds,
        hosts=tuple(hosts),
        moments=tuple(
            Moment((begin + at * step) / 3600, *map(int, row[:3]), *map(float, row[3:]))
            for at, row in enumerate(sums.T)
        ),
        spreads={size.name: spread for size, spread in zip(sizes, spreads, strict=True)},
        kinds=kinds,
        memory_bytes=sum(sizes[kind].memory_bytes * number for kind, number in clusters),
        static_bytes=sum(host.static_bytes for host in hosts),
        mean_saved=float(total.mean()),
        peak_saved=float(total.max()),
        least_saved=float(total.min()),
        saved_percentiles=dict(zip(PERCENTILES, percentiles, strict=True)),
        hosts_losing=sum(host.losing_share > 0 for host in hosts),
        hosts_losing_on_average=sum(host.mean_saved < 0 for host in hosts),
        placed_static=placed[0],
        placed_dynamic=placed[1],
        turned_away_static=turned_away[0],
        turned_away_dynamic=turned_away[1],
    )


MOST_KINDS: Final = 8


def vm_kinds(
    counted: Mapping[tuple[int, int], tuple[int, float]], sizes: HostSizes, share: float | None
) -> tuple[VmKind, ...]:
    """The kinds that took most memory, at this share of 2M pages, or at their own mean share."""
    order = sorted(counted, key=lambda kind: (-kind[0] * counted[kind][0], kind))
    found = []
    for ranges, vcpus in order[:MOST_KINDS]:
        number, mean = counted[ranges, vcpus]
        takes = sizes.takes(ranges, vcpus, mean if share is None else share)
        pairs = takes.folios + -(-(takes.singles + takes.scattered) // PAGES_PER_2M)
        static = round(takes.memory * sizes.static_bytes / sizes.memory_bytes)
        found.append(VmKind(vcpus, takes.memory, number, pairs * _PAIR_BYTES, static))
    return tuple(found)


def savings(
    sizes: HostSizes, result: ClusterResult, regions_per_page: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Bytes saved at each moment on each host: expected, at least, at most."""
    if sizes.static:
        nothing = np.zeros(result.memory.shape)
        return nothing, nothing, nothing
    singles = result.singles + result.scattered
    regions = sizes.regions
    expected = (
        result.folios
        + np.ceil(result.singles / PAGES_PER_2M)
        + np.ceil(result.scattered * regions_per_page)
    )
    most = result.folios + -(-result.singles // PAGES_PER_2M) + result.scattered
    least = result.folios + -(-singles // PAGES_PER_2M)
    base = float(sizes.static_bytes - sizes.idle_bytes)
    least, most = np.minimum(least, regions), np.minimum(most, regions)
    bounds = [np.clip(pairs, least, most) for pairs in (expected, most, least)]
    first, second, third = (base - pairs * float(_PAIR_BYTES) for pairs in bounds)
    return first, second, third


def write_parquet(
    fleet: Fleet,
    series: HostSeries,
    folder: Path | OutputFolder,
    about: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """The files of :data:`dpamt.plan.fleet.TABLES`, all whole or none there.

    Each column has its unit in its metadata, and the table has ``about`` (command, seed) beside the
    version of dpamt.  Raises InputError when the folder cannot be written to.
    """
    output = folder if isinstance(folder, OutputFolder) else OutputFolder(str(folder), TABLES)
    with output.open() as opened:
        _write(opened[TABLES[0]], fleet.hosts, HostSaving, about or {})
        _write(opened[TABLES[1]], fleet.moments, Moment, about or {})
        series.write(opened[TABLES[2]], {**(about or {}), **STAMP})
    return tuple(Path(output.path, name) for name in TABLES)


def _unit(name: str) -> str:
    """The unit of a column, by its name."""
    if "bytes" in name or "saved" in name:
        return "bytes"
    if "share" in name:
        return "share, 0 to 1"
    return {"hours": "hours", "tds": "TDs", "mean_tds": "TDs"}.get(name, "")


def _write(file: IO[Any], rows: Sequence[Any], kind: type[Any], about: Mapping[str, str]) -> None:
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(kind)}
    table = pa.table(columns)
    schema = pa.schema(
        [field.with_metadata({"unit": _unit(field.name)}) for field in table.schema],
        {**about, **STAMP},
    )
    table = table.cast(schema)
    pa.parquet.write_table(table, file)
