"""What was learned, as arrays for the compiled inner loop; added to whenever a state is learned.

The blocks of a thread are looked up by a key: the generation of its local (it grows when other
slots turn out to be read there), the values of the slots that its blocks read, and, where they use
a page whole that other threads have words in, what each of those has in it, as one number for each
*contribution*, sorted.  That key says at least as much as the one in Python.
"""

import ctypes
from array import array
from collections.abc import Iterable
from struct import Struct
from typing import Any, Final, Protocol

from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.compiled.library import Tables
from dpamt.verify.explore.context import keeps_softirqs_off
from dpamt.verify.explore.judging import Found, Judge
from dpamt.verify.explore.learned_blocks import Block, Blocks
from dpamt.verify.programs.problem import Problem

WORD_BITS: Final = 64
ENDED: Final = 1
AT_START: Final = 2
SOFTIRQS_OFF: Final = 4
"""Flags of a local."""
DEAD: Final = 1
WRONG: Final = 2
"""Flags of a block: nothing can go on after it; a property that has not failed yet fails."""
_INT: Final = "i"


class Searched(Protocol):
    """What is asked of a search."""

    problem: Problem
    engine: Engine
    judge: Judge
    packing: Struct
    threads: int
    capacity: int

    def moves(self, state: tuple[int, ...]) -> list[tuple[int, int, bytes, Block]]:
        """(thread, way, next state packed, block) of everything that can happen next."""

    def enabled(self, state: tuple[int, ...], position: int) -> bool:
        """Whether the thread at ``position`` of the state is on its CPU and has not ended."""


class Layout:
    """Where in a row each field lies: slots in order, then positions; as few words as first fit."""

    def __init__(self, bits: Iterable[int]) -> None:
        self.bits = tuple(bits)
        self.word, self.shift, self.mask = array(_INT), array(_INT), array("Q")
        used: list[int] = [0]
        for wanted in self.bits:
            word = next((n for n, full in enumerate(used) if full + wanted <= WORD_BITS), len(used))
            if word == len(used):
                used.append(0)
            self.word.append(word)
            self.shift.append(used[word] if wanted else 0)
            self.mask.append((1 << wanted) - 1)
            used[word] += wanted
        self.words = len(used)

    def put(self, tables: Tables) -> None:
        """Let the tables point at this layout."""
        tables.field_word, tables.field_shift = _at(self.word), _at(self.shift)
        tables.field_mask, tables.words = _at(self.mask), self.words


