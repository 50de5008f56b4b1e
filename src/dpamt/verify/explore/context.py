"""What a thread may do where it is: who may not sleep, and in which order locks are taken.

Theory.  The rules are those that a kernel built with its lock debugging checks while it runs
(Linux kernel/locking/lockdep.c, Documentation/locking/lockdep-design.rst, locktypes.rst;
might_sleep() in kernel/sched/core.c).  As there, a rule is broken by what code *does*, whether or
not this schedule comes to grief by it:

* *Sleep.*  Whoever holds a spinlock or a spinning reader/writer lock, runs in a softirq, or keeps
  interrupts or softirqs off may not call what can sleep: a mutex, or an allocation with GFP_KERNEL
  (every allocation here is one).  KVM's ``mmu_lock`` is a spinning rwlock on x86, so the fault path
  takes its pages from the VCPU's pool.
* *Order.*  Taking B while A is held gives an edge A -> B between lock classes (all locks of one
  array are one class, as all of one lock_class_key are).  A cycle can deadlock some schedule of
  some number of CPUs, whether one was met or not.  Within one class the edges are between single
  locks, where lockdep wants an annotation (spin_lock_nested()) and then trusts it.
* *Softirq.*  A lock that is taken in a softirq and also by a task with softirqs on can be wanted by
  a softirq that interrupts its holder.  Nor may a lock that a softirq takes be held while one is
  taken that tasks hold with softirqs on.

A trylock gives no edge to itself and no use in a softirq, as it waits for nobody.  A reader in a
softirq gives no edge either: it may overtake writers that wait (queued_read_lock_slowpath()).

What a thread holds is part of its place in the search (``Local.held``): its locks, and, for the
``_irqsave`` and ``_bh`` forms, a word of its own that says what they keep off.  It is never held
exclusively, so that no reduction takes it for a lock that guards anything from other CPUs.  Edges
and uses are collected over all blocks that are worked out (:class:`LockOrder`); the step that
completes a breach gets the event, with the places of both sides.  What only several trials together
break is reported over them: :func:`dpamt.verify.explore.lock_order.joined`.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dpamt.sync.kernel_locks import BareLock, Mutex, RwLock, RwLocks, SpinLocks
from dpamt.sync.observed import Address
from dpamt.sync.shared import Shared
from dpamt.sync.steps import ACQUIRES, IRQS_OFF, READ_WAITS, SOFTIRQS_OFF, TRIES, UNLOCKS, WAITS
from dpamt.verify.explore.lock_order import Edge, LockOrder, Taken, cycle_text, way_over
from dpamt.verify.learn.automaton import CONTEXT, LOCK_ORDER, MAY_SLEEP, Automaton, Event, Step
from dpamt.verify.learn.control_point import CallSite, sites_text
from dpamt.verify.programs.problem import Problem

Held = dict[Address, bool]
"""The locks of a thread and whether exclusively, and what it keeps off its CPU (False)."""

KERNEL_LOCK_STEPS: Final = WAITS | TRIES | UNLOCKS
"""Steps that the rules ask for, whatever happens after them."""
_NO_IRQS: Final = "interrupts off by "
_NO_SOFTIRQS: Final = "softirqs off by "
_OFF: Final = {
    **dict.fromkeys((*IRQS_OFF, *IRQS_OFF.values()), _NO_IRQS),
    **dict.fromkeys((*SOFTIRQS_OFF, *SOFTIRQS_OFF.values()), _NO_SOFTIRQS),
}
_OF_A_VM: Final = re.compile(r"^kvm\.\d+\.")


Where = Callable[[Address], tuple[CallSite, ...]]
"""Where the thread took a lock that it holds; empty when that is not known."""


class Context:
    """The rules, asked at every step of every thread of one problem."""

    def __init__(self, shared: Shared, softirqs: Iterable[int] = ()) -> None:
        self._shared = shared
        self._softirqs = frozenset(softirqs)
        """Thread classes that run in softirq context."""
        self.order = LockOrder()

    def after(
        self,
        kind: int,
        step: Step,
        sites: tuple[CallSite, ...],
        result: object,
        held: Held,
        events: tuple[Event, ...],
        where: Where,
    ) -> tuple[Event, ...]:
        """The thread's events since the step, those of broken rules among them.

        ``sites`` are those of the step; ``held`` is brought up to date.  Events that only say what
        may sleep are left out: they are judged here.
        """
        method = step.method
        found: list[Event] = []
        if method in WAITS or method in TRIES:
            self._acquired(kind, step, sites, result, held, where, found)
        elif method in UNLOCKS:
            found += self._released(step, sites, held)
        if not found and not events:
            return events
        return (*found, *self._judged(kind, events, held, where))

    def begun(self, kind: int, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """The same of a thread's events before its first step."""
        return tuple(self._judged(kind, events, {}, lambda lock: ()))

    def _judged(
        self, kind: int, events: tuple[Event, ...], held: Held, where: Where
    ) -> Iterator[Event]:
        for event in events:
            if event.kind == MAY_SLEEP:
                yield from self._sleeps(kind, str(event.subject), event.detail, held, where)
                continue
            yield event
            if event.kind == "returned":
                yield from self._ends(held, where)

    # Locks.

    def _acquired(
        self,
        kind: int,
        step: Step,
        sites: tuple[CallSite, ...],
        result: object,
        held: Held,
        where: Where,
        found: list[Event],
    ) -> None:
        method, lock = step.method, step.address
        others = {one: how for one, how in held.items() if one != lock}
        if method in WAITS and isinstance(self._shared.array(lock.array), Mutex):
            found += self._sleeps(kind, f"mutex_lock({lock.array})", sites, others, where)
        if method in TRIES and not result:
            return
        exclusively = ACQUIRES[method] is True
        held[lock] = exclusively
        off = kept_off(step)
        if off is not None:
            held[off] = False
        said = sites_text(sites)
        self._used(kind, lock, exclusively, method, held, said, found)
        if method in WAITS and not (method in READ_WAITS and kind in self._softirqs):
            for other in others:
                if self._is_kernel_lock(other):
                    self._ordered(other, sites_text(where(other)), lock, said, found)

    def _released(self, step: Step, sites: tuple[CallSite, ...], held: Held) -> Iterator[Event]:
        method, lock = step.method, step.address
        if held.pop(lock, None) is None:
            yield Event(
                "misuse",
                f"{lock.array} is released by a thread that does not hold it, in "
                f"{sites_text(sites)}",
            )
        off = kept_off(step)
        if off is not None and held.pop(off, None) is None:
            yield Event(
                CONTEXT,
                f"{method} of {lock.array} in {sites_text(sites)} undoes what was not done: "
                "the lock was taken in another form",
            )

    def _used(
        self,
        kind: int,
        lock: Address,
        exclusively: bool,
        method: str,
        held: Held,
        said: str,
        found: list[Event],
    ) -> None:
        """The use of a lock's class in a softirq, or with softirqs on."""
        in_softirq = kind in self._softirqs
        if in_softirq and method in TRIES:
            return
        if not in_softirq and any(is_off(one) for one in held):
            return
        name = class_of(lock)
        self.order.use(name, in_softirq, exclusively, said)
        wrong = self.order.both_ways(name) or self.order.unsafe_below(name)
        if wrong:
            found.append(Event(LOCK_ORDER, wrong))

    def _ordered(
        self, held: Address, held_at: str, lock: Address, taken_at: str, found: list[Event]
    ) -> None:
        """``lock`` is waited for while ``held`` is held."""
        before, name = class_of(held), class_of(lock)
        edge = Edge(Taken(before, held_at), Taken(name, taken_at))
        if before == name:
            named = Edge(Taken(str(held), held_at), Taken(str(lock), taken_at))
            self.order.nested.setdefault((held, lock), named)
            way = way_over(self.order.nested, lock, held)
            if way:
                found.append(Event(LOCK_ORDER, cycle_text([named, *way])))
            return
        self.order.edges.setdefault((before, name), edge)
        for wrong in (self.order.cycle(before, name), self.order.unsafe_below(before, name)):
            if wrong:
                found.append(Event(LOCK_ORDER, wrong))

    # Sleep, and the end.

    def _sleeps(
        self, kind: int, what: str, sites: Iterable[object], held: Held, where: Where
    ) -> Iterator[Event]:
        """Something that may sleep is called with this held."""
        why = [
            f"{lock.array} held since {sites_text(where(lock))}"
            for lock in held
            if self._is_kernel_lock(lock) and not isinstance(self._shared.array(lock.array), Mutex)
        ]
        if not why:
            why = [f"{lock.array} in {sites_text(where(lock))}" for lock in held if is_off(lock)]
        if kind in self._softirqs:
            why.append("a softirq")
        if why:
            place = sites_text(tuple(CallSite(*site) for site in sites))  # type: ignore[misc]
            yield Event(CONTEXT, f"{what} may sleep, in {place}, with {' and '.join(why)}")

    def _ends(self, held: Held, where: Where) -> Iterator[Event]:
        for lock in held:
            if self._is_kernel_lock(lock):
                since = sites_text(where(lock))
                yield Event(CONTEXT, f"a thread ends with {lock.array} held since {since}")
            elif is_off(lock):
                since = sites_text(where(lock))
                yield Event(CONTEXT, f"a thread ends with {lock.array} since {since}")

    def _is_kernel_lock(self, lock: Address) -> bool:
        if is_off(lock):
            return False
        return isinstance(self._shared.array(lock.array), (BareLock, SpinLocks, RwLock, RwLocks))


