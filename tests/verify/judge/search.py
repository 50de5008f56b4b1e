"""The plain search: every state that the threads can reach, one switch of CPUs after another."""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dpamt.sync.shared import Snapshot
from dpamt.verify.learn.automaton import CHOICE, MARK, MAY_SLEEP, Event
from dpamt.verify.programs.problem import LOCK_STEPS, LOCKS, SEAMCALL, Problem
from dpamt.verify.properties.named import LIVELOCK, Property
from tests.verify.judge.context import Rules, releases_what_it_lacks, softirqs_off
from tests.verify.judge.histories import LONGEST, Histories, Standing
from tests.verify.judge.memory import DONE, MISUSED, UNIT, UNIT_BITS, WAITING, Memory

MOST_STATES: Final = 3_000_000
_PAGE: Final = re.compile("page 0x[0-9a-f]+")

_BITS: Final = 22
"""Of a standing's number in a state."""
_STANDING: Final = (1 << _BITS) - 1

State = int
"""The memory, and below it the standing of each thread, ``_BITS`` bits each."""


class Ways(NamedTuple):
    """How a thread can go on, from one state, to where CPUs may be switched again."""

    moves: bool
    """Whether it can: it has not ended and does not wait."""
    last: bool
    """Whether there is a way after which nothing can go on."""
    deltas: tuple[State, ...]
    """Of each other way: what it adds to the state."""


@dataclass(slots=True)
class Known:
    """The ways of a standing that were worked out, by the values of what they read."""

    looks_at: int
    """Bits of the state: all units that a way from here was seen to read."""
    ways: dict[State, Ways] = field(default_factory=dict)


class Said(NamedTuple):
    """What the judge says at one granularity."""

    broken: frozenset[str]
    answers: frozenset[Hashable]
    states: int
    cut: bool
    """Whether a history was cut or there were too many states: what was found is not all."""
    memories: set[int]
    ends: set[int]
    """Memories when every thread has ended."""


class Judge:
    """Everything that the threads of a problem can do, at each granularity."""

    def __init__(
        self, problem: Problem, properties: tuple[Property, ...], longest: int = LONGEST
    ) -> None:
        assert all(kind.count == 1 for kind in problem.classes)
        self.problem = problem
        self.properties = properties
        self.memory = Memory(problem.shared)
        self.histories = Histories(problem, self.memory, longest)
        self.interrupts = [
            (number, kind.interrupts)
            for number, kind in enumerate(problem.classes)
            if kind.interrupts >= 0
        ]
        self.softirqs = [
            number
            for number, kind in enumerate(problem.classes)
            if kind.interrupts >= 0 or kind.softirq
        ]
        self.phases = [kind.phase for kind in problem.classes]
        self._of_event: dict[Event, frozenset[str]] = {}
        self._of_rest: dict[int, frozenset[str]] = {}
        self._of_state: dict[int, frozenset[str]] = {}

    def explore(self, granularity: str, most_states: int = MOST_STATES) -> Said:
        """Everything at one granularity."""
        return _Explored(self, granularity, most_states).said()

    def breaks(self, event: Event) -> frozenset[str]:
        """The properties that an event breaks."""
        known = self._of_event.get(event)
        if known is None:
            known = self._of_event[event] = frozenset(
                judge.name
                for judge in self.properties
                if judge.of_event is not None and judge.of_event(event)
            )
        return known

    def at_rest(self, memory: int) -> frozenset[str]:
        """The properties that are broken when all threads have ended so."""
        known = self._of_rest.get(memory)
        if known is None:
            self.memory.put(memory)
            lines = self.problem.at_rest()
            self.memory.put(0)
            known = self._of_rest[memory] = frozenset(
                judge.name
                for judge in self.properties
                if judge.of_rest is not None and any(judge.of_rest(line) for line in lines)
            )
        return known

    def always(self, memory: int) -> frozenset[str]:
        """The properties that are broken in every state with that memory."""
        known = self._of_state.get(memory)
        if known is None:
            self.memory.put(memory)
            lines = self.problem.always()
            self.memory.put(0)
            known = self._of_state[memory] = frozenset(
                judge.name
                for judge in self.properties
                if judge.of_state is not None and any(judge.of_state(line) for line in lines)
            )
        return known

    def snapshots(self, memories: set[int]) -> set[Snapshot]:
        """The whole machine with each of the memories."""
        found = set()
        for memory in memories:
            self.memory.put(memory)
            found.add(self.problem.shared.snapshot())
        self.memory.put(0)
        return found


