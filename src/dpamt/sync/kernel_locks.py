"""The locks of the Linux side: spinlock, mutex, reader/writer lock.  These wait.

In a plain run nothing runs beside the caller, so waiting would be for ever: a lock that is not
free is a deadlock and a finding.
"""

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
        """Whether the lock is held; for assertions and audits, no step."""
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
        """Whether anyone holds the lock; for assertions and audits, no step."""
        return self._word != 0

    def is_write_locked(self) -> bool:
        """Whether a writer holds the lock; for assertions and audits, no step."""
        return self._word == _WRITER

    def capture(self) -> int:
        """The state as a comparable, hashable value."""
        return self._word

    def restore(self, captured: int) -> None:
        """Put back what :meth:`capture` returned."""
        self._word = captured