def context_of(problem: Problem) -> Context:
    """The rules for a problem's threads; those on top of another one's CPU are softirqs."""
    kinds = enumerate(problem.classes)
    softirqs = (n for n, kind in kinds if kind.interrupts >= 0 or kind.softirq)
    return Context(problem.shared, softirqs)


def keeps_softirqs_off(held: Iterable[tuple[Address, bool]]) -> bool:
    """Whether no softirq can come in on the CPU of a thread that holds this."""
    return any(is_off(lock) for lock, _ in held)


def is_off(lock: Address) -> bool:
    """Whether this stands for interrupts or softirqs that a thread keeps off its CPU."""
    return lock.array.startswith((_NO_IRQS, _NO_SOFTIRQS))


def kept_off(step: Step) -> Address | None:
    """What stands for the interrupts or softirqs that a step keeps off or lets on; None: none."""
    off = _OFF.get(step.method)
    return None if off is None else Address(off + step.address.array, step.address.number)


def class_of(lock: Address) -> str:
    """The class of a lock: its array's name, the same for all VMs."""
    return _OF_A_VM.sub("kvm.", lock.array)


def where_taken(automaton: Automaton, path: Iterable[tuple[int, object]]) -> Where:
    """Where locks were taken: on ``path``, (node, result) backwards, or on the way to its last."""

    def where(lock: Address) -> tuple[CallSite, ...]:
        node = 0
        for node, result in path:
            found = automaton.nodes[node]
            if _takes(found.step, lock, result):
                return found.sites
        last: tuple[CallSite, ...] = ()
        history = automaton.nodes[node].history
        node = 0
        for result in history:
            found = automaton.nodes[node]
            if _takes(found.step, lock, result):
                last = found.sites
            if result not in found.edges:
                break
            node = found.edges[result][0]
        return last

    return where


def _takes(step: Step | None, lock: Address, result: object) -> bool:
    if step is None or lock not in (step.address, kept_off(step)):
        return False
    return step.method in WAITS or (step.method in TRIES and bool(result))