class _Explored:
    """One search."""

    def __init__(self, judge: Judge, granularity: str, most_states: int) -> None:
        self._judge = judge
        self._granularity = granularity
        self._most_states = most_states
        self._standings = judge.histories.standings
        self._first = judge.histories.first
        self._interrupts = judge.interrupts
        self._phases = judge.phases
        self._is_ordered = bool(judge.interrupts) or any(judge.phases)
        self._threads = range(len(self._first))
        self._memory_at = _BITS * len(self._first)
        self._known: dict[int, Known] = {}
        """By standing."""
        self._events: set[Event] = set()
        self._rules = Rules(judge.problem.shared, judge.softirqs)
        self._cut = False
        self._broken: set[str] = set()
        self._ends: set[int] = set()
        self._states: set[State] = set()

    def said(self) -> Said:
        """Search, and what was found."""
        full = self._search()
        if self._cut and full and self._is_endless():
            self._broken.add(LIVELOCK)
        memories = {state >> self._memory_at for state in self._states}
        if self._judge.problem.always_arrays:
            for memory in memories:
                self._broken |= self._judge.always(memory)
        for event in self._events:
            self._broken |= self._judge.breaks(event)
        asked = {judge.name for judge in self._judge.properties}
        self._broken |= self._rules.judged() & asked
        return Said(
            frozenset(self._broken),
            frozenset(answer(event) for event in self._events),
            len(self._states),
            self._cut or not full,
            memories,
            self._ends,
        )

    def _search(self) -> bool:
        """Every state; False when there are too many."""
        for number in self._first:  # what threads do before their first step
            began = self._standings[number]
            if began.refused is not None:
                raise began.refused
            self._happened(began)
        first = sum(standing << _BITS * thread for thread, standing in enumerate(self._first))
        states, most, known = self._states, self._most_states, self._known
        states.add(first)
        pending = [first]
        shifts = [_BITS * thread for thread in self._threads]
        while pending:
            state = pending.pop()
            moved = False
            for shift in shifts:
                if self._is_ordered and self._is_off(state, shift // _BITS):
                    continue
                here = known.get(state >> shift & _STANDING)
                ways = None if here is None else here.ways.get(state & here.looks_at)
                if ways is None:
                    ways = self._find(state, shift // _BITS)
                if ways[0]:
                    moved = True
                    for delta in ways[2]:
                        after = state + delta
                        if after not in states:
                            states.add(after)
                            pending.append(after)
            if not moved:
                self._judge_rest(state)
            if len(states) > most:
                return False
        return True

    def _happened(self, standing: Standing) -> None:
        """What a thread did since its last result."""
        self._events.update(event for event in standing.events if event.kind != MAY_SLEEP)
        self._rules.events(standing.thread, standing.events, standing.held)

    def _standing_of(self, state: State, thread: int) -> int:
        return state >> _BITS * thread & _STANDING

    def _find(self, state: State, thread: int) -> Ways:
        """Work out the ways of a thread, and keep them."""
        number = self._standing_of(state, thread)
        reads: set[int] = set()
        ways = self._work_out(state, thread, number, reads)
        known = self._known.setdefault(number, Known(0))
        looks_at = known.looks_at
        for unit in reads:
            looks_at |= UNIT << self._memory_at + UNIT_BITS * unit
        if looks_at != known.looks_at:
            known = self._known[number] = Known(looks_at)
        known.ways[state & looks_at] = ways
        return ways

    def _work_out(self, state: State, thread: int, number: int, reads: set[int]) -> Ways:
        if self._standings[number].step is None:
            return Ways(False, False, ())
        memory = state >> self._memory_at
        came_from = memory << self._memory_at | number << _BITS * thread
        do, after = self._judge.memory.do, self._judge.histories.after
        found: set[State] = set()
        waits = last = False
        pending = [(memory, number, True)]
        while pending:
            memory, number, first = pending.pop()
            standing = self._standings[number]
            if not first:
                if standing.refused is not None:
                    raise standing.refused
                self._happened(standing)
                if _is_last(standing):
                    last = True
                    continue
            step = standing.step
            if step is None or (not first and self._may_switch(standing)):
                assert number <= _STANDING
                come_to = memory << self._memory_at | number << _BITS * thread
                found.add(come_to - came_from)
                continue
            if standing.cut:
                self._cut = True
                continue
            if step.method == CHOICE:
                for choice in range(step.arguments[1]):
                    pending.append((memory, after(number, choice, memory), False))
                continue
            how, result, delta = DONE, None, 0
            if step.method != MARK:
                reads.add(self._judge.memory.unit_of[standing.number])
                how, result, delta = do(memory, standing.number)
            if how == WAITING:
                assert first, "a thread waits inside a step of this granularity"
                waits = True
                continue
            self._rules.done(thread, step, result, standing.held)
            if how == MISUSED or releases_what_it_lacks(standing.held, step):
                self._events.add(Event("misuse", result or "a lock of somebody else's is released"))
                last = True
            else:
                then = memory + delta
                pending.append((then, after(number, result, then), False))
        return Ways(not waits, last, tuple(found))

    def _may_switch(self, standing: Standing) -> bool:
        """Whether another CPU may come in before the standing's step."""
        step = standing.step
        assert step is not None
        if step.method == CHOICE:
            return False
        if step.method == MARK:
            return self._granularity == SEAMCALL
        if standing.leaf < 0:
            return True
        if self._granularity == LOCKS:
            return step.method in LOCK_STEPS
        return self._granularity != SEAMCALL

    def _is_off(self, state: State, thread: int) -> bool:
        """Whether a thread waits for its time.

        It stands still below another one that has interrupted it, or while one of an earlier phase
        has not ended.
        """
        if any(
            self._standings[self._standing_of(state, other)].step is not None
            for other in self._threads
            if self._phases[other] < self._phases[thread]
        ):
            return True
        for upper, lower in self._interrupts:
            top = self._standing_of(state, upper)
            if (
                thread == lower
                and top != self._first[upper]
                and self._standings[top].step is not None
            ):
                return True
            below = self._standings[self._standing_of(state, lower)]
            if thread == upper and top == self._first[upper] and softirqs_off(below.held):
                return True
        return False

    def _standing(self, state: State) -> list[Standing]:
        return [self._standings[self._standing_of(state, thread)] for thread in self._threads]

    def _judge_rest(self, state: State) -> None:
        """Nobody can go on: all have ended, or they wait for each other."""
        judge = self._judge
        if any(one.step is not None for one in self._standing(state)):
            self._broken |= {one.name for one in judge.properties if one.of_deadlock is not None}
            return
        memory = state >> self._memory_at
        self._ends.add(memory)
        self._broken |= judge.at_rest(memory)

    def _is_endless(self) -> bool:
        """Whether every way from some state is cut: no end, no fault, nobody who waits."""
        before: dict[State, list[State]] = {}
        good: list[State] = []
        for state in self._states:
            moved = False
            for thread in self._threads:
                if self._is_ordered and self._is_off(state, thread):
                    continue
                known = self._known[self._standing_of(state, thread)]
                ways = known.ways.get(state & known.looks_at) or self._find(state, thread)
                moved |= ways.moves
                if ways.last:
                    good.append(state)
                for delta in ways.deltas:
                    before.setdefault(state + delta, []).append(state)
            if not moved:
                good.append(state)
        leads = set(good)
        while good:
            for earlier in before.get(good.pop(), ()):
                if earlier not in leads:
                    leads.add(earlier)
                    good.append(earlier)
        return len(leads) < len(self._states)


def _is_last(standing: Standing) -> bool:
    return any(event.kind == "raised" for event in standing.events)


def answer(event: Event) -> Hashable:
    """What an event says, without the pages that tell equal threads apart."""
    if event.kind == "seamcall":
        return event.kind, event.subject, event.detail[-1]
    if event.kind in ("alloc", "free", "misuse"):
        return event.kind
    subject = event.subject
    return event.kind, _PAGE.sub("a page", subject) if isinstance(subject, str) else subject
