"""What threads hold, sleep under and wait for, by history: the judge's own lock debugging.

It keeps the rules of docs/verify.md, from histories alone: what may sleep under a spinning
lock, in a softirq or with interrupts or softirqs off; a thread that ends with a lock; a cycle in
the order of lock classes (of single locks within one class); a lock of softirqs that tasks take
with softirqs on, or that such a lock is waited for under.  Order and uses are judged at the end.
"""

import re
from collections.abc import Hashable, Iterable
from typing import Final

from dpamt.sync.kernel_locks import Mutex
from dpamt.sync.observed import Address, ObservedShared
from dpamt.sync.steps import ACQUIRES, IRQS_OFF, READ_WAITS, SOFTIRQS_OFF, TRIES, UNLOCKS, WAITS
from dpamt.verify.learn.automaton import MAY_SLEEP, Event, Step

SLEEPS: Final = "context"
ORDER: Final = "lock-order"
"""Names of the properties."""
_OF_A_VM: Final = re.compile(r"^kvm\.\d+\.")


_LOCK: Final = "lock"
_IRQS: Final = "irqs"
_SOFTIRQS: Final = "softirqs"

Held = frozenset[tuple[Address, str]]
"""Locks that a thread holds (``lock``), and through which it keeps interrupts or softirqs off."""
NOTHING: Final[Held] = frozenset()


def _form(method: str) -> str:
    if method in IRQS_OFF or method in IRQS_OFF.values():
        return _IRQS
    return _SOFTIRQS if method in SOFTIRQS_OFF or method in SOFTIRQS_OFF.values() else ""


def _takes(step: Step, result: Hashable) -> bool:
    return step.method in WAITS or (step.method in TRIES and bool(result))


def held_after(held: Held, step: Step, result: Hashable) -> Held:
    """What a thread holds after a step."""
    form = _form(step.method)
    these = {(step.address, _LOCK), (step.address, form or _LOCK)}
    if _takes(step, result):
        return held | these
    return held - these if step.method in UNLOCKS else held


def releases_what_it_lacks(held: Held, step: Step) -> bool:
    """Whether a thread releases a lock that it does not hold: nothing is sure after that."""
    return step.method in UNLOCKS and (step.address, _LOCK) not in held


def softirqs_off(held: Held) -> bool:
    """Whether no softirq can come in on the CPU of a thread that holds this."""
    return any(what != _LOCK for _, what in held)


class Rules:
    """The rules over everything that one search sees."""

    def __init__(self, shared: ObservedShared, softirqs: Iterable[int]) -> None:
        self._shared = shared
        self._softirqs = frozenset(softirqs)
        self.broken: set[str] = set()
        self._edges: set[tuple[Hashable, Hashable]] = set()
        self._in_softirq: dict[str, set[bool]] = {}
        self._with_softirqs: dict[str, set[bool]] = {}
        """By class: whether exclusively."""

    def _spins(self, held: Held) -> bool:
        return any(
            what != _LOCK or not isinstance(self._shared.array(lock.array), Mutex)
            for lock, what in held
        )

    def done(self, thread: int, step: Step, result: Hashable, held: Held) -> None:
        """A thread with this held did a step."""
        form = _form(step.method)
        if step.method in UNLOCKS and form and (step.address, form) not in held:
            self.broken.add(SLEEPS)  # the lock was taken in another form
        if step.method not in WAITS and step.method not in TRIES:
            return
        softirq = thread in self._softirqs
        others = frozenset(one for one in held if one[0] != step.address)
        mutex = isinstance(self._shared.array(step.address.array), Mutex)
        if step.method in WAITS and mutex and (softirq or self._spins(others)):
            self.broken.add(SLEEPS)
        if not _takes(step, result):
            return
        name, exclusively = _class(step.address), ACQUIRES[step.method] is True
        if softirq:
            if step.method not in TRIES:
                self._in_softirq.setdefault(name, set()).add(exclusively)
        elif not form and not softirqs_off(held):
            self._with_softirqs.setdefault(name, set()).add(exclusively)
        if step.method in WAITS and not (step.method in READ_WAITS and softirq):
            for lock, what in others:
                if what == _LOCK and _class(lock) == name:
                    self._edges.add((lock, step.address))
                elif what == _LOCK:
                    self._edges.add((_class(lock), name))

    def events(self, thread: int, events: tuple[Event, ...], held: Held) -> None:
        """What a thread did while it held this."""
        for event in events:
            if event.kind == MAY_SLEEP and (thread in self._softirqs or self._spins(held)):
                self.broken.add(SLEEPS)
            if event.kind == "returned" and held:
                self.broken.add(SLEEPS)

    def judged(self) -> set[str]:
        """The properties that are broken by all of it."""
        broken = set(self.broken)
        ways = _closed(self._edges)
        if any(start == end for start, end in ways):
            broken.add(ORDER)
        for safe, uses in self._in_softirq.items():
            for unsafe, others in self._with_softirqs.items():
                same = safe == unsafe and any(a or b for a in uses for b in others)
                if same or (safe != unsafe and (safe, unsafe) in ways):
                    broken.add(ORDER)
        return broken


def _class(lock: Address) -> str:
    return _OF_A_VM.sub("kvm.", lock.array)


def _closed(edges: set[tuple[Hashable, Hashable]]) -> set[tuple[Hashable, Hashable]]:
    """The transitive closure."""
    ways = set(edges)
    while True:
        more = {(a, d) for a, b in ways for c, d in ways if b == c} - ways
        if not more:
            return ways
        ways |= more
