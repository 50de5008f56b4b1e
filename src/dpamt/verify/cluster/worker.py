"""One part of a search that many processes share: its states, and the blocks that it was sent.

States are dealt out by a checksum.  A shard expands its own with the blocks that it was sent and
runs no code of the model; a state that needs a block it has not got it sets aside, for the one
that learns (:mod:`dpamt.verify.cluster.coordinator`).  States are named for all shards by one
number: index in the shard times the number of shards, plus that of the shard.
"""

from array import array
from collections.abc import Hashable
from typing import Any, Final, NamedTuple
from zlib import crc32

from dpamt.sync.observed import Address
from dpamt.verify.asked import asked_of, design_of, prepare
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.learned_blocks import Block, Blocks
from dpamt.verify.explore.memory import resident_bytes
from dpamt.verify.explore.search import search_of
from dpamt.verify.explore.state import Local, Slot

JUDGED: Final = "judged"
"""Kind of the only event of a block that a shard knows: what properties said of its events."""


_OWNER_BIT: Final = 40
"""An edge to a state in a batch is ~(shard << 40 | place) until its number is known."""


class Learned(NamedTuple):
    """What was learned since the last time."""

    locals: list[tuple[Local, bool]]
    """New ones, and whether the thread has ended there."""
    own: list[list[tuple[Address, list[Hashable]]]]
    """By class, the words that its threads have for themselves, with all values seen."""
    blocks: list[tuple[int, tuple[int, ...], tuple[tuple[str, int], ...], bool, dict[Any, Blocks]]]
    """Local, slots and pages that its blocks read, whether earlier ones are void, blocks."""
    watched: tuple[int, ...]
    """Slots whose values go to properties that are checked in every state."""


class Move(NamedTuple):
    """What can happen next in a state, worked out for a shard."""

    position: int
    way: int
    key: bytes
    block: Block


class Report(NamedTuple):
    """What came of expanding states."""

    unknown: list[bytes]
    """States that need what has not been learned."""
    ends: list[tuple[int, bytes]]
    """States from which nothing follows."""
    wrong: list[tuple[str, str, int, int, int]]
    """Property, text, state, position and way of what failed, the first of each property."""
    transitions: int


class Batch(NamedTuple):
    """States for another shard: packed one after the other, from where and how they came."""

    keys: bytes
    parents: bytes
    moves: bytes


class _Unknown(Exception):  # noqa: N818  (no error: it is asked for)
    """A block that was not sent."""


class _Told(Engine):
    """An engine that was sent its blocks."""

    def _work_out(self, local: int, state: tuple[int, ...], others: tuple[int, ...]) -> Blocks:
        raise _Unknown


class _Out:
    """States for one other shard, each once."""

    def __init__(self) -> None:
        self.places: dict[bytes, int] = {}
        self.parents = array("q")
        self.moves = array("H")

    def place(self, key: bytes, parent: int, move: int) -> int:
        """The state's place in the batch."""
        place = self.places.setdefault(key, len(self.parents))
        if place == len(self.parents):
            self.parents.append(parent)
            self.moves.append(move)
        return place


