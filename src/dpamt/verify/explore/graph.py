"""What a search has reached: the states by number, from where each was come to, and its edges.

States are numbered in the order they are found, so breadth first: every state's number is above
that of the state it was found from, and the edges of all states lie one after the other in one
array.  A million states with four edges each take about 180 MB, most of it the packed states.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Final

from dpamt.verify.explore.memory import resident_bytes

_PASSES_DOWN: Final = 8
"""Passes over all states before the rest is done by edges turned round."""


class Graph:
    """States and edges; ``expanded`` states have all their edges."""

    def __init__(self, first: bytes) -> None:
        self.numbers: dict[bytes, int] = {first: 0}
        self.parents = array("i", [0])
        """The state from which each was found; 0 of the first."""
        self.moves = array("H", [0])
        """How it was found: position of the thread << 8 | way of its block."""
        self.first_edges = array("q")
        """By expanded state: where its edges begin in ``targets``."""
        self.targets = array("I")
        self.level_end = 1
        """States from here on are of the next depth: those below are expanded first."""
        self.ends = array("I")
        """States from which nothing follows, or something after which nothing can."""

    def __len__(self) -> int:
        """How many states were reached."""
        return len(self.numbers)

    def held(self) -> int:
        """Memory that the process holds, in bytes."""
        return resident_bytes()

    @property
    def expanded(self) -> int:
        """How many states have been expanded: those with lower numbers."""
        return len(self.first_edges)

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""
        moves = []
        while state:
            moves.append(self.moves[state])
            state = self.parents[state]
        moves.reverse()
        return moves

    def stuck(self) -> int:
        """The first state from which no way leads to an end; -1: there is none.

        Edges mostly lead to higher numbers, so a pass downwards settles nearly all.  Asked when
        every state is expanded.
        """
        begins = [*self.first_edges, len(self.targets)]
        leads = bytearray(len(self.numbers))
        for state in self.ends:
            leads[state] = 1
        return first_stuck(leads, lambda state: self.targets[begins[state] : begins[state + 1]])


def first_stuck(leads: bytearray, edges_of: Callable[[int], Sequence[int]]) -> int:
    """The first state from which no way leads to one that ``leads`` marks; marks those that do."""
    open_states = [n for n in range(len(leads) - 1, -1, -1) if not leads[n]]
    for _ in range(_PASSES_DOWN):
        left = []
        for state in open_states:
            for target in edges_of(state):
                if leads[target]:
                    leads[state] = 1
                    break
            else:
                left.append(state)
        if len(left) == len(open_states):
            return left[-1] if left else -1
        open_states = left
    _spread(open_states, edges_of, leads)
    return leads.find(0)


def _spread(
    open_states: list[int], edges_of: Callable[[int], Sequence[int]], leads: bytearray
) -> None:
    """Settle the last states by going backwards over their edges."""
    before: dict[int, list[int]] = {state: [] for state in open_states}
    pending = []
    for state in open_states:
        for target in edges_of(state):
            if leads[target]:
                pending.append(state)
            else:
                before[target].append(state)
    while pending:
        state = pending.pop()
        if not leads[state]:
            leads[state] = 1
            pending += before[state]
