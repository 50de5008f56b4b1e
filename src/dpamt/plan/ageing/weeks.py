"""One host through its weeks: the events of a workload, by one seed, on the host that ages."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M, SIZE_2M
from dpamt.plan.ageing.host_4k import AnyHost
from dpamt.plan.ageing.pages import OutOfMemory
from dpamt.plan.ageing.workload import TdShape, Workload

REGION_FREE: Final = 0
REGION_PAIR: Final = 1
REGION_LARGE: Final = 2
REGION_OTHER: Final = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """The host at one moment.  ``packed`` is the least number of pairs its pages could do with."""

    tds: int
    td_pages: int
    """4K pages in TDX use, those in 2M pages counted too."""
    pairs: int
    packed: int
    pinned_by_one: int
    """Regions with a pair for a single page."""


@dataclass
class _Guest:
    """A TD of the simulation: what it wants, and how far it is."""

    td: Any
    """Of the host's own kind."""
    shape: TdShape
    wants_2m: NDArray[np.bool_]
    taken: int
    """2M ranges accepted so far, from the first."""
    away: list[int]
    """Ranges in the balloon."""


class Weeks:
    """A host under a workload, hour by hour; ``step`` raises nothing but faults of dpamt."""

    def __init__(self, host: AnyHost, workload: Workload, seed: int) -> None:
        self.host = host
        self.workload = workload
        self.hour = 0
        self.refused = 0
        """TDs that found no room, or ran out of it."""
        self.page_events = 0
        """4K pages mapped and unmapped so far."""
        self._random = Random(f"ageing {seed}")
        self._guests: dict[int, _Guest] = {}
        self._leaving: list[tuple[float, int]] = []
        self._born = 0
        keyids = len(host.kernel.guest_keyids)
        self.most = keyids if workload.max_tds is None else min(workload.max_tds, keyids)
        """TDs that may live at once: each needs a guest KeyID."""
        self.without_keyid = 0
        """TDs that were refused because there was no KeyID left."""
        self._room = int(host.allocator.free_count * workload.occupancy) << PAGE_SHIFT
        self._in_use = 0
        weights = [td.count for td in workload.tds]
        self._weights = weights
        mean = sum(td.count * td.memory for td in workload.tds) / sum(weights)
        self._rate = self._room / mean / workload.mean_life_hours
        self._next_arrival = 0.0
        self._fill()

    def _fill(self) -> None:
        """The host at the beginning is as full as it will be: TDs that came before."""
        while True:
            shape = self._pick()
            if self._in_use + shape.memory > self._room or len(self._guests) >= self.most:
                return
            if not self._arrive(0.0, shape, 1.0):
                return

    def _pick(self) -> TdShape:
        return self._random.choices(self.workload.tds, self._weights)[0]

    def step(self) -> Sample:
        """One hour."""
        end = self.hour + 1.0
        if not self.hour:
            self._next_arrival = self._random.expovariate(self._rate)
        while True:
            leaves = self._leaving[0][0] if self._leaving else end
            if min(leaves, self._next_arrival) >= end:
                break
            if leaves <= self._next_arrival:
                self._leave(heappop(self._leaving)[1])
                continue
            shape = self._pick()
            if len(self._guests) >= self.most:
                self.refused += 1
                self.without_keyid += 1
            elif self._in_use + shape.memory > self._room:
                self.refused += 1
            else:
                self._arrive(self._next_arrival, shape, self.workload.touched_at_start)
            self._next_arrival += self._random.expovariate(self._rate)
        for guest in list(self._guests.values()):
            try:
                self._live(guest)
            except OutOfMemory:
                self._die(guest)
        self.hour += 1
        return self.sample()

    def _arrive(self, now: float, shape: TdShape, touched: float) -> bool:
        """A TD comes and takes a share of its memory; False when the host has no room for it."""
        workload, random = self.workload, self._random
        ranges = shape.memory // SIZE_2M
        image = min(workload.image_pages, ranges * PAGES_PER_2M)
        image_ranges = -(-image // PAGES_PER_2M)
        stay = random.expovariate(1 / workload.mean_life_hours)
        wants = np.zeros(ranges, bool)
        beyond = ranges - image_ranges
        chosen = random.sample(range(beyond), round(shape.share_2m * beyond))
        wants[np.array(chosen, np.int64) + image_ranges] = True
        try:
            td = self.host.create(shape.memory, shape.vcpus, shape.share_2m > 0, image)
        except OutOfMemory:
            self.refused += 1
            return False
        self.page_events += image
        guest = _Guest(td, shape, wants, 0, [])
        number = self._born
        self._born += 1
        self._guests[number] = guest
        self._in_use += shape.memory
        heappush(self._leaving, (now + stay, number))
        try:
            self._take(guest, max(image_ranges, round(touched * ranges)))
        except OutOfMemory:
            self._die(guest)
            return False
        return True

    def _die(self, guest: _Guest) -> None:
        """The host has no memory for a page of the TD: KVM_RUN fails, its owner ends it."""
        number = next(number for number, one in self._guests.items() if one is guest)
        self._leaving.remove(next(item for item in self._leaving if item[1] == number))
        heapify(self._leaving)
        self.refused += 1
        self._leave(number)

    def _leave(self, number: int) -> None:
        guest = self._guests.pop(number)
        self.page_events += (guest.taken - len(guest.away)) * PAGES_PER_2M
        self.host.destroy(guest.td)
        self._in_use -= guest.shape.memory

    def _take(self, guest: _Guest, upto: int) -> None:
        """Accept the ranges up to ``upto``, as 2M pages where the guest wants them."""
        upto = min(upto, guest.td.ranges)
        if upto <= guest.taken:
            return
        wants = guest.wants_2m[guest.taken : upto]
        edges = np.flatnonzero(np.diff(wants, prepend=~wants[:1])).tolist()
        for start, stop in zip(edges, [*edges[1:], len(wants)], strict=True):
            self._fault(guest, guest.taken + start, stop - start, bool(wants[start]))
        guest.taken = upto

    def _fault(self, guest: _Guest, first: int, ranges: int, at_2m: bool) -> None:
        vcpu = self._random.randrange(len(guest.td.vcpus))
        self.page_events += ranges * PAGES_PER_2M
        self.host.fault(guest.td, vcpu, first * PAGES_PER_2M, ranges * PAGES_PER_2M, at_2m)

    def _live(self, guest: _Guest) -> None:
        workload, random = self.workload, self._random
        while guest.away:
            index = guest.away.pop()
            self._fault(guest, index, 1, bool(guest.wants_2m[index]))
        if guest.taken < guest.td.ranges:
            more = -(-guest.td.ranges // max(1, round(workload.warm_up_hours)))
            self._take(guest, guest.taken + more)
        pages = workload.conversion_pages
        for index in self._some(guest.taken, workload.converted_per_hour):
            first = index * PAGES_PER_2M + random.randrange(PAGES_PER_2M // pages) * pages
            self.page_events += 2 * pages
            self.host.punch(guest.td, first, pages)
            self.host.fault(guest.td, random.randrange(len(guest.td.vcpus)), first, pages)
        for index in self._some(guest.taken, workload.ballooned_per_hour):
            self.page_events += PAGES_PER_2M
            self.host.punch(guest.td, index * PAGES_PER_2M, PAGES_PER_2M)
            guest.away.append(index)

    def _some(self, ranges: int, share: float) -> list[int]:
        """A share of the ranges, rounded at random so that its mean is right."""
        wanted = share * ranges
        count = int(wanted) + (self._random.random() < wanted % 1)
        return sorted(self._random.sample(range(ranges), min(count, ranges)))

    def sample(self) -> Sample:
        """The host as it is."""
        counts = np.frombuffer(self.host.counts, np.uint16)
        used = int(counts.sum(dtype=np.int64))
        large = int(np.frombuffer(self.host.large, np.uint8).sum(dtype=np.int64))
        return Sample(
            tds=len(self._guests),
            td_pages=used + large * PAGES_PER_2M,
            pairs=self.host.pairs,
            packed=-(-used // PAGES_PER_2M),
            pinned_by_one=int(np.count_nonzero(counts == 1)),
        )

    def end(self) -> None:
        """Every TD goes."""
        for number in list(self._guests):
            self._leave(number)

    def regions(self) -> bytes:
        """What each 2M region from address 0 on is: REGION_FREE, _PAIR, _LARGE, _OTHER."""
        counts = np.frombuffer(self.host.counts, np.uint16)
        states = np.full(len(counts), REGION_OTHER, np.uint8)
        for _nid, ranges in self.host.allocator.snapshot():
            for start, end in ranges:
                states[-(-start // PAGES_PER_2M) : max(end // PAGES_PER_2M, 0)] = REGION_FREE
        states[counts != 0] = REGION_PAIR
        states[np.frombuffer(self.host.large, np.uint8) != 0] = REGION_LARGE
        return states.tobytes()
