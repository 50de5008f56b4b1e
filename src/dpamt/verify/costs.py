"""What a lock costs: the steps of a design's get and put, learned from its code, played in time.

Theory.  A VCPU that boots its TD faults page after page: an exit, the path through KVM, get, AUG.
What get does depends on whether the region has its pair already, what put does on whether it is the
last; all four ways are learned by running the design's own functions step by step on the machine at
rest (:func:`paths`, :func:`put_paths`): which lock, for how long, with which SEAMCALLs under it.
The ways are then played by many VCPUs at once in simulated time: a closed system, in which each
VCPU works for a while (``fault``), asks, waits, and works again.  A lock is given in the order it
is asked for, to readers together.

Five things make a contended lock cost more than its steps, each a number of :class:`Costs`.  Its
cache line, and the counter's, come from the CPU that had it last (``handover``); from a queue, the
line through which the next one in it gets its turn.  Pages that come in a burst (a guest that
accepts memory) leave little time between two gets of a VCPU, so the queue never empties
(``fault``).  A SEAMCALL takes as long as it takes, and those behind a slow one wait longer
(``LEAST``).  A region that gives few pages needs its pair added more often (``region_v5``).  And a
call is held up for reasons that have nothing to do with the lock: the longest of many calls is one
of those (:func:`longest_stall`).

What is not modelled: other users of the locks, the page allocator's own locks, memory cgroups, and
several VCPUs that come to a fresh region together (K. Shutsemau saw that once in a couple of runs,
v2 thread, 2025-08).

Where the numbers come from and what they are good for: :mod:`dpamt.verify.lock_costs`.
"""

import heapq
from dataclasses import dataclass
from math import inf, sqrt
from random import Random
from typing import Any, Final, NamedTuple

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.designs.base import Design
from dpamt.sync.observed import Address
from dpamt.sync.steps import READ_WAITS, UNLOCKS, WAITS
from dpamt.verify.learn.automaton import MARK
from dpamt.verify.learn.values import do_step
from dpamt.verify.programs.ground import APART, Ground

PAGES_PLAYED: Final = 16_384
"""Pages that each VCPU faults in a simulation; counts are scaled up to the whole TD from there."""

LEAST: Final = 0.5
"""The shortest PAMT.ADD or PAMT.REMOVE as a share of the mean: 2 of 4 us, 1 of 2 (Y. Zhao, v5
thread, 2026-02).  What is over it is drawn from an exponential distribution."""

OF_A_REGION: Final = "@"
"""Ends the name of a lock of which each region has its own."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds.

    ``fault``: a 4K fault without its get, in a burst; ``zap``: taking a page out without its put
    (BLOCK, TRACK, REMOVE, WBINVD; assumed).  ``add``, ``remove``: PAMT.ADD and PAMT.REMOVE, 4 and 2
    on average (Y. Zhao, v5 thread, 2026-02).  ``step``: an operation on a shared word, a lock's
    included; ``page``: a page taken or given back, a quarter of what a get that needs no pair pays
    for both, clearing included (CPU with the partial-write erratum).  ``handover``: the lines of a
    lock and its counter come from another CPU; once more from a queue.  ``stall``: the longest that
    one of a million calls is held up; it grows with their number to the power ``growth``.
    ``add_2025``: ADD on the machine of K. Shutsemau's figures, where REMOVE takes the same share of
    it; ``region_v5``: pages that a region gave in Y. Zhao's of 2026-02 (neither was published).

    Fitted on measured figures by :func:`dpamt.verify.lock_costs.fit`, except those with a source.
    """

    fault: float = 11.57
    zap: float = 8.0
    add: float = 4.0
    remove: float = 2.0
    step: float = 0.0445
    page: float = 0.5786
    handover: float = 0.2764
    stall: float = 629.0
    growth: float = 0.627
    add_2025: float = 6.28
    region_v5: float = 17.0
    jitter: float = 0.3
    """Faults take between (1 - jitter) and (1 + jitter) of ``fault``, each as likely."""


class Piece(NamedTuple):
    """A stretch of time: ``lock`` held ("" for none), ``shared`` by a reader, or just passing.

    ``varies``: the mean of what comes on top of it, exponentially distributed.
    """

    lock: str
    microseconds: float
    shared: bool = False
    varies: float = 0.0


class Waiting(NamedTuple):
    """What one simulation gives; times in microseconds, for all VCPUs together."""

    vcpus: int
    pages: int
    taken: int
    """Times that the lock was taken."""
    contended: int
    """Times that somebody had to wait for it."""
    waited: float
    held: float
    seconds: float
    """Simulated time until the last VCPU was done."""
    spent: float = 0.0
    """In get or put, waiting included."""
    longest: float = 0.0
    """The longest get or put."""
    firsts: int = 0
    """Gets that add a pair, or puts that remove one."""
    firsts_spent: float = 0.0
    firsts_waited: float = 0.0
    longest_wait: float = 0.0
    shortest_first: float = 0.0


