"""The search: every state that the threads can reach, breadth first, so the first fault is nearest.

A state is the values of the shared slots and the sorted locals of each class: threads of one class
are interchangeable.  It is kept packed; with it, from where and by which thread it was reached.
"""

import struct
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Final, NamedTuple

from dpamt.host.core.leftovers import declared
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.compiled.engine import CompiledGraph, taken_over
from dpamt.verify.explore.compiled.library import MOST_FIELDS, library
from dpamt.verify.explore.context import keeps_softirqs_off
from dpamt.verify.explore.graph import Graph
from dpamt.verify.explore.judging import BOUND, FAILS, HOLDS, Fault, Found, Judge
from dpamt.verify.explore.learned_blocks import Block
from dpamt.verify.explore.restore import restore
from dpamt.verify.explore.state import Knowledge, Restart
from dpamt.verify.explore.symmetry import NotAlikeError, images_of, told_apart
from dpamt.verify.learn.automaton import Automaton
from dpamt.verify.learn.reached_lines import not_reached, reached_lines_of
from dpamt.verify.learn.store_buffer import may_be_turned
from dpamt.verify.programs.problem import Problem
from dpamt.verify.properties.named import Property

MOST_STATES: Final = 5_000_000
"""A search of more states than this stops unfinished, unless the caller says otherwise."""
COMPILED_FROM: Final = 4_000
"""States from which on compiled code pays, where there is a C compiler."""
LONGEST_WALK: Final = 10_000
"""Moves after which one of these schedules is given up."""
WARM_UP_WALKS: Final = 12
"""Random schedules before the search, so that it knows which words are changed and by whom."""


class Progress(NamedTuple):
    """How far a search is."""

    states: int
    transitions: int
    depth: int
    waiting: int


