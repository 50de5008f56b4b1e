"""What was learned, from the one that learns to the shards: arrays, as far as they are new.

The tables of the compiled loop (:mod:`dpamt.verify.explore.compiled.tables`) are arrays of numbers.
Most of them only grow, so the part after what was sent before is enough; an array that changed
elsewhere is sent whole.  A shard runs no code of the model and knows no design.
"""

from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from dpamt.verify.explore.compiled.library import Tables
from dpamt.verify.explore.compiled.tables import Layout, LearnedTables, Searched, integers
from dpamt.verify.explore.judging import Found

_NUMBERS: Final = ("threads", "classes", "locals", "interrupts", "ordered")
"""Of the tables; slots and words follow from the layout."""


class Learned(NamedTuple):
    """What is new since the last time."""

    numbers: dict[str, int]
    """By name in the tables."""
    arrays: list[tuple[str, int, bytes]]
    """Name, bytes that stay as they were, bytes after these."""
    bits: tuple[int, ...]
    """How fields are laid out now (:class:`Layout`)."""
    blocks: list[tuple[bytes, int, int, int]]
    """A state's fields, position of a thread, its first block there, how many it has."""


class Teacher:
    """The tables of the one that learns, and what of them was sent."""

    def __init__(self, search: Searched) -> None:
        self._search = search
        self._tables = Tables()
        self._learned = LearnedTables(search)
        self._sent: dict[str, bytes] = {}
        self._blocks: list[tuple[bytes, int, int, int]] = []
        self.slots = 0
        """Shared slots of the states that shards report."""

    def state(self, fields: bytes) -> tuple[int, ...]:
        """A state as the search has it, from the fields that a shard reports."""
        values = array("i", fields)
        padding = (0,) * (self._search.capacity - self.slots)
        return (*values[: self.slots], *padding, *values[self.slots :])

    def learn(self, states: Sequence[tuple[int, tuple[int, ...]]], found: Found) -> None:
        """Work out what may happen in states, each with its number; note what fails there."""
        search = self._search
        for number, state in states:
            for position, way, _, block in search.moves(state):
                if not block.events:
                    continue
                said = search.judge.judged.get(id(block)) or search.judge.events(block)
                if said.wrong and number >= 0:
                    search.judge.note(said, number, position, way, found)
        for _, state in states:  # all are learned: what their blocks read does not change any more
            slots, capacity = len(search.engine.words.shared), search.capacity
            fields = bytes(integers((*state[:slots], *state[capacity:])))
            self._blocks += [(fields, *each) for each in self._learned.learn(state, self._tables)]
        self._learned.settle_wrong(found)

    def message(self) -> Learned:
        """What is to be sent now."""
        self._learned.point(self._tables)
        arrays = []
        for name, values in self._learned.arrays().items():
            now, before = values.tobytes(), self._sent.get(name)
            self._sent[name] = now
            if before is None or not now.startswith(before):
                arrays.append((name, 0, now))
            elif len(now) > len(before):
                arrays.append((name, len(before), now[len(before) :]))
        numbers = {name: getattr(self._tables, name) for name in _NUMBERS}
        self.slots = self._tables.slots
        blocks, self._blocks = self._blocks, []
        return Learned(numbers, arrays, self._learned.layout().bits, blocks)


class Pupil:
    """The same arrays in a shard; ``tables`` point at them."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._arrays: dict[str, array[int]] = {}
        self.layout = Layout(())

    def take(self, learned: Learned) -> None:
        """Take what is new, except the layout of fields and for the blocks."""
        for name, kept, new in learned.arrays:
            values = self._arrays.setdefault(name, array("B"))
            del values[kept:]
            values.frombytes(new)
            setattr(self.tables, name, values.buffer_info()[0])
        for name, number in learned.numbers.items():
            setattr(self.tables, name, number)

    def lay_out(self, bits: tuple[int, ...]) -> tuple[Tables, Layout]:
        """Lay fields out in this way; tables and layout of before, to be kept while rows change."""
        before = Tables.from_buffer_copy(self.tables), self.layout
        self.layout = Layout(bits)
        self.layout.put(self.tables)
        self.tables.slots = len(bits) - self.tables.threads
        return before