class _Counting:
    """An observer that lets every step happen, and notes it."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.steps: list[tuple[Address, str, int]] = []

    def step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        """Do the step on the word itself."""
        shared = self._ground.world.shared
        self.steps.append((address, method, arguments[0] if method == MARK else -1))
        if method == MARK:
            return None
        array = shared.array(address.array)
        shared.watch.observer = None
        try:
            return do_step(array, address.number, method, arguments)
        finally:
            shared.watch.observer = self


def paths(design: Design, costs: Costs) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """(first get of a region, any later get) as pieces of time, from the design's own function."""
    ground = Ground(design)
    ground.begin()
    ground.allocator.pair_pages = ground.donors(0, 1, APART)
    first = _pieces(ground, ground.region(0), costs)
    later = _pieces(ground, ground.region(0) + 1, costs)
    return first, later


def put_paths(design: Design, costs: Costs) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """(last put of a region, any other put) as pieces of time, from the design's own function."""
    ground = Ground(design)
    ground.begin()
    ground.allocator.pair_pages = ground.donors(0, 1, APART)
    kernel = ground.world.kernel
    for page in (0, 1):
        kernel.tdx_pamt_get(kernel, kernel.cpus[0], ground.region(0) + page, None)
    other = _timed(_noted(ground, ground.region(0) + 1, put=True), costs)
    last = _timed(_noted(ground, ground.region(0), put=True), costs)
    return last, other


def fast_path_locks(design: Design) -> int:
    """Locks that others wait for, taken by a get in a region that has its pair; readers too."""
    ground = Ground(design)
    ground.begin()
    ground.allocator.pair_pages = ground.donors(0, 1, APART)
    _noted(ground, ground.region(0))
    later = _noted(ground, ground.region(0) + 1)
    return sum(1 for _, method, _ in later if method in WAITS)


def _pieces(ground: Ground, pfn: int, costs: Costs) -> tuple[Piece, ...]:
    """One get of ``pfn`` as pieces of time."""
    return _timed(_noted(ground, pfn), costs)


def _noted(ground: Ground, pfn: int, put: bool = False) -> list[tuple[Address, str, int]]:
    """The steps of one get of ``pfn``, or of its put, run for real."""
    world = ground.world
    counting = _Counting(ground)
    kernel = world.kernel
    cpu = kernel.cpus[0]
    calls: list[tuple[Address, str, int]] = counting.steps
    plain = cpu.seamcall

    def told(rax: int, args: Any) -> int:
        calls.append((Address("", 0), MARK, rax & 0xFFFF))
        world.shared.watch.observer = None
        status = plain(rax, args)
        world.shared.watch.observer = counting
        return status

    cpu.seamcall = told
    world.shared.watch.observer = counting
    try:
        if put:
            kernel.tdx_pamt_put(kernel, cpu, pfn)
        else:
            kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    finally:
        world.shared.watch.observer = None
        cpu.seamcall = plain
    return counting.steps


def _timed(steps: list[tuple[Address, str, int]], costs: Costs) -> tuple[Piece, ...]:
    """Steps as pieces of time with and without a lock that others wait for."""
    pieces: list[Piece] = []
    lock, spent, shared, varies = "", 0.0, False, 0.0
    means = {TDH_PHYMEM_PAMT_ADD: costs.add, TDH_PHYMEM_PAMT_REMOVE: costs.remove}
    for address, method, leaf in steps:
        if method in WAITS:
            pieces.append(Piece(lock, spent, shared, varies))
            shared, varies = method in READ_WAITS, 0.0
            lock, spent = address.array + (OF_A_REGION if address.number else ""), costs.step
        elif method in UNLOCKS:
            pieces.append(Piece(lock, spent + costs.step, shared, varies))
            lock, spent, shared, varies = "", 0.0, False, 0.0
        elif method == MARK:
            mean = means.get(leaf, 0.0)
            spent += LEAST * mean
            varies += mean - LEAST * mean
        elif address.array == "verify.balance":
            spent += costs.page
        else:
            spent += costs.step
    pieces.append(Piece(lock, spent, shared, varies))
    return tuple(piece for piece in pieces if piece.microseconds or piece.lock)


def lock_takes(pieces: tuple[Piece, ...]) -> int:
    """How often a lock is taken on the way, by readers too."""
    return sum(1 for piece in pieces if piece.lock)


def longest_stall(costs: Costs, calls: float) -> float:
    """Microseconds for which the longest of ``calls`` calls is held up, whatever it waits for.

    That of a distribution with a long tail: P(longer than t) falls as t ** (-1 / growth).
    """
    return costs.stall * float((calls / 1e6) ** costs.growth)


def play(
    design: Design,
    vcpus: int,
    pages: int = PAGES_PLAYED,
    costs: Costs | None = None,
    seed: int = 0,
    region: int = PAGES_PER_2M,
) -> Waiting:
    """Let ``vcpus`` VCPUs fault ``pages`` 4K pages each, ``region`` of a region, then of another.

    Each begins somewhere in a region of its own.  The same seed gives the same result.
    """
    told = costs if costs is not None else Costs()
    first, later = paths(design, told)
    return _play(vcpus, pages, told, told.fault, first, later, seed, region)


