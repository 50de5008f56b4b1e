"""The module's locks that one SEAMCALL holds: taken one by one, released together at its end.

A plain run takes an uncontended path of three locks in one call; whenever anything is unusual (a
lock held, a flag set, an entry of another kind) that call declines without touching anything and
the caller takes the locks one by one.  A set that runs step by step always declines.
"""

from typing import Final

from dpamt.sync.entry_pages import EntryPage
from dpamt.sync.host_priority import EX, READER, HostPriorityWord
from dpamt.sync.shared_exclusive import SharedExclusiveLock

SHARED: Final = READER
EXCLUSIVE: Final = EX
"""How a lock is taken."""

DECLINED: Final = -9
"""A short cut that was not taken; nothing has changed."""

_KIND_MASK: Final = 0xFF


class LockSet:
    """What one logical processor holds.  Acquires return a payload (0 or more) or BUSY."""

    __slots__ = ("_entries", "_exclusive", "_shared")

    def __init__(self) -> None:
        self._shared: list[HostPriorityWord | SharedExclusiveLock] = []
        self._exclusive: list[HostPriorityWord | SharedExclusiveLock] = []
        self._entries: list[tuple[EntryPage, int]] = []

    def shared(self, lock: HostPriorityWord | SharedExclusiveLock) -> int:
        """Host shared acquire."""
        payload = lock.try_shared()
        if payload >= 0:
            self._shared.append(lock)
        return payload

    def exclusive(self, lock: HostPriorityWord | SharedExclusiveLock) -> int:
        """Host exclusive acquire."""
        payload = lock.try_exclusive()
        if payload >= 0:
            self._exclusive.append(lock)
        return payload

    def promote(self, lock: HostPriorityWord) -> bool:
        """Turn a shared hold of this set into an exclusive one; False: it stays shared."""
        promoted = lock.promote()
        if promoted:
            self._shared.remove(lock)
            self._exclusive.append(lock)
        return promoted

    def shared_entry(self, page: EntryPage, index: int) -> int:
        """Host shared acquire of an entry."""
        payload = page.try_shared(index)
        if payload >= 0:
            self._entries.append((page, index))
        return payload

    def exclusive_entry(self, page: EntryPage, index: int) -> int:
        """Host exclusive acquire of an entry."""
        payload = page.try_exclusive(index)
        if payload >= 0:
            self._entries.append((page, index))
        return payload

    def path(
        self,
        top: HostPriorityWord,
        middle: HostPriorityWord,
        kind: int,
        page: EntryPage,
        index: int,
        lock: int,
    ) -> int:
        """``top`` (payload 0) and ``middle`` (of ``kind``) shared, and one entry of ``page``.

        ``lock`` is SHARED or EXCLUSIVE: how the entry is taken.  Returns its payload, or DECLINED.
        """
        locks = page._locks
        if (
            top._lock & 3
            or middle._lock & 3
            or index in locks
            or top._payload
            or middle._payload & _KIND_MASK != kind
        ):
            return DECLINED
        top._lock += READER
        middle._lock += READER
        locks[index] = lock
        shared = self._shared
        shared.append(top)
        shared.append(middle)
        self._entries.append((page, index))
        return page._payloads[index]

    def release_all(self) -> None:
        """Release everything, last taken first."""
        entries = self._entries
        while entries:
            page, index = entries.pop()
            lock = page._locks.pop(index)
            if lock != EX and lock != READER:
                page.put_back(index, lock)
        shared = self._shared
        while shared:
            shared.pop()._lock -= READER
        exclusive = self._exclusive
        while exclusive:
            exclusive.pop().release_exclusive()
