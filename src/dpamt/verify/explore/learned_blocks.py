"""What a search has learned of its threads: where each may stand, and its blocks there."""

from collections.abc import Callable, Hashable
from operator import itemgetter
from typing import Any, NamedTuple

from dpamt.verify.explore.state import Local
from dpamt.verify.learn.automaton import Automaton, Events, Node


class MicroStep(NamedTuple):
    """One step inside a block: the node it was taken from and its result."""

    node: int
    result: Any


class Block(NamedTuple):
    """What a block does: the thread's next local, values written to shared slots, events, fills.

    ``fills`` are whole-page writes that other threads' own words may feel: (array, page, method,
    arguments).
    """

    local: int
    writes: tuple[tuple[int, int], ...]
    events: Events
    fills: tuple[tuple[str, int, str, tuple[Any, ...]], ...]
    steps: tuple[MicroStep, ...]


Blocks = tuple[Block, ...]
"""The ways a block can go: one, or several where it makes choices; none: it must wait."""


class LearnedBlocks:
    """Locals and blocks; filled by the engine that works them out."""

    def __init__(self, automata: tuple[Automaton, ...]) -> None:
        self.automata = automata
        self.locals: list[Local] = []
        self._numbers: dict[Local, int] = {}
        self.read_slots: list[tuple[int, ...]] = []
        """By local: the shared slots that its block may read."""
        self.read_pages: list[tuple[tuple[str, int], ...]] = []
        """By local: pages that its block uses whole and other threads have words in."""
        self.known: list[dict[Hashable, Blocks]] = []
        """By local: its blocks, by the values of what they read (``keys``)."""
        self.keys: list[Callable[[tuple[int, ...]], Hashable]] = []
        """By local: what of a state its blocks depend on, pages that others have words in aside."""
        self.ended: list[bool] = []

    def number(self, local: Local) -> int:
        """The number of a local."""
        known = self._numbers.get(local)
        if known is None:
            known = self._numbers[local] = len(self.locals)
            self._append(local, self.node_of(local).step is None)
        return known

    def _append(self, local: Local, ended: bool) -> None:
        self.locals.append(local)
        self.read_slots.append(())
        self.read_pages.append(())
        self.known.append({})
        self.keys.append(_nothing)
        self.ended.append(ended)

    def _read(self, local: int, slots: tuple[int, ...], pages: tuple[tuple[str, int], ...]) -> None:
        """What the blocks of a local read; those known before go by something else."""
        self.read_slots[local] = slots
        self.read_pages[local] = pages
        self.keys[local] = itemgetter(*slots) if slots else _nothing
        self.known[local].clear()

    def node_of(self, local: Local) -> Node:
        """The node where a local stands."""
        return self.automata[local.kind].nodes[local.node]

    def first_local(self, kind: int) -> int:
        """A thread of class ``kind`` at the place where it may first be switched away."""
        return self.number(Local(kind, 0, ()))


def _nothing(_: tuple[int, ...]) -> Hashable:
    """Of a state that a block does not read."""
    return ()
