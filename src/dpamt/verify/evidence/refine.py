"""A failure found with few places to switch CPUs, looked for again with all of them.

The schedule of the coarse counterexample is followed in the search whose CPUs are switched at every
shared word: each CPU's turns, one after the other, as far as its steps there go.  Whether the same
property fails on that way is asked of that search's own blocks and states.
"""

from typing import Final

from dpamt.verify.evidence.counterexample import Counterexample, choices_of, follow
from dpamt.verify.explore.judging import HOLDS, Found
from dpamt.verify.explore.learned_blocks import Block
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.explore.state import Restart
from dpamt.verify.programs.problem import WORDS, Problem
from dpamt.verify.properties.named import LIVELOCK, LOCK_ORDER, Property

FOUND: Final = "found"
_MOST_RESTARTS: Final = 100


class Refinement:
    """The fine search of one problem, to follow coarse counterexamples in."""

    def __init__(self, problem: Problem, properties: tuple[Property, ...]) -> None:
        self._search = search_of(problem, properties, WORDS)

    def look(self, coarse: Counterexample) -> str:
        """``found``, or why the failure was not seen on its way."""
        if coarse.broken == LIVELOCK:
            return "that no way leads on is for a whole search to say"
        if coarse.broken == LOCK_ORDER:
            return "that the other order exists is for a whole search to say"
        self._search.settle()
        for _ in range(_MOST_RESTARTS):
            try:
                return _Walk(self._search, coarse).result()
            except Restart:
                self._search.begin(self._search.knowledge)
        return "what is known of the words does not settle"


class _Walk:
    """One way through the fine search."""

    def __init__(self, search: Search, coarse: Counterexample) -> None:
        self._search = search
        self._coarse = coarse
        self._choices = list(coarse.choices)
        self._found = Found(HOLDS)
        self._state = search.first_state()
        self._cpus = list(range(search.threads))
        """Which CPU stands at each position of the state."""

    def result(self) -> str:
        """See :meth:`Refinement.look`."""
        judge, broken = self._search.judge, self._coarse.broken
        judge.begin(self._found)
        if broken in self._found.faults:
            return FOUND
        ahead = dict.fromkeys(self._cpus, 0)
        for cpu, steps in self._coarse.turns:
            ahead[cpu] -= steps
            while ahead[cpu] < 0:
                block = self._go(cpu)
                if block is None:
                    return f"CPU{cpu} cannot go on there"
                ahead[cpu] += len(block.steps)
                said = judge.events(block)
                if broken in dict(said.wrong):
                    return FOUND
                if said.dead:
                    return "another failure ends it before"
        judge.state(self._state, 0, 0, self._found)
        if not self._search.moves(self._state):
            judge.end(self._state, 0, self._found)
        return FOUND if broken in self._found.faults else f"{broken} holds at the end of its way"

    def _go(self, cpu: int) -> Block | None:
        """Let the CPU do its next block; None when it cannot."""
        search, capacity = self._search, self._search.capacity
        here = self._cpus.index(cpu)
        local = self._state[capacity + here]
        for position, way, _, block in search.moves(self._state):
            if self._state[capacity + position] != local:
                continue
            chosen = choices_of(search, local, block)
            if chosen != self._choices[: len(chosen)]:
                continue
            del self._choices[: len(chosen)]
            # Equal threads: the one that the search lets go stands for this one.
            cpus = self._cpus
            cpus[here], cpus[position] = cpus[position], cpus[here]
            self._state, self._cpus = follow(search, self._state, position << 8 | way, block, cpus)
            return block
        return None
