"""The locks of the Linux side: spinlock, mutex, reader/writer lock, arrays of them.  These wait.

In a plain run nothing runs beside the caller, so waiting would be for ever: a lock that is not
free is a deadlock and a finding.
"""

from collections.abc import Iterator
from typing import Final

from dpamt.errors import Finding

_WRITER: Final = 1
_READER: Final = 2


class Deadlock(Finding):
    """A lock was taken by the only thread that runs while it was already held."""


class SpinLock:
    """A spinlock; ``name`` is the kernel's name for it."""

    __slots__ = ("_locked", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._locked = False

    def lock(self) -> None:
        """spin_lock(): waits until free.  Raises Deadlock when nobody could ever free it."""
        if self._locked:
            raise Deadlock(f"{self.name} taken while held: self-deadlock")
        self._locked = True

    def unlock(self) -> None:
        """spin_unlock().  Raises Deadlock when it is not held."""
        if not self._locked:
            raise Deadlock(f"{self.name} released while not held")
        self._locked = False

    def is_locked(self) -> bool:
        """spin_is_locked(): whether anybody holds it; one step."""
        return self._locked

    def capture(self) -> bool:
        """The state as a comparable, hashable value."""
        return self._locked

    def restore(self, captured: bool) -> None:
        """Put back what :meth:`capture` returned."""
        self._locked = captured


class Mutex(SpinLock):
    """A sleeping lock: as a spinlock, but only for process context."""

    __slots__ = ()


class RwLock:
    """A reader/writer lock; ``name`` is the kernel's name for it."""

    __slots__ = ("_word", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._word = 0

    def read_lock(self) -> None:
        """read_lock(): waits for a writer.  Raises Deadlock when that would be for ever."""
        if self._word & _WRITER:
            raise Deadlock(f"{self.name} read-locked while write-locked: self-deadlock")
        self._word += _READER

    def read_unlock(self) -> None:
        """read_unlock().  Raises Deadlock when it is not read-locked."""
        if self._word < _READER:
            raise Deadlock(f"{self.name} read-unlocked while not read-locked")
        self._word -= _READER

    def write_lock(self) -> None:
        """write_lock(): waits for everyone.  Raises Deadlock when that would be for ever."""
        if self._word:
            raise Deadlock(f"{self.name} write-locked while held: self-deadlock")
        self._word = _WRITER

    def write_unlock(self) -> None:
        """write_unlock().  Raises Deadlock when it is not write-locked."""
        if self._word != _WRITER:
            raise Deadlock(f"{self.name} write-unlocked while not write-locked")
        self._word = 0

    def is_locked(self) -> bool:
        """Whether anybody holds the lock; one step."""
        return self._word != 0

    def is_write_locked(self) -> bool:
        """Whether a writer holds the lock; one step."""
        return self._word == _WRITER

    def capture(self) -> int:
        """The state as a comparable, hashable value."""
        return self._word

    def restore(self, captured: int) -> None:
        """Put back what :meth:`capture` returned."""
        self._word = captured


class SpinLocks:
    """A sparse array of spinlocks: ``locks.at(index)`` is made when first asked for."""

    __slots__ = ("_locks", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._locks: dict[int, SpinLock] = {}

    def at(self, index: int) -> SpinLock:
        """The lock at ``index``; finding it is no step."""
        lock = self._locks.get(index)
        if lock is None:
            lock = self._locks[index] = SpinLock(f"{self.name}[{index:#x}]")
        return lock

    def held(self) -> Iterator[int]:
        """Indices of the locks that are held, ascending; for audits, no step."""
        return (index for index, lock in sorted(self._locks.items()) if lock.is_locked())

    def capture(self) -> tuple[int, ...]:
        """The whole array as a comparable, hashable value."""
        return tuple(self.held())

    def restore(self, captured: tuple[int, ...]) -> None:
        """Put back what :meth:`capture` returned; locks already handed out stay valid."""
        for lock in self._locks.values():
            lock.restore(False)
        for index in captured:
            self.at(index).restore(True)


class RwLocks:
    """A sparse array of reader/writer locks: ``locks.at(index)`` is made when first asked for."""

    __slots__ = ("_locks", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._locks: dict[int, RwLock] = {}

    def at(self, index: int) -> RwLock:
        """The lock at ``index``; finding it is no step."""
        lock = self._locks.get(index)
        if lock is None:
            lock = self._locks[index] = RwLock(f"{self.name}[{index:#x}]")
        return lock

    def held(self) -> Iterator[int]:
        """Indices of the locks that are held, ascending; for audits, no step."""
        return (index for index, lock in sorted(self._locks.items()) if lock.is_locked())

    def capture(self) -> tuple[tuple[int, int], ...]:
        """The whole array as a comparable, hashable value."""
        return tuple((index, self._locks[index].capture()) for index in self.held())

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned; locks already handed out stay valid."""
        for lock in self._locks.values():
            lock.restore(0)
        for index, word in captured:
            self.at(index).restore(word)
