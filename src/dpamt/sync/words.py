"""Atomic integers: one word, and sparse arrays of them."""

from collections.abc import Iterator, Sequence
from typing import Final

from dpamt.sync.runs import is_uniform, uniform, with_run

RUN_WORDS: Final = 512
"""A run of words never reaches over a multiple of this."""
_CHUNK_SHIFT: Final = 9
_SLOT_MASK: Final = RUN_WORDS - 1
_NOTHING: Final = uniform(0, RUN_WORDS)
_NONE: Final[list[int]] = []


class Word:
    """One atomic integer, 0 at first.  Every method is one atomic step.

    Values are plain integers: the caller decides their width.
    """

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = 0

    def load(self) -> int:
        """Read the word."""
        return self._value

    def store(self, value: int) -> None:
        """Write the word."""
        self._value = value

    def add(self, delta: int) -> int:
        """Add ``delta`` and return the new value (atomic_add_return)."""
        self._value = value = self._value + delta
        return value

    def inc_not_zero(self) -> bool:
        """Increment unless the word is 0; True when it was incremented (atomic_inc_not_zero)."""
        if not self._value:
            return False
        self._value += 1
        return True

    def add_unless(self, delta: int, unless: int) -> bool:
        """Add ``delta`` unless the word is ``unless``; True when added (atomic_add_unless)."""
        if self._value == unless:
            return False
        self._value += delta
        return True

    def compare_and_swap(self, expected: int, value: int) -> bool:
        """Write ``value`` if the word is ``expected``; True when written (try_cmpxchg)."""
        if self._value != expected:
            return False
        self._value = value
        return True

    def cmpxchg(self, expected: int, value: int) -> int:
        """Write ``value`` if the word is ``expected``; returns the word as it was (cmpxchg)."""
        before = self._value
        if before == expected:
            self._value = value
        return before

    def xchg(self, value: int) -> int:
        """Write ``value``; returns the word as it was before (xchg)."""
        before = self._value
        self._value = value
        return before

    def inc(self) -> None:
        """Add 1 (atomic_inc)."""
        self._value += 1

    def dec(self) -> None:
        """Subtract 1 (atomic_dec)."""
        self._value -= 1

    def inc_return(self) -> int:
        """Add 1 and return the new value (atomic_inc_return)."""
        self._value = value = self._value + 1
        return value

    def dec_return(self) -> int:
        """Subtract 1 and return the new value (atomic_dec_return)."""
        self._value = value = self._value - 1
        return value

    def sub_return(self, delta: int) -> int:
        """Subtract ``delta`` and return the new value (atomic_sub_return)."""
        self._value = value = self._value - delta
        return value

    def fetch_add(self, delta: int) -> int:
        """Add ``delta``; returns the word as it was before (atomic_fetch_add)."""
        before = self._value
        self._value = before + delta
        return before

    def dec_and_test(self) -> bool:
        """Subtract 1; True when the word is 0 now (atomic_dec_and_test)."""
        self._value = value = self._value - 1
        return not value

    def dec_if_positive(self) -> int:
        """Subtract 1 unless that would go below 0; returns the value less 1, whether or not it was
        written (atomic_dec_if_positive)."""
        value = self._value - 1
        if value >= 0:
            self._value = value
        return value

    def set_bits(self, mask: int) -> int:
        """Set the bits of ``mask``; returns the word as it was before (fetch_or)."""
        before = self._value
        self._value = before | mask
        return before

    def clear_bits(self, mask: int) -> int:
        """Clear the bits of ``mask``; returns the word as it was before (fetch_andnot)."""
        before = self._value
        self._value = before & ~mask
        return before


class Words:
    """A sparse array of words: ``words.at(index)`` is the word, made when first asked for.

    What was written as a run has no word yet: it is kept as the run, chunk by chunk, and a word
    that exists goes before it.
    """

    __slots__ = ("_made", "_runs", "_words")

    def __init__(self) -> None:
        self._words: dict[int, Word] = {}
        self._runs: dict[int, Sequence[int]] = {}
        self._made: dict[int, list[int]] | None = None
        """By chunk: the indices of which a word was made; kept from the first run on."""

    def at(self, index: int) -> Word:
        """The word at ``index``; finding it is no step."""
        word = self._words.get(index)
        if word is None:
            word = self._words[index] = Word()
            if self._made is not None:
                self._note(self._made, index, word)
        return word

    def _note(self, made: dict[int, list[int]], index: int, word: Word) -> None:
        """A word was made: it begins as its run says."""
        chunk = index >> _CHUNK_SHIFT
        made.setdefault(chunk, []).append(index)
        if chunk in self._runs:
            word.store(self._runs[chunk][index & _SLOT_MASK])

    def _made_in(self, chunk: int) -> list[int]:
        """The indices in a chunk of which a word was made."""
        if self._made is None:
            self._made = {}
            for index in self._words:
                self._made.setdefault(index >> _CHUNK_SHIFT, []).append(index)
        return self._made.get(chunk, _NONE)

    def clear(self, index: int) -> None:
        """Store 0; one step.  It makes no word where there is none."""
        word = self._words.get(index)
        if word is not None:
            word.store(0)
        elif index >> _CHUNK_SHIFT in self._runs:
            self.at(index).store(0)

    def load_run(self, start: int, end: int) -> Sequence[int]:
        """The words of [start, end), which lie in one chunk; never written again."""
        chunk = start >> _CHUNK_SHIFT
        run = self._runs.get(chunk, _NOTHING)[start & _SLOT_MASK : (end - 1 & _SLOT_MASK) + 1]
        made = self._made_in(chunk)
        if not made:
            return run
        own = list(run)
        for index in made if len(made) < len(own) else range(start, end):
            if start <= index < end and index in self._words:
                own[index - start] = self._words[index].load()
        return own

    def store_run(self, start: int, values: Sequence[int]) -> None:
        """Write words from ``start`` on, all in one chunk; words already handed out stay valid."""
        chunk = start >> _CHUNK_SHIFT
        end = start + len(values)
        base = chunk << _CHUNK_SHIFT
        run = with_run(self.load_run(base, base + RUN_WORDS), start - base, values)
        for index in self._made_in(chunk):
            if start <= index < end:
                self._words[index].store(values[index - start])
        if is_uniform(run, 0):
            self._runs.pop(chunk, None)
        else:
            self._runs[chunk] = run

    def non_zero(self) -> Iterator[tuple[int, int]]:
        """(index, value) of every word that is not 0; for audits, no step."""
        words = self._words
        for index, word in words.items():
            value = word.load()
            if value:
                yield index, value
        for chunk, run in self._runs.items():
            base = chunk << _CHUNK_SHIFT
            for slot, value in enumerate(run):
                if value and base + slot not in words:
                    yield base + slot, value

    def capture(self) -> tuple[tuple[int, int], ...]:
        """The whole array as a comparable, hashable value."""
        return tuple(sorted(self.non_zero()))

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned; words already handed out stay valid."""
        self._runs.clear()
        for word in self._words.values():
            word.store(0)
        for index, value in captured:
            self.at(index).store(value)
