"""Random small threads, searched, and held against every interleaving of their steps.

The threads run a short list of operations on three words, two spinlocks, a reader/writer lock and a
lock of the module, which is tried and never waited for.
The search learns them as automata, takes steps together, interchanges equal threads and leaves
states out.  The other side knows none of that, and nothing of dpamt's words and locks: it keeps
values, holders and positions in tuples, and does one operation of one thread at a time.  Both must
come to the same final values, the same things that threads say, the same deadlocks and livelocks.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

import pytest

from dpamt.verify.explore.search import search_of
from dpamt.verify.explore.state import Knowledge
from dpamt.verify.learn.automaton import Body, Event, Recorder, Start
from dpamt.verify.learn.control_point import ControlPoints
from dpamt.verify.programs.problem import WORDS, Problem, ThreadClass
from dpamt.verify.properties.named import DEADLOCK, LIVELOCK, Property, properties
from tests.verify.explore.test_movers import Machine

from .backwards import lead_to

FIRST: Final = 1
"""What word 0 holds at first; the others hold 0."""


class Op(NamedTuple):
    """What a thread does: on which word or lock, and with which number."""

    what: str
    which: int = 0
    number: int = 0


Ops = tuple[Op, ...]
BUSY: Final = -1
"""What an acquire of the module's lock gives that met contention; else 0."""


@dataclass(frozen=True)
class Kind:
    """Threads that do the same."""

    ops: Ops
    count: int = 1
    phase: int = 0
    interrupts: int = -1


@dataclass(frozen=True)
class Came:
    """What threads come to, over all schedules."""

    finals: frozenset[tuple[int, ...]]
    """Values of the words when every thread has ended."""
    said: frozenset[str]
    deadlock: bool
    livelock: bool


# As the search has it.


class Gated(Machine):
    """The words and locks, and a lock of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder(ControlPoints((), (Gated,)))
        self.gate = self.shared.shared_exclusive_locks("gate").at(0)


def run(m: Gated, name: str, ops: Ops) -> None:
    """A thread: one step in a statement, as docs/architecture.md asks for."""
    at = seen = 0
    while at < len(ops):
        what, which, number = ops[at]
        at += 1
        if what == "load":
            seen = m.words.at(which).load()
        elif what == "store":
            m.words.at(which).store(number)
        elif what == "copy":
            m.words.at(which).store(seen)
        elif what == "add":
            m.words.at(which).add(number)
        elif what == "fetch":
            seen = m.words.at(which).fetch_add(number)
        elif what == "raise":
            took = m.words.at(which).inc_not_zero()
            seen = int(took)
        elif what == "swap":
            seen = m.words.at(which).xchg(number)
        elif what == "until":
            seen = m.words.at(which).load()
            if seen == 0:
                at -= 1
        elif what == "lock" and which:
            m.other.lock()
        elif what == "lock":
            m.lock.lock()
        elif what == "trylock" and which:
            took = m.other.trylock()
            seen = int(took)
        elif what == "trylock":
            took = m.lock.trylock()
            seen = int(took)
        elif what == "looked" and which:
            took = m.other.is_locked()
            seen = int(took)
        elif what == "looked":
            took = m.lock.is_locked()
            seen = int(took)
        elif what == "unlock" and which:
            m.other.unlock()
        elif what == "unlock":
            m.lock.unlock()
        elif what == "read":
            m.rw.read_lock()
        elif what == "read done":
            m.rw.read_unlock()
        elif what == "write":
            m.rw.write_lock()
        elif what == "write done":
            m.rw.write_unlock()
        elif what == "share":
            seen = m.gate.try_shared()
        elif what == "share done":
            m.gate.release_shared()
        elif what == "take":
            seen = m.gate.try_exclusive()
        elif what == "take done":
            m.gate.release_exclusive()
        elif what == "end if":
            if seen == number:
                return
        else:
            m.bug(f"{name}.{at} sees {seen}")


def searched(kinds: tuple[Kind, ...], reduced: bool) -> Came:
    machine = Gated()
    machine.a.store(FIRST)
    finals: set[tuple[int, ...]] = set()
    said: set[str] = set()

    def starts(name: str, ops: Ops) -> Start:
        def begin() -> Body:
            return lambda: run(machine, name, ops)

        return begin

    def at_rest() -> list[str]:
        finals.add((machine.a.load(), machine.b.load(), machine.c.load()))
        return []

    def listen(happened: Event) -> str:
        if happened.kind in ("bug", "misuse"):
            said.add(str(happened.subject) if happened.kind == "bug" else "misuse")
        return ""

    classes = []
    for number, kind in enumerate(kinds):
        start = starts(f"{number}", kind.ops)
        classes.append(
            ThreadClass(
                f"{number}",
                start,
                kind.count,
                interrupts=kind.interrupts,
                phase=kind.phase,
                starts=(start,) * kind.count,
            )
        )
    problem = Problem(
        "random threads",
        machine.shared,
        machine.recorder,
        machine.recorder._places,
        tuple(classes),
        at_rest,
    )
    listening = Property("listen", "hears what threads say", of_event=listen)
    search = search_of(problem, (*properties(), listening), WORDS)
    search.begin(Knowledge(reduced=reduced))
    found = search.explore()
    assert not found.stopped
    assert len(search.graph) == found.states
    return Came(
        frozenset(finals), frozenset(said), DEADLOCK in found.faults, LIVELOCK in found.faults
    )


# Every interleaving.


class Thread(NamedTuple):
    kind: int
    at: int
    seen: int


class State(NamedTuple):
    words: tuple[int, ...]
    spins: tuple[int, ...]
    """By lock: the thread that holds it; -1: none."""
    writer: int
    readers: frozenset[int]
    taker: int
    """The thread that has the module's lock for itself; -1: none."""
    sharers: frozenset[int]
    threads: tuple[Thread, ...]


