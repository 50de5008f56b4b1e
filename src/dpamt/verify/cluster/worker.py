"""One shard: it keeps and expands its states in compiled memory (shard.c), and runs no model code.

A shard is called by the coordinator (:mod:`dpamt.verify.cluster.coordinator`), all shards in step.
States are named for all shards by one number: that in the shard times the number of shards, plus
that of the shard.  What goes from shard to shard are packed rows, as bytes.
"""

import ctypes
import os
import socket
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dpamt.errors import InputError
from dpamt.verify.cluster.learned import Learned, Pupil
from dpamt.verify.explore.compiled.library import MOST_MISSING, library, why_not
from dpamt.verify.explore.memory import resident_bytes

_COLUMNS: Final = 6
"""Rows, parents, moves, onward states, shards of the parents, shards of the onward states."""
_ONWARD: Final = 3
_ONWARD_SHARD: Final = 5
_ORDER: Final = sys.byteorder

Rows = tuple[int, bytes, bytes, bytes] | None
"""For another shard: how many, packed rows, parents, moves.  None: those for the shard itself."""


class Expanded(NamedTuple):
    """What came of expanding some states."""

    left: int
    """States of this depth that are still to be expanded."""
    asked: list[tuple[int, bytes]]
    """Number and fields of states that need what was not learned."""


class Taken(NamedTuple):
    """What came of taking rows from all shards."""

    states: int
    """All states of the shard."""
    new: list[tuple[int, bytes]]
    """Number and fields of the new ones, if properties are asked in every state."""


class Settled(NamedTuple):
    """What came of settling a round."""

    transitions: int
    """Of all states of the shard that are expanded."""
    ends: int
    """All states from which nothing follows, or something after which nothing can."""
    last: list[tuple[int, bytes]]
    """Number and fields of states of the round from which nothing follows."""
    memory: int
    """Bytes that the process holds."""


class Piece(NamedTuple):
    """Some states of a shard, to be kept."""

    bits: tuple[int, ...]
    states: int
    columns: list[bytes]


class Rest(NamedTuple):
    """What else is kept of a shard at the end of a depth."""

    states: int
    expanded: int
    onward: bytes
    onward_shard: bytes
    """Of the states that have been expanded since the last time."""
    transitions: int
    ends: bytes


