"""Atomic integers: one word, and sparse arrays of them."""

from collections.abc import Iterator


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

    def compare_and_swap(self, expected: int, value: int) -> bool:
        """Write ``value`` if the word is ``expected``; True when written (try_cmpxchg)."""
        if self._value != expected:
            return False
        self._value = value
        return True

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
    """A sparse array of words: ``words.at(index)`` is the word, made when first asked for."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: dict[int, Word] = {}

    def at(self, index: int) -> Word:
        """The word at ``index``; finding it is no step."""
        word = self._words.get(index)
        if word is None:
            word = self._words[index] = Word()
        return word

    def clear(self, index: int) -> None:
        """Store 0; one step.  A word that nobody keeps costs nothing any more."""
        self._words.pop(index, None)

    def non_zero(self) -> Iterator[tuple[int, int]]:
        """(index, value) of every word that is not 0; for audits, no step."""
        for index, word in self._words.items():
            value = word.load()
            if value:
                yield index, value

    def capture(self) -> tuple[tuple[int, int], ...]:
        """The whole array as a comparable, hashable value."""
        return tuple(sorted(self.non_zero()))

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned; words already handed out stay valid."""
        for word in self._words.values():
            word.store(0)
        for index, value in captured:
            self.at(index).store(value)
