"""A search dealt out to many shards, depth by depth: this one learns, they expand.

Every shard gets what is learned as plain numbers, so code of the model runs here only, and the
search restarts here only.  After each depth states go to the shards that they belong to.  States
and edges are those of the search in one process, and so are the verdict and the depth of the
nearest failure; of several ways there that are as short it may be another one.
"""

from array import array
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any, Protocol
from zlib import crc32

from dpamt.verify.cluster.worker import JUDGED, Batch, Learned, Move, Report
from dpamt.verify.explore.graph import first_stuck
from dpamt.verify.explore.judging import BOUND, FAILS, Fault, Found
from dpamt.verify.explore.learned_blocks import Block, Blocks
from dpamt.verify.explore.search import Progress, Search, automata_of
from dpamt.verify.explore.state import SPARE_SLOTS
from dpamt.verify.learn.automaton import Event
from dpamt.verify.programs.problem import Problem
from dpamt.verify.properties.named import Property


class Team(Protocol):
    """The shards, wherever they run."""

    count: int

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call that method of every shard, each with its own arguments; their results."""


class _Reached:
    """What all shards have reached together; states by their numbers for all."""

    def __init__(self, team: Team, first: int) -> None:
        self._team = team
        self._first = first

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""
        moves = []
        while state != self._first:
            asked = [(state,)] * self._team.count
            state, move = self._team.call("come_from", asked)[state % self._team.count]
            moves.append(move)
        moves.reverse()
        return moves

    def parts(self) -> "tuple[list[list[int]], list[array[int]], set[int]]":
        """By shard, where the edges of each state begin, and where they lead; the ends."""
        begins, targets = [], []
        ends: set[int] = set()
        for told in self._team.call("graph", [()] * self._team.count):
            first, leads, last = (array("q", part) for part in told)
            begins.append([*first, len(leads)])
            targets.append(leads)
            ends.update(last)
        return begins, targets, ends

    def stuck(self) -> int:
        """The first state from which no way leads to an end; -1: there is none."""
        count = self._team.count
        begins, targets, ends = self.parts()
        leads = bytearray(max(map(len, begins)) * count)
        for shard, begin in enumerate(begins):
            for index in range(len(begin) - 1, len(leads) // count):
                leads[index * count + shard] = 1  # there is no such state
        for state in ends:
            leads[state] = 1

        def edges_of(state: int) -> Sequence[int]:
            begin, index = begins[state % count], state // count
            return targets[state % count][begin[index] : begin[index + 1]]

        return first_stuck(leads, edges_of)


class ShardedSearch(Search):
    """A search whose states are with a team; see the file's beginning."""

    team: Team

    def _search(self, found: Found) -> None:
        team, engine = self.team, self.engine
        engine.worked_out = [
            (local, values) for local, known in enumerate(engine.known) for values in known
        ]
        self._told_locals = 0
        self._told_reads: dict[int, tuple[Any, ...]] = {}
        first = self.packing.pack(*self.first_state())
        home = crc32(first) % team.count
        self._reached = _Reached(team, home)
        for name, fault in found.faults.items():
            found.faults[name] = fault._replace(state=home)  # that of the first state
        slots = engine.words.capacity - SPARE_SLOTS
        wide = self.knowledge.wide
        team.call(
            "begin", [(slots, wide, first * (n == home), self.apart) for n in range(team.count)]
        )
        waiting = 1
        while waiting and not found.stopped:
            self._expand(found)
            waiting = self._exchange(found)
            self._look(found, waiting)
            found.depth += bool(waiting)
        ends = self._reached.parts()[2]
        found.ends = len(ends)
        if found.stopped:
            found.verdict = BOUND
        else:
            self.judge.endless(self._reached, found)
        if found.faults:
            found.verdict = FAILS

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""
        return self._reached.way_to(state)

    def _expand(self, found: Found) -> None:
        """Let the shards expand one depth, learning what they miss."""
        count = self.team.count
        given: list[dict[bytes, list[Move]]] = [{} for _ in range(count)]
        while True:
            learned = self._learned()
            reports: list[Report] = self.team.call("expand", [(learned, g) for g in given])
            given = [{} for _ in range(count)]
            for report in reports:
                found.transitions += report.transitions
                for name, text, state, position, way in report.wrong:
                    if name not in found.faults:
                        depth = found.depth + 1
                        found.faults[name] = Fault(name, text, state, position, way, depth)
                for state, packed in report.ends:
                    self.judge.end(self.packing.unpack(packed), state, found)
            if not any(report.unknown for report in reports):
                return
            for n, report in enumerate(reports):
                for packed in report.unknown:
                    after = self.moves(self.packing.unpack(packed))
                    if any(block.fills for _, _, _, block in after):
                        given[n][packed] = [
                            Move(position, way, key, self._plain(block))
                            for position, way, key, block in after
                        ]

    def _exchange(self, found: Found) -> int:
        """Bring states to where they belong; how many wait to be expanded."""
        team = self.team
        out: list[list[Batch]] = team.call("outgoing", [()] * team.count)
        taken = team.call("take", [([each[n] for each in out],) for n in range(team.count)])
        for _, judged in taken:
            for state, packed in judged:
                self.judge.state(self.packing.unpack(packed), state, found.depth + 1, found)
        numbers = [([told[n] for told, _ in taken],) for n in range(team.count)]
        return sum(team.call("settle", numbers))

    def _look(self, found: Found, waiting: int) -> None:
        """Report, and see whether to stop."""
        sizes = self.team.call("size", [()] * self.team.count)
        found.states = sum(states for states, _ in sizes)
        memory = sum(memory for _, memory in sizes)
        if found.states > self.most_states:
            found.stopped = f"more than {self.most_states:,} states (--max-states)"
        elif self.most_memory and memory > self.most_memory:
            found.stopped = f"more than {self.most_memory >> 20:,} MiB of memory (--max-memory)"
        if self.progress is not None and monotonic() > self._next_report:
            self._next_report = monotonic() + 0.2
            self.progress(Progress(found.states, found.transitions, found.depth, waiting))

    # What was learned, as plain values.

    def _learned(self) -> Learned:
        engine = self.engine
        new = [
            (local, engine.ended[n])
            for n, local in enumerate(engine.locals)
            if n >= self._told_locals
        ]
        self._told_locals = len(engine.locals)
        assert engine.worked_out is not None
        fresh: dict[int, list[Hashable]] = {}
        for local, values in engine.worked_out:
            fresh.setdefault(local, []).append(values)
        engine.worked_out = []
        blocks = []
        for local, keys in fresh.items():
            reads = engine.read_slots[local], engine.read_pages[local]
            void = self._told_reads.get(local, ((), ())) != reads
            self._told_reads[local] = reads
            known = engine.known[local]
            told: dict[Any, Blocks] = {
                values: tuple(map(self._plain, known[values]))
                for values in (known if void else keys)
                if values in known and not any(block.fills for block in known[values])
            }
            blocks.append((local, *reads, void, told))
        own = [[(slot.address, slot.values) for slot in slots] for slots in engine.words.own]
        arrays = self.problem.always_arrays
        watched = tuple(
            n
            for n, slot in enumerate(engine.words.shared)
            if arrays and slot.address.array.startswith(arrays)
        )
        return Learned(new, own, blocks, watched)

    def _plain(self, block: Block) -> Block:
        """A block without its steps, and with what properties say in place of its events."""
        events: tuple[Event, ...] = ()
        if block.events:
            said = self.judge.judged.get(id(block)) or self.judge.events(block)
            if said.wrong or said.dead:
                events = (Event(JUDGED, said.dead, said.wrong),)
        return Block(block.local, block.writes, events, (), ())


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
