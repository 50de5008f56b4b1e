"""In how many regions single pages lie: found by letting one host of the fleet age, page by page.

Folios need a pair each, exactly, but where control and S-EPT pages lie is the page allocator's
doing.  So the VMs that the placement gave to one host are run through the ageing simulation, by the
rules of `dpamt run`, and the regions that it needs for such a page are used for all hosts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dpamt.abi.pages import PAGES_PER_2M, SIZE_2M
from dpamt.plan.ageing.boot import Grouping, boot_ageing
from dpamt.plan.ageing.host_4k import AnyHost, ageing_host
from dpamt.plan.ageing.pages import OutOfMemory
from dpamt.plan.fleet.cluster import Event
from dpamt.plan.fleet.hosts import IMAGE_PAGES, HostSizes
from dpamt.platform.machine import Machine

PACKED: Final = 1 / PAGES_PER_2M


@dataclass(frozen=True, slots=True)
class Spread:
    """Regions with a pair for each control or S-EPT page: from 1/512 (packed) to 1.

    ``hours`` were simulated, ``tds`` TDs were there at their end; ``lowest`` and
    ``highest`` are hourly values, which pass 1 where folios run out and guests get single pages.
    """

    regions_per_page: float
    lowest: float
    highest: float
    hours: int
    tds: int


NOT_LOOKED_AT: Final = Spread(PACKED, PACKED, PACKED, 0, 0)
"""Of hosts on static PAMT: they have no pairs."""


def find_spread(
    machine: Machine,
    sizes: HostSizes,
    events: Sequence[Event],
    hours: int,
    seed: int,
    fragmentation: float,
    grouping: Grouping = "page-block",
) -> Spread:
    """Let the host live through its first ``hours`` of these events."""
    huge = any(life is not None and life[5] and life[4] for _when, _number, life in events)
    host = ageing_host(boot_ageing(machine, seed, fragmentation, grouping=grouping), huge)
    random = np.random.Generator(np.random.PCG64(seed))
    tds: dict[int, Any] = {}
    sums = {"folios": 0, "singles": 0, "scattered": 0}
    by_number: dict[int, tuple[int, int, int]] = {}
    normal: dict[int, list[tuple[int, int]]] = {}
    regions, pages, hourly = 0.0, 0.0, []
    position = 0
    for hour in range(1, hours + 1):
        while position < len(events) and events[position][0] < hour * 3600:
            _when, number, life = events[position]
            position += 1
            if life is None:
                for run in normal.pop(number, ()):
                    host.allocator.free_folios(*run)
                if number in tds:
                    host.destroy(tds.pop(number))
                    for name, value in zip(sums, by_number.pop(number), strict=True):
                        sums[name] -= value
                continue
            _arrival, _departure, ranges, vcpus, share, is_td = life
            if not is_td:  # its memory is simply away
                normal[number] = host.allocator.folios(ranges)
                continue
            td = build_td(host, ranges, vcpus, share, random)
            if td is not None:
                takes = sizes.takes(ranges, vcpus, share)
                tds[number] = td
                by_number[number] = (takes.folios, takes.singles, takes.scattered)
                for name, value in zip(sums, by_number[number], strict=True):
                    sums[name] += value
        if sums["scattered"]:
            needed = host.pairs - sums["folios"] - sums["singles"] / PAGES_PER_2M
            regions += needed
            pages += sums["scattered"]
            hourly.append(needed / sums["scattered"])
    if not hourly:
        return Spread(PACKED, PACKED, PACKED, hours, 0)
    return Spread(
        min(max(regions / pages, PACKED), 1.0), min(hourly), max(hourly), hours, len(by_number)
    )


def build_td(
    host: AnyHost, ranges: int, vcpus: int, share: float, random: np.random.Generator
) -> Any:
    """A TD with all its memory in use; None when the host has no room for it."""
    image = min(-(-IMAGE_PAGES // PAGES_PER_2M), ranges)
    wants = np.zeros(ranges, bool)
    chosen = random.permutation(ranges - image)[: round(share * (ranges - image))]
    wants[chosen + image] = True
    try:
        td = host.create(ranges * SIZE_2M, vcpus, share > 0, min(IMAGE_PAGES, ranges * 512))
    except OutOfMemory:
        return None
    edges = np.flatnonzero(np.diff(wants, prepend=~wants[:1])).tolist()
    try:
        for turn, (start, stop) in enumerate(zip(edges, [*edges[1:], ranges], strict=True)):
            first, count = start * PAGES_PER_2M, (stop - start) * PAGES_PER_2M
            host.fault(td, turn % vcpus, first, count, bool(wants[start]))
    except OutOfMemory:
        host.destroy(td)
        return None
    return td
