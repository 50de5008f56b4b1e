"""The plain search: every state that the threads can reach, one switch of CPUs after another."""

import re
from collections.abc import Hashable
from typing import Final, NamedTuple

from dpamt.sync.shared import Snapshot
from dpamt.verify.learn.automaton import CHOICE, MARK, Event
from dpamt.verify.programs.problem import LOCK_STEPS, LOCKS, SEAMCALL, Problem
from dpamt.verify.properties.named import LIVELOCK, Property
from tests.verify.judge.histories import Histories, Standing
from tests.verify.judge.memory import DONE, MISUSED, WAITING, Memory

MOST_STATES: Final = 3_000_000
_PAGE: Final = re.compile("page 0x[0-9a-f]+")

State = tuple[int, ...]
"""The memory, then the standing of each thread."""


class Way(NamedTuple):
    """One way for a thread to go on to where CPUs may be switched again."""

    memory: int
    standing: int
    last: bool
    """Whether nothing can go on after it."""


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

    def __init__(self, problem: Problem, properties: tuple[Property, ...]) -> None:
        assert all(kind.count == 1 for kind in problem.classes)
        self.problem = problem
        self.properties = properties
        self.memory = Memory(problem.shared)
        self.histories = Histories(problem, self.memory)
        self._interrupts = [
            (number, kind.interrupts)
            for number, kind in enumerate(problem.classes)
            if kind.interrupts >= 0
        ]
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
        self._interrupts = judge._interrupts
        self._ways: dict[tuple[int, int], list[Way]] = {}
        self._events: set[Event] = set()
        self._cut = False
        self._broken: set[str] = set()
        self._ends: set[int] = set()
        self._states: set[State] = set()

    def said(self) -> Said:
        """Search, and what was found."""
        self._search()
        if self._cut and self._is_endless():
            self._broken.add(LIVELOCK)
        memories = {state[0] for state in self._states}
        if self._judge.problem.always_arrays:
            for memory in memories:
                self._broken |= self._judge.always(memory)
        for event in self._events:
            self._broken |= self._judge.breaks(event)
        return Said(
            frozenset(self._broken),
            frozenset(answer(event) for event in self._events),
            len(self._states),
            self._cut,
            memories,
            self._ends,
        )

    def _search(self) -> None:
        first = (0, *self._first)
        states, known = self._states, self._ways
        states.add(first)
        pending = [first]
        positions = range(1, len(first))
        while pending:
            state = pending.pop()
            memory = state[0]
            moved = False
            for position in positions:
                if self._interrupts and self._is_off(state, position - 1):
                    continue
                standing = state[position]
                ways = known.get((memory, standing))
                if ways is None:
                    ways = known[memory, standing] = self._find(memory, standing)
                for way in ways:
                    moved = True
                    if way[2]:
                        continue
                    after = (way[0], *state[1:position], way[1], *state[position + 1 :])
                    if after not in states:
                        states.add(after)
                        pending.append(after)
            if not moved:
                self._judge_rest(state)
            if len(states) > self._most_states:
                self._cut = True
                return

    def _find(self, memory: int, number: int) -> list[Way]:
        """How a thread can go on; none: it has ended or waits."""
        ways: list[Way] = []
        if self._standings[number].step is None:
            return ways
        do, after = self._judge.memory.do, self._judge.histories.after
        pending = [(memory, number, True)]
        while pending:
            memory, number, first = pending.pop()
            standing = self._standings[number]
            if not first:
                if standing.refused is not None:
                    raise standing.refused
                self._events.update(standing.events)
                if _is_last(standing):
                    ways.append(Way(memory, number, True))
                    continue
            step = standing.step
            if step is None or (not first and self._may_switch(standing)):
                ways.append(Way(memory, number, False))
                continue
            if standing.cut:
                self._cut = True
                continue
            if step.method == CHOICE:
                for choice in range(step.arguments[1]):
                    pending.append((memory, after(number, choice, memory), False))
                continue
            how, result, then = DONE, None, memory
            if step.method != MARK:
                how, result, then = do(memory, standing.number)
            if how == WAITING:
                assert first, "a thread waits inside a step of this granularity"
            elif how == MISUSED:
                self._events.add(Event("misuse", result))
                ways.append(Way(then, number, True))
            else:
                pending.append((then, after(number, result, then), False))
        return ways

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
        """Whether a thread stands still below another one that has interrupted it."""
        for upper, lower in self._interrupts:
            top = state[upper + 1]
            if (
                thread == lower
                and top != self._first[upper]
                and self._standings[top].step is not None
            ):
                return True
        return False

    def _judge_rest(self, state: State) -> None:
        standing = [self._standings[number] for number in state[1:]]
        if any(one.cut for one in standing):
            return
        judge = self._judge
        if any(one.step is not None for one in standing):
            self._broken |= {one.name for one in judge.properties if one.of_deadlock is not None}
            return
        self._ends.add(state[0])
        self._broken |= judge.at_rest(state[0])

    def _is_endless(self) -> bool:
        """Whether every way from some state is cut: no end, no fault, nobody who waits."""
        before: dict[State, list[State]] = {}
        good: list[State] = []
        for state in self._states:
            moved = False
            for position in range(1, len(state)):
                if self._interrupts and self._is_off(state, position - 1):
                    continue
                ways = self._ways.get((state[0], state[position]))
                if ways is None:
                    return False  # too many states: nothing is known of the rest
                for way in ways:
                    moved = True
                    if way.last:
                        good.append(state)
                        continue
                    after = (way.memory, *state[1:position], way.standing, *state[position + 1 :])
                    before.setdefault(after, []).append(state)
            if not moved and not any(self._standings[number].cut for number in state[1:]):
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
    if event.kind in ("alloc", "free"):
        return event.kind
    subject = event.subject
    return event.kind, _PAGE.sub("a page", subject) if isinstance(subject, str) else subject
