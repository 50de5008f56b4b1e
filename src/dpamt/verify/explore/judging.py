"""What properties say of a search's states and of what threads do: the nearest failure of each.

Answers are kept: a block is judged once, and the words that properties look at once for each of
their contents.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from dpamt.sync.steps import WAITS
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.learned_blocks import Block
from dpamt.verify.learn.automaton import Automaton
from dpamt.verify.programs.problem import Problem
from dpamt.verify.properties.named import LIVELOCK, Property

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


@dataclass(slots=True)
class Found:
    """What a search has found."""

    verdict: str
    stopped: str = ""
    """Why it was stopped before its end; empty: it was not."""
    states: int = 0
    transitions: int = 0
    depth: int = 0
    ends: int = 0
    seconds: float = 0.0
    restarts: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)


class Judged(NamedTuple):
    """What properties say of a block's events; the block is kept, so that its id stays its own."""

    block: Block
    dead: bool
    """Whether nothing can go on after it."""
    wrong: tuple[tuple[str, str], ...]
    """Name of each property that fails, and how."""


class _Searched(Protocol):
    """What is asked of a search."""

    problem: Problem
    automata: tuple[Automaton, ...]
    engine: Engine
    properties: tuple[Property, ...]
    threads: int
    capacity: int

    def first_state(self) -> tuple[int, ...]:
        """The state before anybody runs."""

    def put_back(self, state: tuple[int, ...]) -> None:
        """Give the machine's words the values of a state."""


class _Reached(Protocol):
    """What is asked of a search's states and edges."""

    def stuck(self) -> int:
        """The first state from which no way leads to an end; -1: there is none."""

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""


class Judge:
    """The properties of one search, asked."""

    def __init__(self, search: _Searched) -> None:
        self._search = search
        self.judged: dict[int, Judged] = {}
        """By id of a block."""
        self._rests: dict[tuple[int, ...], list[str]] = {}
        self._always: dict[tuple[int, ...], list[str]] = {}

    def begin(self, found: Found) -> None:
        """What threads do before their first step comes before every state, in every schedule."""
        for kind, automaton in enumerate(self._search.automata):
            done = self._search.engine.context.begun(kind, automaton.first_events)
            for name, text in self.events(Block(0, (), done, (), ())).wrong:
                found.faults.setdefault(name, Fault(name, text, 0, -1, 0, 0))

    def endless(self, graph: _Reached, found: Found) -> None:
        """Every state must lead to an end (or to a fault): else threads go round for ever."""
        stuck = graph.stuck()
        if stuck >= 0:
            text = "from here on no way leads to the end of every thread"
            depth = len(graph.way_to(stuck))
            found.faults[LIVELOCK] = Fault(LIVELOCK, text, stuck, -1, 0, depth)

    def events(self, block: Block) -> Judged:
        """Ask the properties about a block's events, once."""
        dead = any(event.kind in ("raised", "misuse") for event in block.events)
        wrong = {}
        for event in block.events:
            for judge in self._search.properties:
                if judge.of_event is not None and judge.name not in wrong:
                    text = judge.of_event(event)
                    if text:
                        wrong[judge.name] = text
        said = self.judged[id(block)] = Judged(block, dead, tuple(wrong.items()))
        return said

    def note(self, said: Judged, here: int, position: int, way: int, found: Found) -> None:
        """A block that fails a property is done in state ``here``."""
        for name, text in said.wrong:
            if name not in found.faults:
                depth = found.depth + 1
                found.faults[name] = Fault(name, text, here, position, way, depth)

    def end(self, state: tuple[int, ...], here: int, found: Found) -> None:
        """Nobody can go on: all have ended, or they wait for each other."""
        waiting = [
            n
            for n in range(self._search.threads)
            if not self._search.engine.ended[state[self._search.capacity + n]]
        ]
        for judge in self._search.properties:
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
        local = self._search.engine.locals[state[self._search.capacity + position]]
        node = self._search.engine.node_of(local)
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
            self._search.put_back(state)
            known = self._rests[state] = self._search.problem.at_rest()
            self._search.put_back(self._search.first_state())
        return known

    def state(self, state: tuple[int, ...], number: int, depth: int, found: Found) -> None:
        """Ask the properties that are asked of every state."""
        arrays = self._search.problem.always_arrays
        if not arrays:
            return
        seen = state  # of all arrays: words that one thread alone touches are with the thread
        if "" not in arrays:
            seen = tuple(
                state[n] if slot.address.array.startswith(arrays) else 0
                for n, slot in enumerate(self._search.engine.words.shared)
            )
        if seen in self._always:
            return
        self._search.put_back(state)
        lines = self._always[seen] = self._search.problem.always()
        self._search.put_back(self._search.first_state())
        for judge in self._search.properties:
            if judge.of_state is not None and judge.name not in found.faults:
                text = "; ".join(line for line in lines if judge.of_state(line))
                if text:
                    found.faults[judge.name] = Fault(judge.name, text, number, -1, 0, depth)