class Search:
    """A search over one problem at one granularity; ``explore`` runs it."""

    def __init__(
        self,
        problem: Problem,
        automata: tuple[Automaton, ...],
        properties: tuple[Property, ...],
        granularity: str,
        most_states: int,
        progress: Callable[[Progress], None] | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        self.problem = problem
        self.automata = automata
        self.properties = properties
        self.granularity = granularity
        self.most_states = most_states
        self.progress = progress
        self.knowledge = knowledge if knowledge is not None else Knowledge()
        self.most_memory = 0
        """Bytes that the process may hold; 0: as many as there are."""
        self.keep: Callable[[Search, Found], None] | None = None
        """Keeps the search as it stands; called now and then between two states."""
        self.compiled_from = COMPILED_FROM
        """States from which on the search goes on in compiled code."""
        self.jobs = 1
        """Threads of compiled code."""
        self.spill_to = ""
        """Folder for states beyond ``most_memory``; empty: the search stops there."""
        self.interrupted = False
        self.restarts = 0
        self.apart: list[int] = []
        """Classes that were taken apart, each as the classes were numbered then."""
        self._images = images_of(problem, automata)
        self._next_report = monotonic() + 0.2
        self.begin(self.knowledge)

    def begin(self, knowledge: Knowledge) -> None:
        """Forget every state; only what is known of the words stays."""
        self.knowledge = knowledge
        self.engine = Engine(self.problem, self.automata, self.knowledge, self.granularity)
        self.graph: Graph | CompiledGraph
        self.threads = sum(kind.count for kind in self.problem.classes)
        self._bounds = []
        first = 0
        for kind in self.problem.classes:
            self._bounds.append((first, first + kind.count))
            first += kind.count
        self.capacity = self.engine.words.capacity
        self.packing = struct.Struct(
            f"{self.capacity + self.threads}{'I' if self.knowledge.wide else 'H'}"
        )
        self.judge = Judge(self)
        self._interrupts = [
            (position, self._bounds[kind.interrupts][0])
            for (position, _), kind in zip(self._bounds, self.problem.classes, strict=True)
            if kind.interrupts >= 0
        ]
        phases = [
            kind.phase
            for (first, end), kind in zip(self._bounds, self.problem.classes, strict=True)
            for _ in range(first, end)
        ]
        self._before = [
            [other for other, earlier in enumerate(phases) if earlier < phase] for phase in phases
        ]
        """By position: the threads of earlier phases."""
        self._is_ordered = bool(self._interrupts) or any(self._before)

    def assumptions(self) -> list[str]:
        """What the search rests on and has not proved, a sentence each."""
        world = self.problem.world
        said = [*self.problem.assumptions, *(declared(world.design) if world is not None else ())]
        if world is not None and world.design.code is not None:
            said += world.design.code.assumptions()
        if world is None or world.design.code is None or not world.design.code.buffers:
            for automaton in self.automata:
                said += map(str, may_be_turned(automaton, self.knowledge.is_raced_for))
        return list(dict.fromkeys(said))

    def not_reached(self) -> tuple[str, ...]:
        """The lines of the design that no thread came to: ``file:line text``."""
        world, reached = self.problem.world, self.problem.recorder.lines
        if world is None or reached is None:
            return ()
        code = world.design.code
        return code.not_reached() if code is not None else not_reached(world.design, reached)

    def first_state(self) -> tuple[int, ...]:
        """The state before anybody runs."""
        locals_ = [
            self.engine.first_local(number)
            for number, kind in enumerate(self.problem.classes)
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
        if not all(self.engine.ended[state[capacity + other]] for other in self._before[position]):
            return False
        for upper, lower in self._interrupts:
            if position == lower:
                top = state[capacity + upper]
                if not self.engine.ended[top] and self.engine.locals[top].node != 0:
                    return False
            elif position == upper and self.engine.locals[local].node == 0:
                below = self.engine.locals[state[capacity + lower]]
                if keeps_softirqs_off(below.held):
                    return False
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
                if self._is_ordered and not self.enabled(state, place - capacity):
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

    def explore(self, so_far: Found | None = None) -> Found:
        """Search until all is seen or a bound is reached; restarts where it must.

        ``so_far`` is what was found before, when the search goes on from where it was kept.
        """
        began = monotonic() - (so_far.seconds if so_far is not None else 0.0)
        while True:
            try:
                if so_far is None:
                    self._warm_up()
                    self.prove_alike()
                    found = self._first()
                else:
                    found = so_far
                self._began = began
                self._search(found)
                self.prove_alike()
                self._prove_steady()
            except NotAlikeError as differs:
                self._give_up_symmetry(differs)
                so_far = None
                continue
            except (Restart, struct.error) as why:
                self.knowledge.wide |= isinstance(why, struct.error)
                self.restarts += 1
                so_far = None
                self.begin(self.knowledge)
                continue
            found.seconds = monotonic() - began
            found.restarts = self.restarts
            return found

    def settle(self) -> None:
        """Find out which words are changed and which threads are alike, without a search."""
        while True:
            try:
                self._warm_up()
                self.prove_alike()
                self._prove_steady()
                return
            except NotAlikeError as differs:
                self._give_up_symmetry(differs)

    def _give_up_symmetry(self, differs: NotAlikeError) -> None:
        name = self.problem.classes[differs.kind].name
        self.problem.assumptions.append(
            f'threads of "{name}" are kept apart, not interchanged: {differs.why}'
        )
        self.tell_apart(differs.kind)
        self.restarts += 1

    def prove_alike(self) -> None:
        """Raise NotAlikeError where a thread is no image of the first of its class."""
        for number, image in self._images:
            why = image.check()
            if why:
                raise NotAlikeError(number, why)

    def _prove_steady(self) -> None:
        """Raise InputError where a thread goes by something that no word shows."""
        for automaton in self.automata:
            automaton.prove_steady()

    def tell_apart(self, number: int) -> None:
        """Make each thread of a class a class of its own, and forget what was learned."""
        self.apart.append(number)
        self.problem = told_apart(self.problem, number)
        self.automata = automata_of(self.problem)
        self._images = images_of(self.problem, self.automata)
        self.begin(Knowledge(reduced=self.knowledge.reduced))

    def _warm_up(self) -> None:
        walks = 0
        while walks < WARM_UP_WALKS:
            try:
                with self.engine.looked_at_once():
                    self._walk(Random(walks))
                walks += 1
            except Restart:
                self.restarts += 1
                self.begin(self.knowledge)

    def _walk(self, pick: Random) -> None:
        """One schedule, to its end."""
        state = self.first_state()
        for _ in range(LONGEST_WALK):  # threads may go round for ever
            after = self.moves(state)
            if not after:
                break
            state = self.packing.unpack(pick.choice(after)[2])

    def _first(self) -> Found:
        """What there is before anything is searched."""
        found = Found(HOLDS)
        first = self.first_state()
        self.graph = Graph(self.packing.pack(*first))
        self.judge.begin(found)
        self.judge.state(first, 0, 0, found)
        return found

    def _search(self, found: Found) -> None:
        graph = self.graph
        if isinstance(graph, Graph):
            keys = list(graph.numbers)
            frontier, coming = keys[graph.expanded : graph.level_end], keys[graph.level_end :]
            del keys
            while (frontier or coming) and not self._is_for_compiled_code():
                self._level(graph, frontier, coming, found)
                if found.stopped:
                    break
                graph.level_end = len(graph)
                frontier, coming = coming, []
                found.depth += bool(frontier)
            else:
                if frontier:
                    self.graph = taken_over(self, graph, found, self.jobs)
        if isinstance(self.graph, CompiledGraph):
            self.graph.go_on(found, self.most_states, lambda waiting: self._pause(found, waiting))
        found.states = len(self.graph)
        found.ends = len(set(self.graph.ends))
        if found.stopped:
            found.verdict = BOUND
            found.seconds = monotonic() - self._began
            if self.keep is not None:
                self.keep(self, found)
        else:
            self.judge.endless(self.graph, found)
        if found.faults:
            found.verdict = FAILS

    def _is_for_compiled_code(self) -> bool:
        if len(self.graph) < self.compiled_from or library() is None:
            return False
        return self.capacity + self.threads <= MOST_FIELDS  # capacity only grows with a restart

    def _level(
        self, graph: Graph, frontier: list[bytes], coming: list[bytes], found: Found
    ) -> None:
        """Expand the states of one depth; new ones are ``coming``."""
        unpack, moves = self.packing.unpack, self.moves
        judged = self.judge.judged
        numbers, parents, targets = graph.numbers, graph.parents, graph.targets
        number_of, come_from, move_by = numbers.get, parents.append, graph.moves.append
        watched = bool(self.problem.always_arrays)
        here = graph.expanded
        for packed in frontier:
            state = unpack(packed)
            after = moves(state)
            graph.first_edges.append(len(targets))
            found.transitions += len(after)
            if not after:
                graph.ends.append(here)
                self.judge.end(state, here, found)
            for position, way, key, block in after:
                if block.events:
                    said = judged.get(id(block)) or self.judge.events(block)
                    if said.wrong:
                        self.judge.note(said, here, position, way, found)
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
                        self.judge.state(unpack(key), number, found.depth + 1, found)
                targets.append(number)
            here += 1
            if len(numbers) > self.most_states:
                found.stopped = f"more than {self.most_states:,} states (--max-states)"
            elif here & 63 == 0:
                self._pause(found, len(coming))
            if found.stopped:
                break

    def _pause(self, found: Found, waiting: int) -> None:
        """Now and then: report, keep what there is, see whether to stop."""
        if self.interrupted:
            found.stopped = "interrupted"
        now = monotonic()
        if now < self._next_report:
            return
        self._next_report = now + 0.2
        if self.most_memory and self.graph.held() > self.most_memory:
            self._bound_memory(found)
        if self.keep is not None and not found.stopped:
            found.seconds = now - self._began
            self.keep(self, found)
        if self.progress is not None:
            states = len(self.graph)
            self.progress(Progress(states, found.transitions, found.depth, waiting))

    def _bound_memory(self, found: Found) -> None:
        """Stop, or go on with the states in files where that was asked for and is not done yet."""
        graph = self.graph
        most = f"more than {self.most_memory >> 20:,} MiB of memory (--max-memory)"
        if not self.spill_to or not isinstance(graph, CompiledGraph) or graph.is_spilled:
            found.stopped = most
            return
        try:
            graph.spill(self.spill_to)
        except OSError as error:
            found.stopped = f"{most}, and --spill {self.spill_to}: {error.strerror or error}"

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""
        return self.graph.way_to(state)

    def put_back(self, state: tuple[int, ...]) -> None:
        """Give the machine's words the values of a state."""
        restore(self, state)


def search_of(
    problem: Problem,
    properties: tuple[Property, ...],
    granularity: str,
    most_states: int = MOST_STATES,
    progress: Callable[[Progress], None] | None = None,
) -> Search:
    """The search over a problem, not yet begun."""
    automata = automata_of(problem)
    return Search(problem, automata, properties, granularity, most_states, progress)


def automata_of(problem: Problem) -> tuple[Automaton, ...]:
    """An automaton for each class of threads, of which nothing but the first node is known."""
    if problem.world is not None:
        problem.recorder.lines = reached_lines_of(problem.world.design)
    return tuple(
        Automaton(kind.name, kind.start, problem.recorder, problem.shared.watch)
        for kind in problem.classes
    )


__all__ = [
    "BOUND",
    "FAILS",
    "HOLDS",
    "MOST_STATES",
    "Fault",
    "Found",
    "Progress",
    "Search",
    "automata_of",
    "search_of",
]
