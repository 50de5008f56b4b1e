"""A search that goes on in compiled code: same states, same numbers, same verdict.

The search in Python (explore/search.py) defines the answer.  It hands over what it has reached once
there is enough to gain.  From then on compiled code expands states in the order of their numbers.
It stops before the first that needs something new; Python works out the moves of that state as it
always does, which is what learns, and the tables are added to.  Nothing is learned earlier, later
or in another order, so locals, values and states have the numbers that they have without it.
"""

import ctypes
from array import array
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from tempfile import TemporaryFile
from typing import IO, Any, Final

from dpamt.verify.explore.compiled.library import MOST_THREADS, Tables, library
from dpamt.verify.explore.compiled.tables import Layout, LearnedTables, Searched, integers
from dpamt.verify.explore.graph import Graph
from dpamt.verify.explore.judging import Found
from dpamt.verify.explore.memory import private_bytes, resident_bytes

MOST_STATES: Final = (1 << 31) - 2
"""States have numbers of 31 bits."""
_LONGEST_CHUNK: Final = 1 << 14
"""States that a thread expands before what it found is looked up."""
_ALONE: Final = 1 << 9
"""States that one thread expands alone after something was learned, before others join in."""
_SEGMENTS: Final = 4
"""Parts of a chunk for each thread: one that is done early takes one more."""
_WORTH_SHARING: Final = 256
"""States that a thread has to have for itself, so that it pays to begin several."""
_UNKNOWN: Final = 1
"""Why the expansion stopped: a state needs something that was not learned."""
_UNKNOWN_STUCK: Final = -16
_NO_STATES: Final = -2
_COLUMNS: Final = ("rows", "parents", "moves", "onward")