class Misuse(Exception):  # noqa: N818  (what a thread does, no error of the test)
    """A thread gives back what it does not have."""


def put(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])


def done(state: State, me: int, op: Op) -> State | None:
    """The state after an operation, the position moved on; None: the thread must wait."""
    words, spins, writer, readers, taker, sharers, threads = state
    kind, at, seen = threads[me]
    what, which, number = op
    at += 1
    if what in ("load", "until"):
        seen = words[which]
        at -= what == "until" and not seen
    elif what == "store":
        words = put(words, which, number)
    elif what == "copy":
        words = put(words, which, seen)
    elif what == "add":
        words = put(words, which, words[which] + number)
    elif what == "fetch":
        seen, words = words[which], put(words, which, words[which] + number)
    elif what == "raise":
        seen = int(words[which] != 0)
        words = put(words, which, words[which] + seen)
    elif what == "swap":
        seen, words = words[which], put(words, which, number)
    elif what == "lock":
        if spins[which] >= 0:
            return None
        spins = put(spins, which, me)
    elif what == "trylock":
        seen = int(spins[which] < 0)
        spins = put(spins, which, me) if seen else spins
    elif what == "looked":
        seen = int(spins[which] >= 0)
    elif what == "unlock":
        if spins[which] != me:
            raise Misuse
        spins = put(spins, which, -1)
    elif what == "read":
        if writer >= 0:
            return None
        readers |= {me}
    elif what == "read done":
        readers -= {me}
    elif what == "write":
        if writer >= 0 or readers:
            return None
        writer = me
    elif what == "write done":
        writer = -1
    elif what == "share":
        seen = 0 if taker < 0 else BUSY
        sharers |= {me} if seen == 0 else set()
    elif what == "share done":
        sharers -= {me}
    elif what == "take":
        seen = 0 if taker < 0 and not sharers else BUSY
        taker = me if seen == 0 else taker
    else:
        assert what == "take done"
        taker = -1
    after = put_thread(threads, me, Thread(kind, at, seen))
    return State(words, spins, writer, readers, taker, sharers, after)


def put_thread(threads: tuple[Thread, ...], at: int, one: Thread) -> tuple[Thread, ...]:
    return (*threads[:at], one, *threads[at + 1 :])


