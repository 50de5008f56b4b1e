"""The module's plain shared/exclusive try-lock, without host priority; exclusive only, a mutex.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_locks.h].
"""

from typing import Final

from dpamt.sync.host_priority import BUSY, EX, READER


class SharedExclusiveLock:
    """A try-lock.  An acquire returns 0, or :data:`BUSY` and changes nothing.

    It has the methods of :class:`dpamt.sync.HostPriorityWord` that a holder needs, so that a
    release of the module may use either for the same lock.
    """

    __slots__ = ("_lock",)

    _payload: Final = 0

    def __init__(self) -> None:
        self._lock = 0

    def try_shared(self) -> int:
        """Shared acquire: fails while held exclusively."""
        if self._lock & EX:
            return BUSY
        self._lock += READER
        return 0

    def try_exclusive(self) -> int:
        """Exclusive acquire: fails while held at all."""
        if self._lock:
            return BUSY
        self._lock = EX
        return 0

    def release_shared(self) -> None:
        """Drop a shared hold."""
        self._lock -= READER

    def release_exclusive(self) -> None:
        """Drop the exclusive hold."""
        self._lock = 0

    def contended(self) -> bool:
        """Never: without host priority the holder does not know."""
        return False

    def lock_word(self) -> int:
        """0 when free; for audits, no step."""
        return self._lock

    def restore(self, captured: int) -> None:
        """Put back what :meth:`lock_word` returned."""
        self._lock = captured


class SharedExclusiveLocks:
    """A sparse array of them: ``locks.at(index)`` is one, made when first asked for."""

    __slots__ = ("_locks",)

    def __init__(self) -> None:
        self._locks: dict[int, SharedExclusiveLock] = {}

    def at(self, index: int) -> SharedExclusiveLock:
        """The lock at ``index``; finding it is no step."""
        lock = self._locks.get(index)
        if lock is None:
            lock = self._locks[index] = SharedExclusiveLock()
        return lock

    def capture(self) -> tuple[tuple[int, int], ...]:
        """Every lock that is held, as a comparable, hashable value."""
        held = ((index, lock.lock_word()) for index, lock in self._locks.items())
        return tuple(sorted((index, word) for index, word in held if word))

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned; locks already handed out stay valid."""
        for lock in self._locks.values():
            lock.restore(0)
        for index, word in captured:
            self.at(index).restore(word)