class CompiledGraph:
    """States, edges and the expansion of one search, in compiled memory."""

    def __init__(self, search: Searched, threads: int) -> None:
        loaded = library()
        assert loaded is not None
        self._call: Any = loaded
        self._search = search
        self._learned = LearnedTables(search)
        self._threads = threads
        self._layout = Layout(())
        self._pool = ThreadPoolExecutor(threads, "dpamt") if threads > 1 else None
        self._at = self._call.dpamt_begin(threads)
        if not self._at:
            raise MemoryError
        self._tables = self._call.dpamt_tables(self._at).contents
        self._numbers = (ctypes.c_int64 * 4)()
        self._fields = integers([])
        self._alone = True
        """A part of the states are expanded by one thread: the next may have to be learned."""
        self._files: list[IO[bytes]] = []
        self._found: Found | None = None
        """What the search has found so far."""
        self.level_end = 0

    def close(self) -> None:
        """Give the memory back."""
        if self._pool is not None:
            self._pool.shutdown()
        if self._at:
            self._call.dpamt_end(self._at)
            self._at = 0
        for file in self._files:
            file.close()

    __del__ = close

    def take_over(self, graph: Graph, found: Found) -> None:
        """Begin with what the search in Python has reached, at the end of a level."""
        search = self._search
        keys = list(graph.numbers)
        self._learn(search.packing.unpack(keys[0]), found)
        begins = [*graph.first_edges, len(graph.targets)]
        slots, capacity = len(search.engine.words.shared), search.capacity
        for number, key in enumerate(keys):
            state = search.packing.unpack(key)
            onward = number
            if number < graph.expanded:
                leads = graph.targets[begins[number] : begins[number + 1]]
                onward = max(leads, default=number)
            _check(
                self._call.dpamt_append(
                    self._at,
                    integers((*state[:slots], *state[capacity:])),
                    graph.parents[number],
                    graph.moves[number],
                    onward,
                )
            )
        self._go_on(graph.expanded, found.transitions, graph.ends)
        self.level_end = graph.level_end

    # Disk, and files.

    def spill(self, folder: str) -> None:
        """Keep the states in files of that folder, which go when the search ends.

        Only the table by which they are found stays in memory.  Raises OSError.
        """
        for _ in _COLUMNS:
            self._files.append(TemporaryFile(dir=folder, prefix="dpamt-"))  # noqa: SIM115
        files = integers(file.fileno() for file in self._files)
        if self._call.dpamt_spill(self._at, files):
            raise OSError(f"{folder}: the states do not fit there")
        self.relax()

    @property
    def is_spilled(self) -> bool:
        """Whether the states are in files."""
        return bool(self._files)

    def relax(self) -> None:
        """Give back the memory of what lies in files."""
        self._call.dpamt_relax(self._at)

    def columns(self) -> "dict[str, Any]":
        """The bytes of each column, to be written as they are, before the search goes on."""
        found = {}
        size = ctypes.c_int64()
        for which, name in enumerate(_COLUMNS):
            at = self._call.dpamt_column(self._at, which, size)
            found[name] = memoryview((ctypes.c_char * size.value).from_address(at))
        return found

    @property
    def bits(self) -> tuple[int, ...]:
        """By field of a row, its bits; a row's words follow from them."""
        return self._layout.bits

    def take_up(
        self,
        bits: list[int],
        columns: "dict[str, bytes]",
        expanded: int,
        ends: "array[int]",
        transitions: int,
    ) -> None:
        """Begin with the columns of a search that was kept.  Raises ValueError for others."""
        search = self._search
        slots = search.engine.words.shared
        if len(bits) != len(slots) + search.threads or not all(0 <= n <= 31 for n in bits):
            raise ValueError("bits")
        self._learned.point(self._tables)
        self._layout = Layout(bits)
        self._layout.put(self._tables)
        count = len(columns["parents"]) // 4
        sizes = (self._layout.words * 8, 4, 2, 4)
        if [len(columns[name]) for name in _COLUMNS] != [count * size for size in sizes]:
            raise ValueError("columns")
        most = [len(slot.values) - 1 for slot in slots]
        most += [len(search.engine.locals) - 1] * search.threads
        pointers = (ctypes.c_char_p * len(_COLUMNS))(*(columns[name] for name in _COLUMNS))
        loaded = self._call.dpamt_load(self._at, count, pointers, integers(most))
        if loaded == _NO_STATES:
            raise ValueError("states")
        _check(loaded)
        self._go_on(expanded, transitions, ends)
        self._fields = integers([0] * len(bits))

    def _go_on(self, expanded: int, transitions: int, ends: "Iterable[int]") -> None:
        marked = array("I", (state << 1 for state in ends))
        at, count = marked.buffer_info()
        _check(self._call.dpamt_go_on(self._at, expanded, transitions, at, count))
        _check(self._call.dpamt_settle(self._at, None, 0))

    # Numbers.

    def _ask(self) -> tuple[int, int, int, int]:
        self._call.dpamt_numbers(self._at, self._numbers)
        states, expanded, transitions, ends = self._numbers
        return states, expanded, transitions, ends

    def __len__(self) -> int:
        """How many states were reached."""
        return self._ask()[0]

    @property
    def expanded(self) -> int:
        """How many states have been expanded: states with lower numbers."""
        return self._ask()[1]

    @property
    def ends(self) -> list[int]:
        """States from which nothing follows, or something after which nothing can."""
        return [self._call.dpamt_end_at(self._at, n) >> 1 for n in range(self._ask()[3])]

    def state(self, number: int) -> tuple[int, ...]:
        """A state, as the search in Python has it."""
        self._call.dpamt_state(self._at, number, self._fields)
        slots = self._tables.slots
        padding = (0,) * (self._search.capacity - slots)
        return (*self._fields[:slots], *padding, *self._fields[slots:])

    def found_from(self, state: int) -> tuple[int, int]:
        """The state from which it was found, and the move: thread << 8 | way."""
        return (
            self._call.dpamt_parent(self._at, state),
            self._call.dpamt_move(self._at, state),
        )

    def way_to(self, state: int) -> list[int]:
        """The moves from the first state to this one."""
        moves = []
        while state:
            state, move = self.found_from(state)
            moves.append(move)
        moves.reverse()
        return moves

    def stuck(self) -> int:
        """The first state from which no way leads to an end; -1: there is none."""
        while True:
            stuck: int = self._call.dpamt_stuck(self._at)
            if stuck >= -1:
                return stuck
            if stuck > _UNKNOWN_STUCK:
                raise MemoryError
            self._learn(self.state(_UNKNOWN_STUCK - stuck), self._found)

    def held(self) -> int:
        """Memory that the process holds, in bytes; what lies in files is not counted."""
        if not self._files:
            return resident_bytes()
        self.relax()
        return private_bytes()

    # Expansion.

    def go_on(self, found: Found, most_states: int, pause: Callable[[int], None]) -> None:
        """Expand every state that is left, depth by depth; see ``_expand``."""
        self._found = found
        while self.expanded < self.level_end and not found.stopped:
            try:
                self._expand(found, most_states, pause)
            except MemoryError:
                found.stopped = "the system gives no more memory"
            if not found.stopped:
                self.level_end = len(self)
                found.depth += self.expanded < self.level_end

    def _expand(self, found: Found, most_states: int, pause: Callable[[int], None]) -> None:
        """Expand the states of one depth.

        ``pause`` is called now and then with how many states wait; it may set ``found.stopped``.
        """
        judge, watched = self._search.judge, bool(self._search.problem.always_arrays)
        most = min(most_states, MOST_STATES)
        states, here, _, ends = self._ask()
        while here < self.level_end and not found.stopped:
            unknown = self._chunk(here, most)
            before, ends_before = states, ends
            states, here, found.transitions, ends = self._ask()
            for n in range(ends_before, ends):
                end = self._call.dpamt_end_at(self._at, n)
                if end & 1:
                    judge.end(self.state(end >> 1), end >> 1, found)
            if watched:
                for number in range(before, states):
                    judge.state(self.state(number), number, found.depth + 1, found)
            if states > most:
                found.stopped = f"more than {most:,} states (--max-states)"
            elif unknown:
                self._learn(self.state(here), found, here)
            pause(states - self.level_end)

    def _chunk(self, here: int, most: int) -> bool:
        """Expand some states from ``here`` on; whether the next one has to be learned."""
        left = self.level_end - here
        threads = 1 if self._alone else min(self._threads, left // _WORTH_SHARING) or 1
        segments = 1 if threads == 1 else min(_SEGMENTS * threads, MOST_THREADS)
        each = _ALONE if self._alone and self._threads > 1 else _LONGEST_CHUNK
        end = min(here + each * threads, self.level_end)
        self._call.dpamt_begin_chunk(self._at, here, end, segments, threads, most)
        if self._pool is None or threads == 1:
            ended = self._call.dpamt_chunk(self._at)
        else:  # by a thread that no signal interrupts: all shares are begun, or none
            begun = self._pool.submit(self._shared_chunk, self._pool, threads)
            try:
                ended = begun.result()
            finally:  # Ctrl-C: nobody looks at a chunk that is still under way
                wait([begun])
        if ended > _UNKNOWN:
            raise MemoryError
        self._alone = bool(ended)
        return self._alone

    def _shared_chunk(self, pool: ThreadPoolExecutor, threads: int) -> int:
        """The chunk by threads that wait for each other: where one did not come, the others would
        wait for ever."""
        others = [pool.submit(self._call.dpamt_chunk, self._at) for _ in range(1, threads)]
        ended: int = self._call.dpamt_chunk(self._at)
        for other in others:
            other.result()
        return ended

    def _learn(self, state: tuple[int, ...], found: Found | None, here: int = -1) -> None:
        """Work out what may happen in a state, and add it to the tables.

        What fails in it is noted where the state's number ``here`` is given.
        """
        search, judge = self._search, self._search.judge
        for position, way, _, block in search.moves(state):
            if block.events and found is not None and here >= 0:
                said = judge.judged.get(id(block)) or judge.events(block)
                if said.wrong:
                    judge.note(said, here, position, way, found)
        old = Tables.from_buffer_copy(self._tables)
        added = self._learned.learn(state, self._tables)
        layout = self._learned.layout()
        if layout.bits != self._layout.bits:
            before, self._layout = self._layout, layout
            layout.put(self._tables)
            self._fields = integers([0] * len(layout.bits))
            _check(self._call.dpamt_settle(self._at, ctypes.byref(old), before.words))
        if found is not None:
            self._learned.settle_wrong(found)
        slots, capacity = self._tables.slots, search.capacity
        values = integers((*state[:slots], *state[capacity:]))
        for position, first, count in added:
            if self._call.dpamt_add(self._at, values, position, first, count) < 0:
                raise MemoryError


def taken_over(search: Searched, graph: Graph, found: Found, threads: int) -> CompiledGraph:
    """What the search in Python has reached, to go on from in compiled code."""
    compiled = CompiledGraph(search, threads)
    compiled.take_over(graph, found)
    return compiled


def _check(failed: int) -> None:
    if failed:
        raise MemoryError
