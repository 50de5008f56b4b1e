"""What PAMT takes on a host before there are TDs: by level, by TDMR, and the reference counters."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from dpamt.abi.pages import (
    MAX_PA_LIMIT,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGES_PER_2M,
    PAMT_BITMAP_ENTRY_BITS,
    PAMT_PAIR_PAGES,
)
from dpamt.errors import InputError
from dpamt.host.core.kernel import Kernel
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.core.pamt_areas import pamt_bytes
from dpamt.host.core.refcounts import refcount_pages
from dpamt.module.releases import Release
from dpamt.plan.boot import Booted
from dpamt.plan.td_size import Capacities
from dpamt.plan.vintages import DYNAMIC_VINTAGES, STATIC_VINTAGES, Verdict, try_vintages
from dpamt.platform.machine import Machine
from dpamt.platform.tdx_log import HostLog
from dpamt.run.facts import PamtFacts
from dpamt.run.fits import tdx_bytes
from dpamt.run.world import pamt_of_mode

PAIR_BYTES: Final = PAMT_PAIR_PAGES * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class TdmrSize:
    """A TDMR, [base, end) in bytes, and the bytes of its PAMT by level."""

    base: int
    end: int
    level_1g: int
    level_2m: int
    level_4k: int
    bitmap: int

    @property
    def static(self) -> int:
        """Static PAMT."""
        return self.level_1g + self.level_2m + self.level_4k

    @property
    def dynamic(self) -> int:
        """Dynamic PAMT, pairs not counted."""
        return self.level_1g + self.level_2m + self.bitmap


@dataclass(frozen=True, slots=True)
class Top:
    """Dynamic PAMT at idle if the kernel counted page frames up to ``max_pfn``."""

    what: str
    max_pfn: int
    refcounts: int
    total: int


@dataclass(frozen=True, slots=True)
class HostSize:
    """A host without TDs.  Bytes, unless the name says otherwise."""

    source: str
    module: str
    memory_bytes: int
    tdx_bytes: int
    """From 1 MiB up: what TDs can get, less PAMT."""
    regions: int
    """2M regions that this memory touches."""
    capacities: Capacities
    """Usable 4K pages of a region, and how many regions have that many."""
    max_pfn: int
    nodes: int
    guest_keyids: int
    keyid_start_bit: int
    """Lowest address bit that holds a KeyID."""
    tdmrs: tuple[TdmrSize, ...]
    static: PamtFacts
    dynamic: PamtFacts
    """At idle."""
    tops: tuple[Top, ...]
    vintages: tuple[Verdict, ...]
    recorded_pamt_kib: int | None
    recorded_module: str | None
    log: HostLog | None
    """What the host's own log says of TDX; None without one."""
    recorded_is: str
    """Which mode gives the KB of the host's own log: ``static``, ``dynamic``, ``neither``; empty
    where the log has none."""
    notes: tuple[str, ...]

    @property
    def whole_regions(self) -> int:
        """Regions that are memory from end to end."""
        return sum(count for pages, count in self.capacities if pages == PAGES_PER_2M)

    def verdict(self, vintage: str) -> Verdict:
        """That of the vintage of this name."""
        return next(verdict for verdict in self.vintages if verdict.vintage == vintage)


