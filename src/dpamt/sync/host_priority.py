"""The module's host-priority shared/exclusive lock, with the payload that it guards.

The lock is sixteen bits below its payload, as in a PAMT entry and in TDCS.OP_STATE::

    15:2 reader count | 1 HP (host priority) | 0 EX (exclusive)

    host sh acquire, EX = 0             count + 1, HP cleared
    host sh acquire, EX = 1             count + 1 (not undone), HP set, BUSY
    host ex acquire, lock 0 or HP only  EX
    host ex acquire, otherwise          HP set, BUSY
    guest sh acquire, HP = 1            BUSY_HOST_PRIORITY, nothing changed
    guest sh acquire, HP = 0, EX = 1    BUSY (the guest's count is undone)
    guest ex acquire, HP only           BUSY_HOST_PRIORITY; any other non-zero lock BUSY
    promote (by a host reader)          only reader: EX; else HP set, BUSY, still a reader
    release sh                          count - 1
    release ex                          EX and any stray count cleared, HP kept

No lock ever waits: contention is reported.  HP left behind keeps guests out until the next
successful host acquire.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdx_locks.h].
"""

from collections.abc import Iterator
from typing import Final

BUSY: Final = -1
"""An acquire that met contention."""
BUSY_HOST_PRIORITY: Final = -2
"""A guest's acquire refused because the host has shown that it wants the lock."""

EX: Final = 1
HP: Final = 2
READER: Final = 4
LOCK_MASK: Final = 0xFFFF
PAYLOAD_SHIFT: Final = 16


class HostPriorityWord:
    """A payload under its lock.

    An acquire returns the payload (0 or more), or :data:`BUSY` / :data:`BUSY_HOST_PRIORITY`, which
    are negative: under the lock the payload is stable, so reading it is no step of its own.
    """

    __slots__ = ("_lock", "_payload")

    def __init__(self) -> None:
        self._lock = 0
        self._payload = 0

    def try_shared(self) -> int:
        """Host shared acquire."""
        lock = self._lock
        if lock & 3:
            if lock & EX:
                self._lock = (lock + READER) & LOCK_MASK | HP
                return BUSY
            lock -= HP
        self._lock = lock + READER
        return self._payload

    def try_exclusive(self) -> int:
        """Host exclusive acquire."""
        lock = self._lock
        if lock and lock != HP:
            self._lock = lock | HP
            return BUSY
        self._lock = EX
        return self._payload

    def promote(self) -> bool:
        """Turn the caller's shared hold into an exclusive one; False: still shared, HP set."""
        if self._lock & ~HP != READER:
            self._lock |= HP
            return False
        self._lock = EX
        return True

    def try_shared_guest(self) -> int:
        """Guest shared acquire."""
        if self._lock & HP:
            return BUSY_HOST_PRIORITY
        if self._lock & EX:
            return BUSY
        self._lock += READER
        return self._payload

    def try_exclusive_guest(self) -> int:
        """Guest exclusive acquire."""
        if self._lock:
            return BUSY_HOST_PRIORITY if self._lock == HP else BUSY
        self._lock = EX
        return self._payload

    def release_shared(self) -> None:
        """Drop a shared hold."""
        self._lock -= READER

    def release_exclusive(self) -> None:
        """Drop the exclusive hold; the host-priority bit stays."""
        self._lock &= HP

    def contended(self) -> bool:
        """Whether a host's acquire has failed since the last successful one: HP."""
        return self._lock & HP != 0

    def load(self) -> int:
        """The payload, read without the lock."""
        return self._payload

    def store(self, payload: int) -> None:
        """Write the payload; the lock stays as it is."""
        self._payload = payload

    def lock_word(self) -> int:
        """The 16 lock bits, for audits and for showing who is in the way; no step."""
        return self._lock

    def raise_host_priority(self) -> None:
        """Set HP alone, as a host whose acquire failed leaves it."""
        self._lock |= HP

    def capture(self) -> int:
        """Lock and payload in one integer: bits 15:0 and 16 up."""
        return self._payload << PAYLOAD_SHIFT | self._lock

    def restore(self, captured: int) -> None:
        """Put back what :meth:`capture` returned."""
        self._lock = captured & LOCK_MASK
        self._payload = captured >> PAYLOAD_SHIFT


class HostPriorityWords:
    """A sparse array of them: ``words.at(index)`` is one, made when first asked for."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: dict[int, HostPriorityWord] = {}

    def at(self, index: int) -> HostPriorityWord:
        """The word at ``index``; finding it is no step."""
        try:
            return self._words[index]
        except KeyError:
            word = self._words[index] = HostPriorityWord()
            return word

    def non_zero(self) -> Iterator[tuple[int, HostPriorityWord]]:
        """(index, word) where lock or payload is not 0; for audits, no step."""
        for index, word in self._words.items():
            if word.capture():
                yield index, word

    def capture(self) -> tuple[tuple[int, int], ...]:
        """The whole array as a comparable, hashable value."""
        return tuple(sorted((index, word.capture()) for index, word in self.non_zero()))

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned; words already handed out stay valid."""
        for word in self._words.values():
            word.restore(0)
        for index, value in captured:
            self.at(index).restore(value)
