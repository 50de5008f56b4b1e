"""The locks of the Linux side: spinlock, mutex, reader/writer lock, arrays of them.  These wait.

In a plain run nothing runs beside the caller, so waiting would be for ever: a lock that is not
free is a deadlock and a finding.

The ``_irqsave`` and ``_bh`` forms do the same to the lock.  What they also do, keep interrupts or
softirqs off their CPU, is the thread's own: ``dpamt verify`` follows it from the names of the steps
(:mod:`dpamt.verify.explore.context`); in a plain run no interrupt comes.

Source: Linux include/linux/spinlock.h, rwlock.h; Documentation/locking/spinlocks.rst.
"""

from collections.abc import Iterator
from typing import Final

from dpamt.errors import Finding

_WRITER: Final = 1
_READER: Final = 2


class Deadlock(Finding):
    """A lock was taken by the only thread that runs while it was already held."""


class BareLock:
    """What spinlock and mutex have in common; ``name`` is the kernel's name for it."""

    __slots__ = ("_locked", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._locked = False

    def lock(self) -> None:
        """spin_lock(), mutex_lock(): waits.  Raises Deadlock when nobody could ever free it."""
        if self._locked:
            raise Deadlock(f"{self.name} taken while held: self-deadlock")
        self._locked = True

    def unlock(self) -> None:
        """spin_unlock(), mutex_unlock().  Raises Deadlock when it is not held."""
        if not self._locked:
            raise Deadlock(f"{self.name} released while not held")
        self._locked = False

    def trylock(self) -> bool:
        """spin_trylock(), mutex_trylock(): True when it was free and is taken.  Never waits."""
        if self._locked:
            return False
        self._locked = True
        return True

    def is_locked(self) -> bool:
        """spin_is_locked(): whether anybody holds it; one step."""
        return self._locked

    def capture(self) -> bool:
        """The state as a comparable, hashable value."""
        return self._locked

    def restore(self, captured: bool) -> None:
        """Put back what :meth:`capture` returned."""
        self._locked = captured


class SpinLock(BareLock):
    """A spinlock: nobody may sleep who holds one."""

    __slots__ = ()

    def lock_irqsave(self) -> None:
        """spin_lock_irqsave(): as :meth:`lock`, with interrupts off on this CPU."""
        self.lock()

    def unlock_irqrestore(self) -> None:
        """spin_unlock_irqrestore(): as :meth:`unlock`, interrupts as they were."""
        self.unlock()

    def lock_bh(self) -> None:
        """spin_lock_bh(): as :meth:`lock`, with softirqs off on this CPU."""
        self.lock()

    def unlock_bh(self) -> None:
        """spin_unlock_bh(): as :meth:`unlock`, softirqs on again."""
        self.unlock()


class Mutex(BareLock):
    """A sleeping lock: only for process context, and with nothing held that forbids to sleep."""

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

    def read_trylock(self) -> bool:
        """read_trylock(): True when taken.  Never waits."""
        if self._word & _WRITER:
            return False
        self._word += _READER
        return True

    def write_trylock(self) -> bool:
        """write_trylock(): True when taken.  Never waits."""
        if self._word:
            return False
        self._word = _WRITER
        return True

    def read_lock_irqsave(self) -> None:
        """read_lock_irqsave(): as :meth:`read_lock`, with interrupts off on this CPU."""
        self.read_lock()

    def read_unlock_irqrestore(self) -> None:
        """read_unlock_irqrestore(): as :meth:`read_unlock`, interrupts as they were."""
        self.read_unlock()

    def read_lock_bh(self) -> None:
        """read_lock_bh(): as :meth:`read_lock`, with softirqs off on this CPU."""
        self.read_lock()

    def read_unlock_bh(self) -> None:
        """read_unlock_bh(): as :meth:`read_unlock`, softirqs on again."""
        self.read_unlock()

    def write_lock_irqsave(self) -> None:
        """write_lock_irqsave(): as :meth:`write_lock`, with interrupts off on this CPU."""
        self.write_lock()

    def write_unlock_irqrestore(self) -> None:
        """write_unlock_irqrestore(): as :meth:`write_unlock`, interrupts as they were."""
        self.write_unlock()

    def write_lock_bh(self) -> None:
        """write_lock_bh(): as :meth:`write_lock`, with softirqs off on this CPU."""
        self.write_lock()

    def write_unlock_bh(self) -> None:
        """write_unlock_bh(): as :meth:`write_unlock`, softirqs on again."""
        self.write_unlock()

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