class Shard:
    """See the file's beginning."""

    def __init__(self, index: int, count: int, asked: dict[str, Any]) -> None:
        self.index = index
        self.count = count
        question = asked_of(asked)
        design = design_of(question)
        trial, judges = prepare(question, design)
        self.search = search_of(trial.make(design), judges, question.granularity)

    def begin(self, slots: int, wide: bool, first: bytes, apart: list[int]) -> None:
        """Forget everything; ``first`` is the first state of the whole search, or empty.

        ``apart`` are the classes that were taken apart.
        """
        search = self.search
        for number in apart[len(search.apart) :]:
            search.tell_apart(number)
        search.knowledge.slots, search.knowledge.wide = slots, wide
        search.begin(search.knowledge)
        search.engine = _Told(search.problem, search.automata, search.knowledge, search.granularity)
        self.numbers: dict[bytes, int] = {}
        self.parents = array("q")
        self.moves = array("H")
        self.first_edges = array("q")
        self.targets = array("q")
        self.ends = array("q")
        self._pending: list[tuple[int, bytes]] = []
        self._coming: list[tuple[int, bytes]] = []
        self._edges: dict[int, list[int]] = {}
        self._out = [_Out() for _ in range(self.count)]
        self._seen: set[tuple[int, ...]] = set()
        self._watched: tuple[int, ...] = ()
        if first:
            self._reach(first, 0, 0)
            self._pending, self._coming = self._coming, []

    def _reach(self, key: bytes, parent: int, move: int) -> int:
        number = self.numbers.get(key, -1)
        if number < 0:
            number = len(self.numbers) * self.count + self.index
            self.numbers[key] = number
            self.parents.append(parent)
            self.moves.append(move)
            self._coming.append((number, key))
        return number

    def learn(self, learned: Learned) -> None:
        """Take what was learned."""
        engine = self.search.engine
        for local, ended in learned.locals:
            engine.tell_local(Local(*local), ended)
        for slots, words in zip(engine.words.own, learned.own, strict=True):
            slots[:] = [Slot(Address(*address), values, {}) for address, values in words]
        for number, read, pages, void, blocks in learned.blocks:
            engine.tell_blocks(number, read, pages, void, blocks)
        self._watched = learned.watched

    def expand(self, learned: Learned, given: dict[bytes, list[Move]]) -> Report:
        """Expand what waits; ``given`` are the moves of states that were worked out elsewhere."""
        self.learn(learned)
        moves_of, unpack = self.search.moves, self.search.packing.unpack
        aside: list[tuple[int, bytes]] = []
        report = Report([], [], [], 0)
        wrong: dict[str, tuple[str, str, int, int, int]] = {}
        transitions = 0
        for here, packed in self._pending:
            try:
                after = given[packed] if packed in given else moves_of(unpack(packed))
            except _Unknown:
                aside.append((here, packed))
                continue
            transitions += len(after)
            edges = self._edges[here] = []
            if not after:
                self.ends.append(here)
                report.ends.append((here, packed))
            for position, way, key, block in after:
                if block.events:
                    (told,) = block.events
                    failed: Any = told.detail
                    for name, text in failed:
                        wrong.setdefault(name, (name, text, here, position, way))
                    if told.subject:
                        self.ends.append(here)
                        continue
                owner = crc32(key) % self.count
                if owner == self.index:
                    edges.append(self._reach(key, here, position << 8 | way))
                else:
                    place = self._out[owner].place(key, here, position << 8 | way)
                    edges.append(~(owner << _OWNER_BIT | place))
        self._pending = aside
        return Report(
            [packed for _, packed in aside], report.ends, list(wrong.values()), transitions
        )

    def outgoing(self) -> list[Batch]:
        """For each shard the states that are its own; asked when nothing waits any more."""
        return [
            Batch(b"".join(out.places), out.parents.tobytes(), out.moves.tobytes())
            for out in self._out
        ]

    def take(self, batches: list[Batch]) -> tuple[list[bytes], list[tuple[int, bytes]]]:
        """Take states from each shard: their numbers; then the new states that are to be judged."""
        size = self.search.packing.size
        numbers = []
        for keys, parents_of, moves_of in batches:
            parents, moves = array("q", parents_of), array("H", moves_of)
            numbers.append(
                array(
                    "q",
                    [
                        self._reach(keys[n * size : n * size + size], parent, move)
                        for n, (parent, move) in enumerate(zip(parents, moves, strict=True))
                    ],
                ).tobytes()
            )
        return numbers, self._judged_too()

    def _judged_too(self) -> list[tuple[int, bytes]]:
        """New states that differ from all before in what properties look at."""
        if not self.search.problem.always_arrays:
            return []
        whole = "" in self.search.problem.always_arrays
        found = []
        for number, key in self._coming:
            state = self.search.packing.unpack(key)
            seen = state if whole else tuple([state[slot] for slot in self._watched])
            if seen not in self._seen:
                self._seen.add(seen)
                found.append((number, key))
        return found

    def settle(self, numbers: list[bytes]) -> int:
        """Write down the edges, the numbers of other shards' states known; how many states wait."""
        known = [array("q", told) for told in numbers]
        mask = (1 << _OWNER_BIT) - 1
        for here in sorted(self._edges):
            self.first_edges.append(len(self.targets))
            for edge in self._edges[here]:
                if edge < 0:
                    edge = known[~edge >> _OWNER_BIT][~edge & mask]
                self.targets.append(edge)
        self._edges = {}
        self._out = [_Out() for _ in range(self.count)]
        self._pending, self._coming = self._coming, []
        return len(self._pending)

    def size(self) -> tuple[int, int]:
        """(states, bytes of memory that the process holds)."""
        return len(self.numbers), resident_bytes()

    def come_from(self, number: int) -> tuple[int, int]:
        """The state before, and the move from there; nothing of another shard's states."""
        if number % self.count != self.index:
            return 0, 0
        index = number // self.count
        return self.parents[index], self.moves[index]

    def graph(self) -> tuple[bytes, bytes, bytes]:
        """Where the edges of each state begin, where they lead, and which states are ends."""
        return self.first_edges.tobytes(), self.targets.tobytes(), self.ends.tobytes()