def play_zaps(
    design: Design,
    threads: int,
    pages: int,
    costs: Costs | None = None,
    seed: int = 0,
    region: int = PAGES_PER_2M,
) -> Waiting:
    """Let as many threads, one for each TD that ends, take ``pages`` pages out each."""
    told = costs if costs is not None else Costs()
    last, other = put_paths(design, told)
    return _play(threads, pages, told, told.zap, last, other, seed, region)


def play_storm(
    design: Design,
    vcpus: int,
    rounds: int,
    lone: bool = False,
    costs: Costs | None = None,
    seed: int = 0,
) -> Waiting:
    """Let ``vcpus`` VCPUs convert a page of theirs to shared and back, again and again.

    ``lone``: it is the only page of its region in use, so each round adds and removes the pair.
    """
    told = costs if costs is not None else Costs()
    way = put_paths(design, told)[not lone] + paths(design, told)[not lone]
    return _play(vcpus, rounds, told, told.fault + told.zap, way, way, seed)


def _mean_of_uniform(many: int, pick: Random) -> float:
    """The mean of as many variables between -1 and 1; a normal one from a dozen on."""
    if many < 12:
        return sum(2 * pick.random() - 1 for _ in range(many)) / many
    return pick.gauss(0.0, 1 / sqrt(3 * many))


def _play(
    vcpus: int,
    rounds: int,
    costs: Costs,
    think: float,
    first: tuple[Piece, ...],
    later: tuple[Piece, ...],
    seed: int,
    region: int = PAGES_PER_2M,
) -> Waiting:
    """The closed system: each VCPU works ``think``, goes its way, and again."""
    pick = Random(seed)
    free_at: dict[str, float] = {}  # nobody holds it
    readable_at: dict[str, float] = {}  # no writer holds it
    holder: dict[str, int] = {}  # who had it last
    taken = contended = 0
    waited = held = spent = longest = longest_wait = 0.0
    shortest_first = inf
    firsts, firsts_spent, firsts_waited = 0, 0.0, 0.0
    offsets = [pick.randrange(region) for _ in range(vcpus)]
    asked = [0.0] * vcpus
    queue = [(pick.random() * think, vcpu, 0, -1) for vcpu in range(vcpus)]
    heapq.heapify(queue)
    end = 0.0
    alone = 0.0 if lock_takes(later) else sum(piece.microseconds for piece in later)
    while queue:
        now, vcpu, page, piece = heapq.heappop(queue)
        if alone and piece < 0:
            # Those that meet nobody, up to the next first get or the end, are one stretch of time.
            many = min(-(page + offsets[vcpu]) % region, rounds - page)
            if many:
                page += many
                now += many * (alone + think * (1 + costs.jitter * _mean_of_uniform(many, pick)))
                spent += many * alone
                longest, end = max(longest, alone), max(end, now)
                if page == rounds:
                    continue
        way = later if (page + offsets[vcpu]) % region else first
        if piece < 0:
            now += think * (1 + costs.jitter * (2 * pick.random() - 1))
            asked[vcpu] = now
            heapq.heappush(queue, (now, vcpu, page, 0))
            continue
        lock, length, shared, varies = way[piece]
        if varies:
            length += pick.expovariate(1 / varies)
        if lock:
            if lock.endswith(OF_A_REGION):
                lock += str(vcpu)  # every VCPU is in a region of its own
            begins = max(now, (readable_at if shared else free_at).get(lock, 0.0))
            if holder.get(lock, vcpu) != vcpu:
                length += costs.handover * (2 if begins > now else 1)
            holder[lock] = vcpu
            taken += 1
            contended += begins > now
            waited += begins - now
            longest_wait = max(longest_wait, begins - now)
            firsts_waited += begins - now if way is first else 0.0
            held += length
            now = begins + length
            free_at[lock] = max(now, free_at.get(lock, 0.0))
            if not shared:
                readable_at[lock] = now
        else:
            now += length
        end = max(end, now)
        if piece + 1 < len(way):
            heapq.heappush(queue, (now, vcpu, page, piece + 1))
            continue
        spent += now - asked[vcpu]
        longest = max(longest, now - asked[vcpu])
        if way is first:
            firsts += 1
            firsts_spent += now - asked[vcpu]
            shortest_first = min(shortest_first, now - asked[vcpu])
        if page + 1 < rounds:
            heapq.heappush(queue, (now, vcpu, page + 1, -1))
    return Waiting(
        vcpus,
        rounds,
        taken,
        contended,
        waited,
        held,
        end / 1e6,
        spent,
        longest,
        firsts,
        firsts_spent,
        firsts_waited,
        longest_wait,
        shortest_first if firsts else 0.0,
    )
