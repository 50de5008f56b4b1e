"""The fuzzer: random hosts on one module, checked whole; a failure is cut down and shown.

After each call everything that it has changed in the PAMT is checked (``fuzz_watch.py``), RDMD of
it included, and that no lock is held but by others.  What costs more, the whole tree from nothing,
every S-EPT against it, and RDMD of what did not change, is checked every CHECK_EVERY operations.

``make fuzz`` runs it until stopped.  An episode is one module and one seed; a run is the episodes
of consecutive seeds, so that it can be resumed at any of them::

    python -m tests.module.fuzz --calls 1000000 --seed 17
"""

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.module.releases import RELEASES
from tests.module.fuzz_host import Hosts
from tests.module.fuzz_noise import start_up
from tests.module.fuzz_world import Answer, Operation, Release, World

EPISODE_OPERATIONS = 2500
START_UP_OPERATIONS = 400
CHECK_EVERY = 24
"""Operations from one check of the whole tree, S-EPTs too, to the next."""
WATCH_EVERY = 60
"""Operations from one call that is watched for what a refusal changes to the next."""
SHRINK_SECONDS = 20.0
SHOWN_OPERATIONS = 60


@dataclass(frozen=True)
class Ground:
    """Where an episode plays."""

    dynamic: bool
    release: str
    started: bool

    def world(self) -> World:
        return World(self.dynamic, self.release, self.started)


@dataclass
class Totals:
    """What has been called so far."""

    calls: int = 0
    answers: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, world: World) -> None:
        self.calls += world.calls
        for key, times in world.answers.items():
            self.answers[key] = self.answers.get(key, 0) + times

    def statuses(self, number: int) -> set[int]:
        """Status codes that a leaf has given."""
        return {status for leaf, status in self.answers if leaf == number}


class FuzzError(AssertionError):
    """The module broke a law; the message is the seed, the fault and the operations to it."""

    def __init__(self, seed: int, ground: Ground, fault: str, trail: list[Operation]) -> None:
        mode = "dynamic" if ground.dynamic else "static"
        start = "" if ground.started else ", not started"
        lines = [
            f"seed {seed} (release {ground.release}, {mode}{start}): {fault}",
            f"after {len(trail)} operations, of which the last {SHOWN_OPERATIONS} at most:",
            *(f"  {operation}" for operation in trail[-SHOWN_OPERATIONS:]),
        ]
        super().__init__("\n".join(lines))
        self.fault = fault
        self.trail = trail


