"""The search: every state that the threads can reach, breadth first, so the first fault is nearest.

A state is the values of the shared slots and the sorted locals of each class: threads of one class
are interchangeable.  It is kept packed; with it, from where and by which thread it was reached.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Final, NamedTuple

from dpamt.sync.observed import WAITS
from dpamt.verify.automaton import Automaton
from dpamt.verify.blocks import Block, Engine
from dpamt.verify.graph import Graph
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


class _Judged(NamedTuple):
    """What properties say of a block's events; the block is kept, so that its id stays its own."""

    block: Block
    dead: bool
    """Whether nothing can go on after it."""
    wrong: tuple[tuple[str, str], ...]
    """Name of each property that fails, and how."""


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
        self._next_report = monotonic() + 0.2
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
        self.packing = struct.Struct(
            f"{self.capacity + self.threads}{'I' if self.knowledge.wide else 'H'}"
        )
        self._judged: dict[int, _Judged] = {}
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
        unpack, capacity = self.packing.unpack, self.capacity
        return [
            (position, way, unpack(key), state[capacity + position])
            for position, way, key, _ in self.moves(state)
        ]

    def moves(self, state: tuple[int, ...]) -> list[tuple[int, int, bytes, Block]]:
        """(thread, way, next state packed, block) of everything that can happen next."""
        engine, capacity, pack = self.engine, self.capacity, self.packing.pack
        known, keys, ended, read_pages = engine.known, engine.keys, engine.ended, engine.read_pages
        found = []
        for first, end in self._bounds:
            low, high = capacity + first, capacity + end
            last = -1
            for place in range(low, high):
                local = state[place]
                if local == last or ended[local]:
                    continue  # an equal thread would do the same
                last = local
                if self._interrupts and not self.enabled(state, place - capacity):
                    continue
                blocks = None if read_pages[local] else known[local].get(keys[local](state))
                if blocks is None:
                    others = state[capacity:place] + state[place + 1 :]
                    blocks = engine.blocks(local, state, others)
                for way, block in enumerate(blocks):
                    after = list(state)
                    for slot, value in block.writes:
                        after[slot] = value
                    if block.fills:
                        self._feel(after, place, block)
                    after[place] = block.local
                    if high - low > 1:
                        after[low:high] = sorted(after[low:high])
                    found.append((place - capacity, way, pack(*after), block))
        return found

    def _feel(self, after: list[int], place: int, block: Block) -> None:
        """Other threads' own words lie in pages that the block writes whole."""
        for first, end in self._bounds:
            low, high = self.capacity + first, self.capacity + end
            felt = {
                other: self.engine.felt(after[other], block.fills)
                for other in range(low, high)
                if other != place
            }
            for other, local in felt.items():
                after[other] = local
            if not low <= place < high:
                after[low:high] = sorted(after[low:high])

    # The whole.

    def explore(self) -> Found:
        """Search until all is seen or ``most_states`` are; begins anew as often as it must."""
        began = monotonic()
        while True:
            try:
                self._warm_up()
                found = self._search()
            except (Restart, struct.error) as why:
                self.knowledge.wide |= isinstance(why, struct.error)
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
                    after = self.moves(state)
                    if not after:
                        break
                    state = self.packing.unpack(pick.choice(after)[2])
                walks += 1
            except Restart:
                self.restarts += 1
                self._begin()

    def _search(self) -> Found:
        found = Found(HOLDS)
        first = self.first_state()
        self.graph = Graph(self.packing.pack(*first))
        self._judge_state(first, 0, 0, found)
        frontier = list(self.graph.numbers)
        while frontier and found.finished:
            frontier = self._level(frontier, found)
            found.depth += bool(frontier)
        found.states = len(self.graph.numbers)
        found.ends = len(set(self.graph.ends))
        if not found.finished:
            found.verdict = BOUND
        else:
            self._judge_endless(found)
        if found.faults:
            found.verdict = FAILS
        return found

    def _level(self, frontier: list[bytes], found: Found) -> list[bytes]:
        """Expand states of one depth; those found anew."""
        graph, unpack, moves, judged = self.graph, self.packing.unpack, self.moves, self._judged
        numbers, parents, targets = graph.numbers, graph.parents, graph.targets
        number_of, come_from, move_by = numbers.get, parents.append, graph.moves.append
        watched = bool(self.setting.always_arrays)
        coming: list[bytes] = []
        here = graph.expanded
        for packed in frontier:
            state = unpack(packed)
            after = moves(state)
            graph.first_edges.append(len(targets))
            found.transitions += len(after)
            if not after:
                graph.ends.append(here)
                self._judge_end(state, here, found)
            for position, way, key, block in after:
                if block.events:
                    said = judged.get(id(block)) or self._judge_events(block)
                    if said.wrong:
                        self._note(said, here, position, way, found)
                    if said.dead:
                        graph.ends.append(here)
                        continue
                number = number_of(key, -1)
                if number < 0:
                    number = numbers[key] = len(numbers)
                    come_from(here)
                    move_by(position << 8 | way)
                    coming.append(key)
                    if watched:
                        self._judge_state(unpack(key), number, found.depth + 1, found)
                targets.append(number)
            here += 1
            if len(numbers) > self.most_states:
                found.finished = False
                break
            if here & 63 == 0:
                self._report(found, len(coming))
        return coming

    def _report(self, found: Found, waiting: int) -> None:
        """Tell now and then how far the search is."""
        now = monotonic()
        if self.progress is not None and now > self._next_report:
            self._next_report = now + 0.2
            states = len(self.graph.numbers)
            self.progress(Progress(states, found.transitions, found.depth, waiting))

    def _judge_endless(self, found: Found) -> None:
        """Every state must lead to an end (or to a fault): else threads go round for ever."""
        stuck = self.graph.stuck()
        if stuck >= 0:
            text = "from here on no way leads to the end of every thread"
            depth = len(self.graph.way_to(stuck))
            found.faults[LIVELOCK] = Fault(LIVELOCK, text, stuck, -1, 0, depth)

    def _judge_events(self, block: Block) -> "_Judged":
        """Ask the properties about a block's events, once."""
        dead = any(event.kind in ("raised", "misuse") for event in block.events)
        wrong = {}
        for event in block.events:
            for judge in self.properties:
                if judge.of_event is not None and judge.name not in wrong:
                    text = judge.of_event(event)
                    if text:
                        wrong[judge.name] = text
        said = self._judged[id(block)] = _Judged(block, dead, tuple(wrong.items()))
        return said

    def _note(self, said: "_Judged", here: int, position: int, way: int, found: Found) -> None:
        for name, text in said.wrong:
            if name not in found.faults:
                depth = found.depth + 1
                found.faults[name] = Fault(name, text, here, position, way, depth)

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
