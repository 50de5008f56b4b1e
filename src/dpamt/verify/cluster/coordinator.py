"""A search dealt out to many shards, depth by depth: this one learns, they keep and expand.

Shards expand in compiled memory with tables that they were sent (:mod:`.learned`), so code of the
model runs here only, and the search restarts here only.  A state that needs what is not in the
tables comes back, is learned, and is expanded in the next round.  States, transitions, depth, ends
and verdict are those of the search in one process, and so is the length of the way to the nearest
failure; of several ways that are as short it may be another one.

A shard that is lost takes its states with it.  All shards then continue from the last copy of their
states, and what was found after it is found again (:mod:`.copies`).
"""

import sys
from collections.abc import Callable, Iterable
from itertools import chain
from math import inf
from time import monotonic
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.verify.cluster.copies import Copies
from dpamt.verify.cluster.learned import Teacher
from dpamt.verify.cluster.team import ShardLostError, Team
from dpamt.verify.cluster.worker import Expanded, Settled, Taken
from dpamt.verify.explore.compiled.tables import integers
from dpamt.verify.explore.judging import BOUND, FAILS, Found, Judge
from dpamt.verify.explore.search import Progress, Search, automata_of
from dpamt.verify.programs.problem import Problem
from dpamt.verify.properties.named import Property

ROUND_STATES: Final = 1 << 16
"""States that a shard expands before rows travel: what follows from them is held at once."""
ASK_STATES: Final = 1 << 20
"""States that a shard asks for at once, by number."""
MOST_IN_SHARD: Final = (1 << 31) - (1 << 26)
"""States of a shard have numbers of 31 bits; what a round brings has to fit too."""
COPY_SECONDS: Final = 60.0
MOST_LOSSES: Final = 3
"""A search that loses shards as often without getting as far as a new copy is given up."""