class LearnedTables:
    """The arrays; they only grow, except for what the engine voids."""

    def __init__(self, search: Searched) -> None:
        self._search = search
        self._engine = search.engine
        problem = search.problem
        self._class_first = array(_INT, [0])
        self._phase = array(_INT)
        for kind in problem.classes:
            self._class_first.append(self._class_first[-1] + kind.count)
            self._phase.extend([kind.phase] * kind.count)
        self._interrupt = array(_INT)
        for first, kind in zip(self._class_first, problem.classes, strict=False):
            if kind.interrupts >= 0:
                self._interrupt.extend((first, self._class_first[kind.interrupts]))
        self._flags = array("B")
        self._generation, self._page_set = array(_INT), array(_INT)
        self._read_first, self._read_count = array(_INT), array(_INT)
        self._reads = array(_INT)
        self._read_as: list[tuple[Any, Any]] = []
        """By local: the slots and pages that its blocks read, as they are in the tables."""
        self._block_local, self._write_first = array(_INT), array(_INT)
        self._write_count, self._writes = array(_INT), array(_INT)
        self._block_flags, self._block_fill = array("B"), array(_INT)
        self._first_of: dict[int, int] = {}
        """By id of what the engine knows as blocks: the first in the tables."""
        self._kept: list[Blocks] = []
        """They are kept, so that ids stay their own."""
        self._wrong: list[tuple[int, tuple[str, ...]]] = []
        """Blocks that fail properties, with the names of these."""
        self._page_sets: dict[Any, int] = {}
        self._shares: list[dict[Any, int]] = []
        """By page set: numbers of contributions."""
        self._fills: dict[Any, int] = {}
        self._share_rows: list[list[int]] = []
        """By page set and local: what the local adds to the key; 0: nothing."""
        self._felt_rows: list[list[int]] = []
        """By fill and local: the local after it; -1: not known."""
        self._contribution: array[int] | None = None
        self._felt: array[int] | None = None
        """The same rows as the arrays that C reads; None: they have changed."""
        self._stride = 0
        self._own_slots: tuple[int, ...] = ()

    def layout(self) -> Layout:
        """The smallest layout that holds every value and local that is known now."""
        local_bits = max(1, (len(self._engine.locals) - 1).bit_length())
        slots = self._engine.words.shared
        return Layout(
            [
                *((len(slot.values) - 1).bit_length() for slot in slots),
                *([local_bits] * self._search.threads),
            ]
        )

    def learn(self, state: tuple[int, ...], tables: Tables) -> "list[tuple[int, int, int]]":
        """Take over what is known of a state whose moves the search has just worked out.

        Returns (position, first block, count) of each thread that may go on; the caller adds them.
        """
        engine, capacity = self._engine, self._search.capacity
        self._all_locals()
        locals_ = state[capacity:]
        found = []
        for kind in range(len(self._class_first) - 1):
            last = -1
            for position in range(self._class_first[kind], self._class_first[kind + 1]):
                local = locals_[position]
                if local == last or engine.ended[local]:
                    continue
                last = local
                if not self._search.enabled(state, position):
                    continue
                others = locals_[:position] + locals_[position + 1 :]
                blocks = engine.blocks(local, state, others)
                found.append((position, self._first(blocks), len(blocks)))
                for block in blocks:
                    if block.fills:
                        self._feel(block, others)
        self._square()
        self._put(tables)
        return found

    def point(self, tables: Tables) -> None:
        """Let the tables point at the arrays, with every local that is known."""
        self._all_locals()
        self._put(tables)

    def _all_locals(self) -> None:
        for number in range(len(self._flags), len(self._engine.locals)):
            self._local(number)
        self._void()
        self._square()

    def settle_wrong(self, found: Found) -> None:
        """A property that has failed is not asked about again."""
        left = []
        for block, names in self._wrong:
            if all(name in found.faults for name in names):
                self._block_flags[block] &= ~WRONG
            else:
                left.append((block, names))
        self._wrong = left

    # Single items.

    def _local(self, number: int) -> None:
        local = self._engine.locals[number]
        flags = ENDED * self._engine.ended[number] | AT_START * (local.node == 0)
        self._flags.append(flags | SOFTIRQS_OFF * keeps_softirqs_off(local.held))
        self._generation.append(0)
        self._page_set.append(-1)
        self._read_first.append(0)
        self._read_count.append(0)
        self._read_as.append(((), ()))

    def _void(self) -> None:
        """Begin a new generation of each local whose blocks go by something else now."""
        engine = self._engine
        own = tuple(len(slots) for slots in engine.words.own)
        felt_anew = own != self._own_slots
        self._own_slots = own
        if felt_anew:
            self._shares = [{} for _ in self._shares]
            self._share_rows = [[] for _ in self._share_rows]
            self._felt_rows = [[-1] * self._stride for _ in self._felt_rows]
            self._contribution = self._felt = None
        for local, before in enumerate(self._read_as):
            now = engine.read_slots[local], engine.read_pages[local]
            if now == before and not (felt_anew and now[1]):
                continue
            self._read_as[local] = now
            self._generation[local] += 1
            self._read_first[local] = len(self._reads)
            self._read_count[local] = len(now[0])
            self._reads.extend(now[0])
            if now[1]:
                number = self._page_sets.setdefault(now[1], len(self._page_sets))
                if number == len(self._shares):
                    self._shares.append({})
                    self._share_rows.append([])
                    self._contribution = None
                self._page_set[local] = number

    def _first(self, blocks: Blocks) -> int:
        """Where these blocks begin in the tables; added where they are new."""
        if not blocks:
            return 0
        first = self._first_of.get(id(blocks))
        if first is None:
            first = self._first_of[id(blocks)] = len(self._block_local)
            self._kept.append(blocks)
            for block in blocks:
                self._block(block)
        return first

    def _block(self, block: Block) -> None:
        flags = 0
        if block.events:
            judge = self._search.judge
            said = judge.judged.get(id(block)) or judge.events(block)
            flags = DEAD * said.dead | WRONG * bool(said.wrong)
            if said.wrong:
                names = tuple(name for name, _ in said.wrong)
                self._wrong.append((len(self._block_local), names))
        self._block_local.append(block.local)
        self._block_flags.append(flags)
        self._write_first.append(len(self._writes) // 2)
        self._write_count.append(len(block.writes))
        for slot, value in block.writes:
            self._writes.extend((slot, value))
        fill = -1
        if block.fills:
            fill = self._fills.setdefault(block.fills, len(self._fills))
            if fill == len(self._felt_rows):
                self._felt_rows.append([-1] * self._stride)
                self._felt = None
        self._block_fill.append(fill)

    def _feel(self, block: Block, others: tuple[int, ...]) -> None:
        row = self._felt_rows[self._fills[block.fills]]
        for local in others:
            if row[local] < 0:
                row[local] = self._engine.felt(local, block.fills)
                self._felt = None

    def _square(self) -> None:
        """Rows of all locals: what each adds to a page's key, and what it is after a fill."""
        engine, count = self._engine, len(self._engine.locals)
        if count > self._stride:
            self._stride = 2 * count
            for row in self._felt_rows:
                row.extend([-1] * (self._stride - len(row)))
            self._felt = self._contribution = None
        for pages, number in self._page_sets.items():
            row, shares = self._share_rows[number], self._shares[number]
            if len(row) < count:
                for local in range(len(row), count):
                    mine = engine.contributions(pages, local)
                    row.append(shares.setdefault(mine, len(shares) + 1) if any(mine) else 0)
                self._contribution = None
        if self._contribution is None:
            self._contribution = array(_INT)
            for row in self._share_rows:
                self._contribution.extend([*row, *[0] * (self._stride - len(row))])
        if self._felt is None:
            self._felt = array(_INT)
            for row in self._felt_rows:
                self._felt.extend(row)

    def _put(self, tables: Tables) -> None:
        """Let the tables point at the arrays as they are now."""
        tables.slots = len(self._engine.words.shared)
        tables.threads = self._search.threads
        tables.classes = len(self._class_first) - 1
        tables.locals = self._stride
        tables.interrupts = len(self._interrupt) // 2
        tables.ordered = bool(self._interrupt) or len(set(self._phase)) > 1
        for name, values in self.arrays().items():
            setattr(tables, name, _at(values))

    def arrays(self) -> "dict[str, array[int]]":
        """The arrays, by their names in the tables, as they are since ``point`` or ``learn``."""
        assert self._contribution is not None
        assert self._felt is not None
        return {
            "class_first": self._class_first,
            "phase": self._phase,
            "interrupt": self._interrupt,
            "local_flags": self._flags,
            "generation": self._generation,
            "read_first": self._read_first,
            "read_count": self._read_count,
            "reads": self._reads,
            "page_set": self._page_set,
            "contribution": self._contribution,
            "block_local": self._block_local,
            "write_first": self._write_first,
            "write_count": self._write_count,
            "writes": self._writes,
            "block_flags": self._block_flags,
            "block_fill": self._block_fill,
            "felt": self._felt,
        }


def _at(values: "array[int]") -> int:
    return values.buffer_info()[0]


def integers(values: Iterable[int]) -> "ctypes.Array[ctypes.c_int32]":
    """Values as an array that C can read."""
    listed = list(values)
    return (ctypes.c_int32 * max(1, len(listed)))(*listed)
