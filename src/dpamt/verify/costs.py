"""What a lock costs: the steps of a design's get and put, learned from its code, played in time.

A VCPU that boots its TD faults page after page: an exit, the path through KVM, get, AUG.  What get
does depends on whether the region has its pair already; both ways are learned by running the
design's own function step by step on the machine at rest (:func:`paths`): which lock, for how long,
with which SEAMCALLs under it.  The ways are then played by many VCPUs at once in simulated time.  A
lock is given in the order it is asked for, to readers together.  Put has no part in it: TDs that
boot give nothing back.

What is not modelled: cache lines going between CPUs, other users of the locks, the page allocator's
own locks.  So waiting is a lower bound.

Costs are the measured ones of the mailing list where there are any, and replaceable.
"""

import heapq
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NamedTuple

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.pages import PAGES_PER_2M
from dpamt.host.designs.base import Design
from dpamt.sync.observed import READ_WAITS, UNLOCKS, WAITS, Address
from dpamt.verify.learn.automaton import MARK
from dpamt.verify.learn.values import do_step
from dpamt.verify.programs.get_put import APART, Ground

PAGES_PLAYED: Final = 16_384
"""Pages that each VCPU faults in a simulation; counts are scaled up to the whole TD from there."""

OF_A_REGION: Final = "@"
"""Ends the name of a lock of which each region has its own."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds.

    ``fault``: one 4K fault without its get, of one VCPU: about 60 s for 160 GiB on 40 VCPUs
    (K. Shutsemau, v2 thread, 2025-08/09).  ``add``, ``remove``: PAMT.ADD and PAMT.REMOVE, 4 and 2
    on average (Y. Zhao, v5 thread, 2026-02).  ``step``: an operation on a shared word; ``page``: a
    page taken from or given to the allocator; both assumed.
    """

    fault: float = 57.0
    add: float = 4.0
    remove: float = 2.0
    step: float = 0.02
    page: float = 0.1
    jitter: float = 0.3
    """Faults take between (1 - jitter) and (1 + jitter) of ``fault``, each as likely."""


class Piece(NamedTuple):
    """A stretch of time: ``lock`` held ("" for none), ``shared`` by a reader, or just passing."""

    lock: str
    microseconds: float
    shared: bool = False


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


def _noted(ground: Ground, pfn: int) -> list[tuple[Address, str, int]]:
    """The steps of one get of ``pfn``, run for real."""
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
        kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    finally:
        world.shared.watch.observer = None
        cpu.seamcall = plain
    return counting.steps


def _timed(steps: list[tuple[Address, str, int]], costs: Costs) -> tuple[Piece, ...]:
    """Steps as pieces of time with and without a lock that others wait for."""
    pieces: list[Piece] = []
    lock, spent, shared = "", 0.0, False
    for address, method, leaf in steps:
        if method in WAITS:
            pieces.append(Piece(lock, spent, shared))
            shared = method in READ_WAITS
            lock, spent = address.array + (OF_A_REGION if address.number else ""), costs.step
        elif method in UNLOCKS:
            pieces.append(Piece(lock, spent + costs.step, shared))
            lock, spent, shared = "", 0.0, False
        elif method == MARK:
            spent += {TDH_PHYMEM_PAMT_ADD: costs.add, TDH_PHYMEM_PAMT_REMOVE: costs.remove}.get(
                leaf, 0.0
            )
        elif address.array == "verify.balance":
            spent += costs.page
        else:
            spent += costs.step
    pieces.append(Piece(lock, spent, shared))
    return tuple(piece for piece in pieces if piece.microseconds or piece.lock)


def lock_takes(pieces: tuple[Piece, ...]) -> int:
    """How often a lock is taken on the way, by readers too."""
    return sum(1 for piece in pieces if piece.lock)


def play(
    design: Design,
    vcpus: int,
    pages: int = PAGES_PLAYED,
    costs: Costs | None = None,
    seed: int = 0,
) -> Waiting:
    """Let ``vcpus`` VCPUs fault ``pages`` 4K pages each, regions one after the other.

    Each begins somewhere in a region of its own.  The same seed gives the same result.
    """
    told = costs if costs is not None else Costs()
    first, later = paths(design, told)
    pick = Random(seed)
    free_at: dict[str, float] = {}  # nobody holds it
    readable_at: dict[str, float] = {}  # no writer holds it
    taken = contended = 0
    waited = held = 0.0
    offsets = [pick.randrange(PAGES_PER_2M) for _ in range(vcpus)]
    queue = [(pick.random() * told.fault, vcpu, 0, -1) for vcpu in range(vcpus)]
    heapq.heapify(queue)
    end = 0.0
    while queue:
        now, vcpu, page, piece = heapq.heappop(queue)
        way = later if (page + offsets[vcpu]) % PAGES_PER_2M else first
        if piece < 0:
            now += told.fault * (1 + told.jitter * (2 * pick.random() - 1))
            heapq.heappush(queue, (now, vcpu, page, 0))
            continue
        lock, length, shared = way[piece]
        if lock:
            if lock.endswith(OF_A_REGION):
                lock += str(vcpu)  # every VCPU is in a region of its own
            begins = max(now, (readable_at if shared else free_at).get(lock, 0.0))
            taken += 1
            contended += begins > now
            waited += begins - now
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
        elif page + 1 < pages:
            heapq.heappush(queue, (now, vcpu, page + 1, -1))
    return Waiting(vcpus, pages, taken, contended, waited, held, end / 1e6)