def ground_of(seed: int) -> Ground:
    """Modes and releases by turns, every eighth episode a start-up."""
    dynamic = seed % 4 != 3
    return Ground(dynamic, list(RELEASES)[seed // 4 % 3], seed % 8 != 5)


def episode(seed: int) -> World:
    """One episode; its world.  Raises FuzzError."""
    ground = ground_of(seed)
    world = ground.world()
    trail: list[Operation] = []
    fault = ""
    for number, _ in enumerate(_play(world, ground, seed, trail)):
        if world.broken or number % CHECK_EVERY == 0:
            fault = _faults(world, number)
            if fault:
                break
    else:
        fault = _fault_at_the_end(world, trail)
    if fault:
        raise FuzzError(seed, ground, *shortest(ground, trail, fault))
    return world


def _play(world: World, ground: Ground, seed: int, trail: list[Operation]) -> Iterator[None]:
    """Operation after operation, each in ``trail`` before it happens."""
    hosts = Hosts(world, seed) if ground.started else None
    pick = random.Random(seed)
    for number in range(EPISODE_OPERATIONS if ground.started else START_UP_OPERATIONS):
        operation = hosts.next() if hosts else start_up(pick, world)
        trail.append(operation)
        answer = _do(world, operation, number % WATCH_EVERY == 0)
        if hosts:
            hosts.told(answer)
        yield


def _do(world: World, operation: Operation, watched: bool = False) -> Answer:
    """Do it; whatever is raised, ModuleFatal too, is a fault: nothing here corrupts the module."""
    try:
        return world.play(operation, watched)
    except Exception as error:  # the fuzzer's business is to find any
        world.broken.append(f"{operation} raised {type(error).__name__}: {error}")
        return 0, (0,) * 8


def _faults(world: World, seed: int, everywhere: bool = False) -> str:
    """What is wrong now; empty when nothing is."""
    if not world.broken:
        try:
            world.check(seed, everywhere)
        except Exception as error:
            world.broken.append(f"check raised {type(error).__name__}: {error}")
    return world.broken[0] if world.broken else ""


def _fault_at_the_end(world: World, trail: list[Operation]) -> str:
    """The last check, when every other CPU has let go."""
    for who in range(3):
        trail.append(Release(who))
        _do(world, trail[-1])
    return _faults(world, 0)


# Failures.


def _replay(ground: Ground, trail: list[Operation], kind: str = "") -> tuple[int, str]:
    """(operations to the first fault of that kind, the fault); (0, "") where there is none.

    The whole tree is checked after the last of them only: each call is watched anyway.
    """
    world = ground.world()
    for number, operation in enumerate(trail):
        _do(world, operation, watched="changed something" in kind)
        last = number == len(trail) - 1
        fault = _faults(world, number, True) if world.broken or last else ""
        if fault:
            return (number + 1, fault) if not kind or kind_of(fault) == kind else (0, "")
    return 0, ""


def kind_of(fault: str) -> str:
    """A fault without its numbers, so that two of the same kind are told to be."""
    text = fault.split(" -> ")[-1].split(" raised ")[-1]
    return re.sub(r"0x[0-9a-f]+|[0-9]+", "N", text)[:18]


def shortest(ground: Ground, trail: list[Operation], fault: str) -> tuple[str, list[Operation]]:
    """The fault and the fewest operations found to lead to it, in :data:`SHRINK_SECONDS`."""
    kind = kind_of(fault)
    length, found = _replay(ground, trail, kind)
    if not length:
        return f"{fault} (not seen again when replayed)", trail
    trail, fault = trail[:length], found
    deadline = time.monotonic() + SHRINK_SECONDS
    chunk = len(trail) // 2
    while chunk and time.monotonic() < deadline:
        start = 0
        while start < len(trail) and time.monotonic() < deadline:
            shorter = trail[:start] + trail[start + chunk :]
            length, found = _replay(ground, shorter, kind)
            if length:
                trail, fault = shorter[:length], found
            else:
                start += chunk
        chunk = min(chunk // 2, len(trail))
    return fault, trail


def run(calls: int, seed: int, report_seconds: float = 10.0) -> Totals:
    """Episodes from ``seed`` on until ``calls`` calls are made (0: for ever).  Raises FuzzError."""
    totals = Totals()
    began = reported = time.monotonic()
    while not calls or totals.calls < calls:
        totals.add(episode(seed))
        seed += 1
        now = time.monotonic()
        if now - reported >= report_seconds:
            reported = now
            rate = totals.calls / (now - began)
            print(f"{totals.calls:,} calls, {rate:,.0f} a second; resume with SEED={seed}")
            sys.stdout.flush()
    return totals


def main() -> int:
    """0: nothing found; 1: a law is broken."""
    parser = argparse.ArgumentParser(description="Fuzz the module until stopped.")
    parser.add_argument("--calls", type=int, default=0, help="stop after so many (default: never)")
    parser.add_argument("--seed", type=int, default=None, help="first seed (default: any)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"first seed {seed}")
    try:
        totals = run(options.calls, seed)
    except FuzzError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        return 130
    for number in sorted({number for number, _ in totals.answers}):
        given = {st: n for (leaf, st), n in totals.answers.items() if leaf == number}
        done = given.get(0, 0)
        name = LEAF_NAMES.get(number, f"leaf {number}")
        print(f"{name:24} {sum(given.values()):9,} calls {done:9,} done {len(given):3} statuses")
    print(f"{totals.calls:,} calls, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