class ShardedSearch(Search):
    """A search whose states are with a team; see the file's beginning."""

    team: Team
    copy_seconds: float = COPY_SECONDS
    """How often a copy of all states is made."""
    round_states: int = ROUND_STATES
    """States that a shard expands in a round."""

    def _search(self, found: Found) -> None:
        losses = made = 0
        with Copies(self.team, found) as copies:
            while True:
                self._ways: dict[int, list[int]] = {}
                self._teacher = Teacher(self)
                try:
                    if losses:
                        self.team.replace()
                    self._go_on(found, copies, self._begin(found, copies))
                    for fault in found.faults.values():
                        self.way_to(fault.state)
                    break
                except ShardLostError:
                    losses = losses + 1 if copies.made == made else 1
                    made = copies.made
                    self._make_good(found, copies, losses)
        if found.faults:
            found.verdict = FAILS

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""
        known = self._ways.get(state)
        if known is not None:
            return known
        moves: list[int] = []
        here, before = state, -1
        while here != before:
            before = here
            shard = here % self.team.count
            here, some = self.team.call("come_from", [(here,)] * self.team.count)[shard]
            moves += some
        moves.reverse()
        self._ways[state] = moves
        return moves

    # From depth to depth.

    def _begin(self, found: Found, copies: Copies) -> int:
        """Let the shards begin, or continue from their copies; how many states wait."""
        team, watched = self.team, bool(self.problem.always_arrays)
        learned = self._teacher.message()
        waiting = copies.load(learned, watched)
        if waiting:
            self._begins = [list(begin) for begin in copies.begins]
            return waiting
        state, slots = self.first_state(), len(self.engine.words.shared)
        fields = bytes(integers((*state[:slots], *state[self.capacity :])))
        home = team.call("begin", [(learned, fields, watched)] * team.count).index(True)
        for name, fault in found.faults.items():
            found.faults[name] = fault._replace(state=home)  # that of the first state
        self._begins = [[0] * team.count]
        return 1

    def _go_on(self, found: Found, copies: Copies, waiting: int) -> None:
        """Expand all states, then ask which of them lead to an end."""
        next_copy = monotonic() + self.copy_seconds
        self._found = found
        try:
            while waiting and not found.stopped:
                self._expand(found)
                if found.stopped:
                    break
                reached = self.team.call("next", [()] * self.team.count)
                self._begins.append([first for first, _ in reached])
                waiting = sum(left for _, left in reached)
                found.depth += bool(waiting)
                if waiting and monotonic() > next_copy:
                    self._copy(found, copies)
                    next_copy = monotonic() + self.copy_seconds
            if not found.stopped:
                self.judge.endless(self, found)
        except MemoryError:
            found.stopped = "the system gives a shard no more memory"
        if found.stopped:
            found.verdict = BOUND

    def _expand(self, found: Found) -> None:
        """Let the shards expand one depth, learning what they miss."""
        team, teacher = self.team, self._teacher
        while True:
            given = [(teacher.message(), self.round_states)] * team.count
            reports: Any = team.relay("expand", given, "take", "settle")
            expanded: list[Expanded] = reports[0]
            taken: list[Taken] = reports[1]
            settled: list[Settled] = reports[2]
            found.states = sum(each.states for each in taken)
            found.transitions = sum(each.transitions for each in settled)
            found.ends = sum(each.ends for each in settled)
            for number, fields in _all(each.last for each in settled):
                self.judge.end(teacher.state(fields), number, found)
            for number, fields in _all(each.new for each in taken):
                self.judge.state(teacher.state(fields), number, found.depth + 1, found)
            asked = [(n, teacher.state(fields)) for n, fields in _all(e.asked for e in expanded)]
            teacher.learn(asked, found)
            fullest = max(each.states for each in taken)
            self._look(found, fullest, sum(each.memory for each in settled))
            if found.stopped or not any(each.left for each in expanded):
                return

    def _look(self, found: Found, fullest: int, memory: int) -> None:
        """Report, and see whether to stop."""
        if fullest > MOST_IN_SHARD:
            found.stopped = f"a shard has {fullest:,} states; expected more shards (--jobs)"
        elif found.states > self.most_states:
            found.stopped = f"more than {self.most_states:,} states (--max-states)"
        elif self.most_memory and memory > self.most_memory:
            found.stopped = f"more than {self.most_memory >> 20:,} MiB of memory (--max-memory)"
        if self.progress is not None and monotonic() > self._next_report:
            self._next_report = monotonic() + 0.2
            waiting = found.states - sum(self._begins[-1])
            self.progress(Progress(found.states, found.transitions, found.depth, waiting))

    # Which states lead to an end.

    def stuck(self) -> int:
        """The first state from which no way leads to an end; -1: there is none."""
        team = self.team
        nothing: list[tuple[()]] = [()] * team.count
        team.call("mark", nothing)
        for every_edge in (False, True):
            marked = 1
            while marked:
                marked = 0
                for begins, ends in zip(self._begins[-2::-1], self._begins[:0:-1], strict=True):
                    marked += self._ask(begins, ends, every_edge)
                left = team.call("unmarked", nothing)
                if not any(count for count, _ in left):
                    return -1
        stuck = [(self._depth_of(first, n), first, n) for n, (_, first) in enumerate(left)]
        _, first, shard = min(each for each in stuck if each[1] >= 0)
        return int(first * team.count + shard)

    def _depth_of(self, state: int, shard: int) -> int:
        """The depth of a state, by its number in the shard."""
        return sum(begin[shard] <= state for begin in self._begins)

    def _ask(self, begins: list[int], ends: list[int], every_edge: bool) -> int:
        """Ask for the states of a depth whether they lead to an end; how many turn out to."""
        team, teacher = self.team, self._teacher
        most = self.round_states if every_edge else ASK_STATES
        marked, ends = 0, list(ends)
        while any(begin < end for begin, end in zip(begins, ends, strict=True)):
            firsts = [max(begin, end - most) for begin, end in zip(begins, ends, strict=True)]
            learned = teacher.message()
            given = [(learned, *each, every_edge) for each in zip(firsts, ends, strict=True)]
            asked, _, heard = team.relay("ask", given, "answer", "hear")
            marked += sum(heard) + sum(at_once for at_once, _ in asked)
            missing = [(-1, teacher.state(fields)) for _, fields in _all(e[1] for e in asked)]
            if missing:
                teacher.learn(missing, self._found)
            else:
                ends = firsts
        return marked

    # When a shard is lost.

    def _copy(self, found: Found, copies: Copies) -> None:
        try:
            copies.make(found, self._begins)
        except OSError as error:
            self.copy_seconds = inf
            self._say(f"no more copies of the states are made: {error}")

    def _make_good(self, found: Found, copies: Copies, losses: int) -> None:
        """Make new shards in place of the lost ones, and go back to the last copy."""
        depth = found.depth
        if losses > MOST_LOSSES:
            raise InputError(
                f"--ray: shards were lost {losses} times in a row, the last time at depth {depth}; "
                "expected machines that last and have the memory"
            )
        lost = ", ".join(self.team.lost()) or "a shard that is there again"
        copies.put_back(found)
        where = f"continues from depth {found.depth} ({found.states:,} states)"
        if not copies.made:
            where = "restarts, because its states were not copied yet"
        self._say(f"lost at depth {depth}: {lost}; a new shard is made, and the search {where}")
        self.judge = Judge(self)

    def _say(self, line: str) -> None:
        sys.stderr.write(f"dpamt: {line}\n")


def _all(each: Iterable[list[tuple[int, bytes]]]) -> list[tuple[int, bytes]]:
    return list(chain.from_iterable(each))


def sharded_search(
    team: Team,
    problem: Problem,
    properties: tuple[Property, ...],
    granularity: str,
    most_states: int,
    progress: Callable[[Progress], None] | None = None,
) -> ShardedSearch:
    """The search over a problem whose states a team keeps, not yet begun."""
    automata = automata_of(problem)
    search = ShardedSearch(problem, automata, properties, granularity, most_states, progress)
    search.team = team
    return search
