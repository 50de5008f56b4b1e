"""The search: every state that the threads can reach, breadth first, so the first fault is nearest.

A state is the values of the shared slots and the sorted locals of each class: threads of one class
are interchangeable.  It is kept packed; with it, from where and by which thread it was reached.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from struct import Struct
from time import monotonic
from typing import Final, NamedTuple

from dpamt.sync.observed import WAITS
from dpamt.verify.automaton import Automaton, Event
from dpamt.verify.blocks import Block, Engine
from dpamt.verify.properties import LIVELOCK, Property
from dpamt.verify.setting import Setting
from dpamt.verify.state import Knowledge, Restart

WARM_UP_WALKS: Final = 40
"""Random schedules before the search, so that it knows which words are changed and by whom."""

HOLDS: Final = "holds"
FAILS: Final = "fails"
BOUND: Final = "not finished"


class Fault(NamedTuple):
    """The nearest failure of a property: the state before it, and the thread and way that fail it.

    ``thread`` is -1 where the state itself is the failure.
    """

    property: str
    text: str
    state: int
    thread: int
    way: int
    depth: int


class Progress(NamedTuple):
    """How far a search is."""

    states: int
    transitions: int
    depth: int
    waiting: int


@dataclass(slots=True)
class Found:
    """What a search has found."""

    verdict: str
    finished: bool = True
    states: int = 0
    transitions: int = 0
    depth: int = 0
    ends: int = 0
    seconds: float = 0.0
    restarts: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)


class Search:
    """A search over one setting at one granularity; ``explore`` runs it."""

    def __init__(
        self,
        setting: Setting,
        automata: tuple[Automaton, ...],
        properties: tuple[Property, ...],
        granularity: str,
        most_states: int,
        progress: Callable[[Progress], None] | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.setting = setting
        self.automata = automata
        self.properties = properties
        self.granularity = granularity
        self.most_states = most_states
        self.progress = progress
        self.knowledge = knowledge if knowledge is not None else Knowledge()
        self.restarts = 0
        self._begin()

    def _begin(self) -> None:
        self.engine = Engine(self.setting, self.automata, self.knowledge, self.granularity)
        self.threads = sum(kind.count for kind in self.setting.classes)
        self._bounds = []
        first = 0
        for kind in self.setting.classes:
            self._bounds.append((first, first + kind.count))
            first += kind.count
        self.capacity = self.engine.words.capacity
        self.packing = Struct(f"{self.capacity + self.threads}H")
        self._rests: dict[tuple[int, ...], list[str]] = {}
        self._always: dict[tuple[int, ...], list[str]] = {}
        self._interrupts = [
            (position, self._bounds[kind.interrupts][0])
            for (position, _), kind in zip(self._bounds, self.setting.classes, strict=True)
            if kind.interrupts >= 0
        ]

    def first_state(self) -> tuple[int, ...]:
        """The state before anybody runs."""
        locals_ = [
            self.engine.first_local(number)
            for number, kind in enumerate(self.setting.classes)
            for _ in range(kind.count)
        ]
        return (*([0] * self.capacity), *locals_)

    # One state.

    def enabled(self, state: tuple[int, ...], position: int) -> bool:
        """Whether the thread at ``position`` of the state is on its CPU and has not ended."""
        capacity = self.capacity
        local = state[capacity + position]
        if self.engine.ended[local]:
            return False
        for upper, lower in self._interrupts:
            if position == lower:
                top = state[capacity + upper]
                if not self.engine.ended[top] and self.engine.locals[top].node != 0:
                    return False
            elif position == upper and self.engine.ended[state[capacity + lower]]:
                continue
        return True

    def successors(self, state: tuple[int, ...]) -> list[tuple[int, int, tuple[int, ...], int]]:
        """(thread, way, next state, events' local) of everything that can happen next."""
        engine, capacity = self.engine, self.capacity
        found = []
        last = -1
        for position in range(self.threads):
            local = state[capacity + position]
            first, _ = self._segment(position)
            if position > first and local == last:
                continue
            last = local
            if not self.enabled(state, position):
                continue
            others = state[capacity : capacity + position] + state[capacity + position + 1 :]
            for way, block in enumerate(engine.blocks(local, state, others)):
                found.append((position, way, self._after(state, position, block), local))
        return found

    def _segment(self, position: int) -> tuple[int, int]:
        for first, end in self._bounds:
            if position < end:
                return first, end
        raise AssertionError(position)

    def _after(self, state: tuple[int, ...], position: int, block: Block) -> tuple[int, ...]:
        capacity, engine = self.capacity, self.engine
        after = list(state)
        for slot, value in block.writes:
            after[slot] = value
        if block.fills:
            for other in range(self.threads):
                if other != position:
                    after[capacity + other] = engine.felt(
                        after[capacity + other],
                        block.fills,
                    )
        after[capacity + position] = block.local
        for first, end in self._bounds:
            if end - first > 1:
                after[capacity + first : capacity + end] = sorted(
                    after[capacity + first : capacity + end]
                )
        return tuple(after)

    # The whole.

    def explore(self) -> Found:
        """Search until all is seen or ``most_states`` are; begins anew as often as it must."""
        began = monotonic()
        while True:
            try:
                self._warm_up()
                found = self._search()
            except Restart:
                self.restarts += 1
                self._begin()
                continue
            found.seconds = monotonic() - began
            found.restarts = self.restarts
            return found

    def _warm_up(self) -> None:
        walks = 0
        while walks < WARM_UP_WALKS:
            pick = Random(walks)
            try:
                state = self.first_state()
                while True:
                    after = self.successors(state)
                    if not after:
                        break
                    state = pick.choice(after)[2]
                walks += 1
            except Restart:
                self.restarts += 1
                self._begin()

    def _search(self) -> Found:
        found = Found(HOLDS)
        first = self.first_state()
        pack, unpack = self.packing.pack, self.packing.unpack
        visited = {pack(*first): 0}
        self.visited = visited
        self.parents = array("l", [-1])
        self.moves = array("l", [0])
        self.edges_from = array("l")
        self.edges_to = array("l")
        self.ends = array("l")
        frontier = [pack(*first)]
        next_report = monotonic() + 0.2
        self._judge_state(first, 0, 0, found)
        while frontier:
            coming: list[bytes] = []
            for packed in frontier:
                state = unpack(packed)
                here = visited[packed]
                after = self.successors(state)
                found.transitions += len(after)
                if not after:
                    self.ends.append(here)
                    self._judge_end(state, here, found)
                for position, way, next_state, local in after:
                    events = self._events(local, state, position, way)
                    dead = bool(events) and self._judge_events(events, here, position, way, found)
                    if dead:
                        self.ends.append(here)
                        continue
                    key = pack(*next_state)
                    number = visited.get(key, -1)
                    if number >= 0:
                        self.edges_from.append(here)
                        self.edges_to.append(number)
                        continue
                    number = len(visited)
                    visited[key] = number
                    self.parents.append(here)
                    self.moves.append(position << 8 | way)
                    coming.append(key)
                    self._judge_state(next_state, number, found.depth + 1, found)
                if len(visited) > self.most_states:
                    found.verdict = BOUND
                    break
                if self.progress is not None and monotonic() > next_report:
                    next_report = monotonic() + 0.2
                    self.progress(
                        Progress(len(visited), found.transitions, found.depth, len(coming))
                    )
            if found.verdict == BOUND:
                found.finished = False
                break
            frontier = coming
            found.depth += bool(coming)
        found.states = len(visited)
        found.ends = len(set(self.ends))
        if found.verdict == HOLDS:
            self._judge_endless(found)
        if found.faults:
            found.verdict = FAILS
        return found

    def _judge_endless(self, found: Found) -> None:
        """Every state must lead to an end (or to a fault): else threads go round for ever."""
        count = found.states
        before: list[list[int]] = [[] for _ in range(count)]
        for number in range(1, count):
            before[number].append(self.parents[number])
        for source, target in zip(self.edges_from, self.edges_to, strict=True):
            before[target].append(source)
        leads = bytearray(count)
        pending = list(set(self.ends))
        for number in pending:
            leads[number] = 1
        while pending:
            for number in before[pending.pop()]:
                if not leads[number]:
                    leads[number] = 1
                    pending.append(number)
        stuck = leads.find(0)
        if stuck >= 0:
            text = "from here on no way leads to the end of every thread"
            depth = 0
            state = stuck
            while state:
                state, depth = self.parents[state], depth + 1
            found.faults[LIVELOCK] = Fault(LIVELOCK, text, stuck, -1, 0, depth)

    def _events(
        self, local: int, state: tuple[int, ...], position: int, way: int
    ) -> tuple[Event, ...]:
        capacity = self.capacity
        others = state[capacity : capacity + position] + state[capacity + position + 1 :]
        return self.engine.blocks(local, state, others)[way].events

    def _judge_events(
        self, events: tuple[Event, ...], here: int, position: int, way: int, found: Found
    ) -> bool:
        """Ask the properties about events; True when nothing can go on after them."""
        dead = False
        for event in events:
            dead = dead or event.kind in ("raised", "misuse")
            for judge in self.properties:
                if judge.of_event is not None and judge.name not in found.faults:
                    text = judge.of_event(event)
                    if text:
                        found.faults[judge.name] = Fault(
                            judge.name, text, here, position, way, found.depth + 1
                        )
        return dead

    def _judge_end(self, state: tuple[int, ...], here: int, found: Found) -> None:
        """Nobody can go on: all have ended, or they wait for each other."""
        waiting = [
            n for n in range(self.threads) if not self.engine.ended[state[self.capacity + n]]
        ]
        for judge in self.properties:
            if judge.name in found.faults:
                continue
            text = ""
            if waiting and judge.of_deadlock is not None:
                text = judge.of_deadlock([self._standing(state, n) for n in waiting])
            elif not waiting and judge.of_rest is not None:
                text = "; ".join(line for line in self._at_rest(state) if judge.of_rest(line))
            if text:
                found.faults[judge.name] = Fault(judge.name, text, here, -1, 0, found.depth)

    def _standing(self, state: tuple[int, ...], position: int) -> str:
        """Where a thread stands for ever: what it waits for, or that it is interrupted."""
        local = self.engine.locals[state[self.capacity + position]]
        node = self.engine.node_of(local)
        step = node.step
        assert step is not None
        function = next(
            (site.function for site in reversed(node.sites) if "<locals>" not in site.function), ""
        )
        held = ", ".join(lock.array for lock, _ in local.held)
        holding = f", holding {held}" if held else ""
        if step.method in WAITS:
            return f"CPU{position} waits for {step.address.array} in {function}{holding}"
        return f"CPU{position} is interrupted in {function}{holding}"

    def _at_rest(self, state: tuple[int, ...]) -> list[str]:
        known = self._rests.get(state)
        if known is None:
            self.put_back(state)
            known = self._rests[state] = self.setting.at_rest()
            self.put_back(self.first_state())
        return known

    def _judge_state(self, state: tuple[int, ...], number: int, depth: int, found: Found) -> None:
        arrays = self.setting.always_arrays
        if not arrays:
            return
        seen = state  # of all arrays: words that one thread alone touches are with the thread
        if "" not in arrays:
            seen = tuple(
                state[n] if slot.address.array.startswith(arrays) else 0
                for n, slot in enumerate(self.engine.words.shared)
            )
        if seen in self._always:
            return
        self.put_back(state)
        lines = self._always[seen] = self.setting.always()
        self.put_back(self.first_state())
        for judge in self.properties:
            if judge.of_state is not None and judge.name not in found.faults:
                text = "; ".join(line for line in lines if judge.of_state(line))
                if text:
                    found.faults[judge.name] = Fault(judge.name, text, number, -1, 0, depth)

    def put_back(self, state: tuple[int, ...]) -> None:
        """Give the machine's words the values of a state."""
        from dpamt.verify.restore import restore  # after Search: it reads its tables

        restore(self, state)