def size_host(machine: Machine, release: Release) -> tuple[HostSize, Kernel]:
    """The sizes, and a kernel of the host that has just booted, with Dynamic PAMT if one can.

    Raises InputError for a host on which no kernel comes as far as sizes.
    """
    tried = try_vintages(machine, release)
    static = _first(tried, STATIC_VINTAGES)
    kernel = _first(tried, DYNAMIC_VINTAGES) or static
    if kernel is None or kernel.sysinfo is None:
        raise InputError(
            f"{machine.source}: {tried[0][0].reason}; expected a host that Linux can build the "
            "PAMT of"
        )
    sysinfo = replace(kernel.sysinfo, pamt_page_bitmap_entry_bits=PAMT_BITMAP_ENTRY_BITS)
    dynamic = pamt_of_mode(kernel, True, 0)
    capacities = _capacities(kernel)
    first, end = machine.private_keyids
    return (
        HostSize(
            source=machine.source,
            module=release.name,
            memory_bytes=machine.total_pages << PAGE_SHIFT,
            tdx_bytes=tdx_bytes(machine),
            regions=sum(count for _pages, count in capacities),
            capacities=capacities,
            max_pfn=machine.max_pfn,
            nodes=len(machine.nodes),
            guest_keyids=end - first - 1,
            keyid_start_bit=machine.hkid_start_bit,
            tdmrs=_tdmrs(kernel, sysinfo),
            static=pamt_of_mode(kernel, False, 0),
            dynamic=dynamic,
            tops=_tops(machine, dynamic),
            vintages=tuple(verdict for verdict, _booted in tried),
            recorded_pamt_kib=machine.recorded_pamt_kib,
            recorded_module=machine.recorded_module_version,
            log=machine.log,
            recorded_is=_recorded_is(machine, pamt_of_mode(kernel, False, 0), dynamic),
            notes=machine.notes,
        ),
        kernel,
    )


def _first(tried: tuple[tuple[Verdict, Booted], ...], names: tuple[str, ...]) -> Kernel | None:
    """The kernel of the first of these vintages that has TDMRs, those that initialise before."""
    candidates = [pair for pair in tried if pair[0].vintage in names and pair[1].kernel.tdmrs]
    candidates.sort(key=lambda pair: not pair[0].initialises)
    return candidates[0][1].kernel if candidates else None


def _capacities(kernel: Kernel) -> Capacities:
    """TDX memory by 2M region; entries of the memory list may share one."""
    counts: Counter[int] = Counter()
    edges: Counter[int] = (
        Counter()
    )  # usable pages of regions that are not one entry's from end to end
    for entry in kernel.memory_list or ():
        first, last = entry.start_pfn // PAGES_PER_2M, (entry.end_pfn - 1) // PAGES_PER_2M
        whole_first, whole_end = -(-entry.start_pfn // PAGES_PER_2M), entry.end_pfn // PAGES_PER_2M
        counts[PAGES_PER_2M] += max(whole_end - whole_first, 0)
        for region in {first, last}:
            if not whole_first <= region < whole_end:
                start = max(entry.start_pfn, region * PAGES_PER_2M)
                end = min(entry.end_pfn, (region + 1) * PAGES_PER_2M)
                edges[region] += end - start
    for pages in edges.values():
        counts[pages] += 1
    return tuple(sorted(((pages, n) for pages, n in counts.items() if n), reverse=True))


def _tdmrs(kernel: Kernel, sysinfo: TdxSysInfo) -> tuple[TdmrSize, ...]:
    sizes = []
    for tdmr in kernel.tdmrs:
        level_4k, level_2m, level_1g = pamt_bytes(tdmr.size, sysinfo, dynamic=False)
        bitmap = pamt_bytes(tdmr.size, sysinfo, dynamic=True)[0]
        sizes.append(TdmrSize(tdmr.base, tdmr.end, level_1g, level_2m, level_4k, bitmap))
    return tuple(sizes)


def _tops(machine: Machine, dynamic: PamtFacts) -> tuple[Top, ...]:
    """Where the counters may end: at this host's memory, at its KeyIDs, at 52 address bits."""
    ends = (
        ("as it is", machine.max_pfn),
        (f"below the KeyIDs, 2^{machine.hkid_start_bit}", 1 << machine.hkid_start_bit - PAGE_SHIFT),
        (f"2^{MAX_PA_LIMIT.bit_length() - 1}, the most possible", MAX_PA_LIMIT >> PAGE_SHIFT),
    )
    return tuple(
        Top(what, max_pfn, pages * PAGE_SIZE, dynamic.boot + pages * PAGE_SIZE)
        for what, max_pfn in ends
        for pages in (refcount_pages(max_pfn),)
    )


def _recorded_is(machine: Machine, static: PamtFacts, dynamic: PamtFacts) -> str:
    if machine.recorded_pamt_kib is None:
        return ""
    for name, facts in (("static", static), ("dynamic", dynamic)):
        if facts.boot == machine.recorded_pamt_kib << 10:
            return name
    return "neither"