class Shard:
    """See the file's beginning."""

    def __init__(self, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self._at: int | None = None

    def where(self) -> tuple[str, int]:
        """Host and process."""
        return socket.gethostname(), os.getpid()

    def begin(self, learned: Learned, first: bytes, watched: bool) -> bool:
        """Forget everything; whether the state ``first``, if there is one, is of this shard.

        ``watched``: properties are asked in every state.  Raises InputError without a compiler.
        """
        loaded = library()
        if loaded is None:
            raise InputError(
                f"--ray: {socket.gethostname()}: {why_not()}; expected a C compiler on each "
                "machine (docs/verify.md)"
            )
        self._call: Any = loaded
        self.close()
        self._at = _made(self._call.dpamt_shard_begin(self.count, self.index))
        self._search = self._call.dpamt_shard_search(self._at)
        self._pupil = Pupil(self._call.dpamt_tables(self._search).contents)
        self._numbers = (ctypes.c_int64 * 4)()
        self._watched = watched
        self._own: Any = None
        self._kept_states = self._kept_expanded = 0
        self._learn(learned)
        return bool(first) and _made(self._call.dpamt_shard_first(self._at, first)) > 0

    def close(self) -> None:
        """Give the memory back."""
        if self._at:
            self._call.dpamt_shard_end(self._at)
            self._at = None

    # A round, and a depth.

    def expand(self, learned: Learned, most: int) -> tuple[Any, ...]:
        """Expand at most ``most`` states; then rows for each shard."""
        self._learn(learned)
        left = _made(self._call.dpamt_shard_expand(self._at, most))
        return Expanded(left, self._asked()), *map(self._rows_for, range(self.count))

    def take(self, *rows: Rows) -> tuple[Any, ...]:
        """Take the rows of each shard; then their numbers for each."""
        before = self._ask()[0]
        replies: list[bytes | None] = []
        for shard, given in enumerate(rows):
            count, *columns = self._filed(shard) if given is None else given
            numbers = (ctypes.c_uint32 * max(1, count))()
            _made(self._call.dpamt_shard_take(self._at, shard, count, *columns, numbers))
            if given is None:
                self._own = numbers
            replies.append(None if given is None else bytes(numbers))
        states = self._ask()[0]
        new = range(before, states if self._watched else before)
        return Taken(states, [self._fields_of(state) for state in new]), *replies

    def settle(self, *numbers: bytes | None) -> Settled:
        """Take the numbers of the rows that each shard was given."""
        before = self._ask()[3]
        _made(self._call.dpamt_shard_settle(self._at, _pointers(numbers, self._own)))
        _, _, transitions, ends = self._ask()
        last = [self._call.dpamt_end_at(self._search, n) for n in range(before, ends)]
        fields = [self._fields_of(end >> 1) for end in last if end & 1]
        return Settled(transitions, ends, fields, resident_bytes())

    def next(self) -> tuple[int, int]:
        """Go to the next depth: its first state, and how many it has."""
        waiting = self._call.dpamt_shard_next(self._at)
        return self._ask()[0] - waiting, waiting

    # What leads to an end.

    def mark(self) -> None:
        """Begin to ask which states lead to an end."""
        _made(self._call.dpamt_shard_mark(self._at))

    def ask(self, learned: Learned, first: int, end: int, every_edge: bool) -> tuple[Any, ...]:
        """Ask for states from ``first`` to before ``end``; then questions for each shard."""
        self._learn(learned)
        self._every_edge = every_edge
        marked = _made(self._call.dpamt_shard_ask(self._at, first, end, every_edge))
        return (marked, self._asked()), *map(self._rows_for, range(self.count))

    def answer(self, *questions: Rows) -> tuple[Any, ...]:
        """Answer the questions of each shard: by rows, or by numbers where parents stand."""
        replies: list[bytes | None] = []
        for shard, given in enumerate(questions):
            count, rows, numbers, _ = self._filed(shard) if given is None else given
            leads = ctypes.create_string_buffer(max(1, count))
            rows = rows if self._every_edge else None
            self._call.dpamt_shard_answer(self._at, count, rows, numbers, leads)
            if given is None:
                self._own = leads
            replies.append(None if given is None else leads.raw)
        return None, *replies

    def hear(self, *leads: bytes | None) -> int:
        """Take the answers of each shard; how many states were marked by them."""
        pointers = _pointers(leads, self._own)
        marked: int = self._call.dpamt_shard_hear(self._at, pointers, self._every_edge)
        return marked

    def unmarked(self) -> tuple[int, int]:
        """How many states do not lead to an end as far as is known; the first of them, or -1."""
        first = ctypes.c_int64()
        return self._call.dpamt_shard_unmarked(self._at, first), first.value

    def come_from(self, number: int) -> tuple[int, list[int]]:
        """The moves that lead to a state, last first, from one that another shard has.

        Nothing of another shard's states.  The first state of all comes from itself.
        """
        moves: list[int] = []
        while number % self.count == self.index:
            state = number // self.count
            parent = self._call.dpamt_parent(self._search, state)
            shard = int.from_bytes(self._column(4, state, state + 1), _ORDER)
            before = parent * self.count + shard
            if before == number:
                break
            moves.append(self._call.dpamt_move(self._search, state))
            number = before
        return number, moves

    # Copies.

    def copy(self, most: int) -> Piece | None:
        """At most ``most`` of the states that are not copied yet; None: there are none."""
        first = self._kept_states
        end = min(first + most, self._ask()[0])
        if first == end:
            return None
        self._kept_states = end
        columns = [self._column(which, first, end) for which in range(_COLUMNS)]
        return Piece(self._pupil.layout.bits, end - first, columns)

    def rest(self) -> Rest:
        """What else is copied, when all states are."""
        states, expanded, transitions, ends = self._ask()
        first, self._kept_expanded = self._kept_expanded, expanded
        return Rest(
            states,
            expanded,
            self._column(_ONWARD, first, expanded),
            self._column(_ONWARD_SHARD, first, expanded),
            transitions,
            array("I", [self._call.dpamt_end_at(self._search, n) for n in range(ends)]).tobytes(),
        )

    def load(self, piece: Piece | None) -> None:
        """Append states that were copied."""
        if piece is None:
            return
        if piece.bits != self._pupil.layout.bits:
            self._lay_out(piece.bits)
        pointers = (ctypes.c_char_p * _COLUMNS)(*piece.columns)
        _made(self._call.dpamt_shard_load(self._at, piece.states, pointers))

    def go_on(self, bits: tuple[int, ...], rests: list[Rest]) -> None:
        """All states are loaded; ``rests`` are what else was copied, in order."""
        if bits != self._pupil.layout.bits:
            self._lay_out(bits)
        first = 0
        for rest in rests:
            count = rest.expanded - first
            leads = rest.onward, rest.onward_shard
            self._call.dpamt_shard_onward(self._at, first, count, *leads)
            first = rest.expanded
        last = rests[-1]
        ends = len(last.ends) // 4
        numbers = last.expanded, last.transitions, last.ends, ends
        _made(self._call.dpamt_shard_go_on(self._at, *numbers))
        self._kept_states, self._kept_expanded = last.states, last.expanded

    # Single things.

    def _ask(self) -> tuple[int, int, int, int]:
        self._call.dpamt_numbers(self._search, self._numbers)
        states, expanded, transitions, ends = self._numbers
        return states, expanded, transitions, ends

    def _learn(self, learned: Learned) -> None:
        self._pupil.take(learned)
        if learned.bits != self._pupil.layout.bits:
            self._lay_out(learned.bits)
        for fields, *block in learned.blocks:
            _made(self._call.dpamt_add(self._search, fields, *block))

    def _lay_out(self, bits: tuple[int, ...]) -> None:
        tables, layout = self._pupil.lay_out(bits)
        before = ctypes.byref(tables)
        _made(self._call.dpamt_shard_lay_out(self._at, before, layout.words))

    def _fields_of(self, state: int) -> tuple[int, bytes]:
        fields = (ctypes.c_int32 * len(self._pupil.layout.bits))()
        self._call.dpamt_state(self._search, state, fields)
        return state * self.count + self.index, bytes(fields)

    def _asked(self) -> list[tuple[int, bytes]]:
        states = (ctypes.c_int64 * MOST_MISSING)()
        count = self._call.dpamt_shard_asked(self._at, states)
        return [self._fields_of(state) for state in states[:count]]

    def _filed(self, shard: int) -> tuple[Any, ...]:
        """What is filed for a shard, where it stands: how many, rows, parents, moves."""
        batch = self._call.dpamt_shard_batch(self._at, shard).contents
        return batch.used, batch.rows, batch.parents, batch.moves

    def _rows_for(self, shard: int) -> Rows:
        """What is filed for a shard, copied; None: it is for this one, and stays where it is."""
        if shard == self.index:
            return None
        count, rows, parents, moves = self._filed(shard)
        return (
            count,
            _copied(rows, count * self._pupil.layout.words * 8),
            _copied(parents, count * 4),
            _copied(moves, count * 2),
        )

    def _column(self, which: int, first: int, end: int) -> bytes:
        size = ctypes.c_int64()
        at = self._call.dpamt_shard_column(self._at, which, size)
        return _copied((at or 0) + first * size.value, (end - first) * size.value)


def _copied(at: int | None, size: int) -> bytes:
    return ctypes.string_at(at, size) if at and size else b""


def _pointers(each: Sequence[bytes | None], own: Any) -> Any:
    """Where they begin, for C; ``own`` in place of None."""
    at = [own if given is None else ctypes.c_char_p(given) for given in each]
    return (ctypes.c_void_p * len(at))(
        *(ctypes.cast(one, ctypes.c_void_p) for one in at)  # they live as long as the caller's
    )


def _made(result: Any) -> Any:
    """What compiled code returned.  Raises MemoryError where it had none."""
    if result is None or result < 0:
        raise MemoryError
    return result