def interleaved(kinds: tuple[Kind, ...]) -> Came:
    said: set[str] = set()

    def settled(state: State, me: int) -> State:
        """What a thread does between two steps, nobody sees but what it says."""
        kind, at, seen = state.threads[me]
        ops = kinds[kind].ops
        while at < len(ops) and ops[at].what in ("tell", "end if"):
            if ops[at].what == "tell":
                said.add(f"{kind}.{at + 1} sees {seen}")
            elif seen == ops[at].number:
                at = len(ops) - 1
            at += 1
        return state._replace(threads=put_thread(state.threads, me, Thread(kind, at, seen)))

    def ended(one: Thread) -> bool:
        return one.at >= len(kinds[one.kind].ops)

    def may_run(state: State, me: int) -> bool:
        mine = kinds[state.threads[me].kind]
        for other in state.threads:
            if kinds[other.kind].phase < mine.phase and not ended(other):
                return False
            upper = kinds[other.kind]
            began = other != begun[state.threads.index(other)]
            if upper.interrupts == state.threads[me].kind and began and not ended(other):
                return False
        return True

    first = State(
        (FIRST, 0, 0),
        (-1, -1),
        -1,
        frozenset(),
        -1,
        frozenset(),
        tuple(Thread(n, 0, 0) for n, kind in enumerate(kinds) for _ in range(kind.count)),
    )
    for me in range(len(first.threads)):
        first = settled(first, me)
    begun = first.threads
    finals: set[tuple[int, ...]] = set()
    deadlock = False
    before: dict[State, list[State]] = {first: []}
    good: list[State] = []
    pending = [first]
    while pending:
        state = pending.pop()
        moved = False
        for me, thread in enumerate(state.threads):
            if ended(thread) or not may_run(state, me):
                continue
            try:
                after = done(state, me, kinds[thread.kind].ops[thread.at])
            except Misuse:
                said.add("misuse")
                on = Thread(thread.kind, thread.at + 1, thread.seen)  # to where its next step is
                settled(state._replace(threads=put_thread(state.threads, me, on)), me)
                good.append(state)
                moved = True
                continue
            if after is None:
                continue
            moved = True
            after = settled(after, me)
            if after not in before:
                before[after] = []
                pending.append(after)
            before[after].append(state)
        if not moved:
            good.append(state)
            if all(map(ended, state.threads)):
                finals.add(state.words)
            else:
                deadlock = True
    leads = lead_to(good, before)
    return Came(frozenset(finals), frozenset(said), deadlock, len(leads) < len(before))


# The threads.

SIMPLE: Final = (
    *("load", "load", "load", "store", "store", "add", "add", "copy", "fetch", "raise", "swap"),
    *("tell", "tell", "tell", "end if"),
)
RARE: Final = ("looked", "until", "unlock")
LOCKS: Final = ("lock", "lock", "lock", "trylock", "read", "write", "share", "take")
ONCE: Final = ({"read", "write"}, {"share", "take"})
"""Locks that a thread may not take twice, one way or another."""


def some_ops(pick: Random, most: int) -> Ops:
    """About ``most`` operations, some of them with locks around them."""
    found: list[Op] = []
    held: list[Op] = []

    def let_go() -> None:
        how, which, _ = held.pop()
        found.append(Op("unlock", which) if how in ("lock", "trylock") else Op(f"{how} done"))

    while len(found) < most:
        choice = pick.random()
        if choice < 0.6:
            word = pick.choice((0, 0, 1, 1, 2))
            found.append(Op(pick.choice(SIMPLE), word, pick.randrange(3)))
        elif choice < 0.8 and len(held) < 2:
            how = pick.choice(LOCKS)
            if any(how in once and one.what in once for once in ONCE for one in held):
                continue
            held.append(Op(how, pick.randrange(2) if how in ("lock", "trylock") else 0))
            found.append(held[-1])
            if how in ("trylock", "share", "take"):
                found.append(Op("end if", 0, 0 if how == "trylock" else BUSY))
        elif choice < 0.97 and held:
            let_go()
        elif choice >= 0.97:
            found.append(Op(pick.choice(RARE), pick.randrange(2)))
    while held and pick.random() < 0.95:
        let_go()
    return (*found, Op("tell"))


def two(pick: Random) -> tuple[Kind, ...]:
    return Kind(some_ops(pick, 7)), Kind(some_ops(pick, 7))


def equal_and_another(pick: Random) -> tuple[Kind, ...]:
    return Kind(some_ops(pick, 4), pick.choice((2, 2, 3))), Kind(some_ops(pick, 3))


def one_interrupts(pick: Random) -> tuple[Kind, ...]:
    return (
        Kind(some_ops(pick, 6)),
        Kind(some_ops(pick, 5), interrupts=0),
        Kind(some_ops(pick, 2)),
    )


def one_comes_later(pick: Random) -> tuple[Kind, ...]:
    return Kind(some_ops(pick, 4)), Kind(some_ops(pick, 4)), Kind(some_ops(pick, 4), phase=1)


SHAPES: Final = (two, equal_and_another, one_interrupts, one_comes_later)
TRIED: Final = 40


@pytest.mark.parametrize("reduced", [True, False], ids=["reduced", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_search_comes_to_what_every_interleaving_comes_to(
    shape: Callable[[Random], tuple[Kind, ...]], reduced: bool
) -> None:
    met = Counter[str]()
    for seed in range(TRIED):
        kinds = shape(Random(f"{shape.__name__} {seed}"))
        expected = interleaved(kinds)
        assert searched(kinds, reduced) == expected, (seed, kinds)
        met["several ends"] += len(expected.finals) > 1
        met["deadlock"] += expected.deadlock
        met["livelock"] += expected.livelock
        met["misuse"] += "misuse" in expected.said
    assert met["several ends"] >= TRIED // 8
    assert met["deadlock"] >= 1
