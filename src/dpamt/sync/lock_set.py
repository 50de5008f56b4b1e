"""The module's locks that one SEAMCALL holds: taken one by one, released together at its end.

A plain run takes an uncontended path of locks in one call (:meth:`LockSet.path`,
:meth:`LockSet.tree_walk`); whenever anything is unusual (a lock held, a flag set, an entry of
another kind) that call declines without touching anything and the caller takes the locks one by
one.  :class:`StepLockSet`, for runs step by step, always declines and makes each acquire and
release a method call of its own on the word.
"""

from typing import Final

from dpamt.sync.entry_pages import ZEROS, EntryPage, EntryPages
from dpamt.sync.host_priority import EX, HP, READER, HostPriorityWord
from dpamt.sync.shared_exclusive import SharedExclusiveLock

SHARED: Final = READER
EXCLUSIVE: Final = EX
"""How a lock is taken."""

DECLINED: Final = -9
"""A short cut that was not taken; nothing has changed."""

_KIND_MASK: Final = 0xFF
_LINK_SHIFT: Final = 8
"""A payload that links to another: kind in 7:0, the name of the page of entries above it."""

_WAYS: Final = tuple(
    tuple((tuple(range(9 * level, 9 * target, -9)), 9 * target) for target in range(5))
    for level in range(5)
)
"""By the level of the root and the level wanted: shifts of the indices on the way, of the last."""

_Lock = HostPriorityWord | SharedExclusiveLock


class LockSet:
    """What one logical processor holds.  Acquires return a payload (0 or more) or BUSY."""

    __slots__ = ("_entries", "_exclusive", "_paths", "_shared", "_walks")

    def __init__(self) -> None:
        self._shared: list[_Lock] = []
        self._exclusive: list[_Lock] = []
        self._entries: list[tuple[EntryPage, int]] = []
        self._paths: list[tuple[HostPriorityWord, HostPriorityWord, list[int], int, int]] = []
        self._walks: list[tuple[_Lock, list[int], int]] = []

    def shared(self, lock: _Lock) -> int:
        """Host shared acquire."""
        if lock._lock & 3:
            payload = lock.try_shared()
            if payload >= 0:
                self._shared.append(lock)
            return payload
        lock._lock += READER
        self._shared.append(lock)
        return lock._payload

    def exclusive(self, lock: _Lock) -> int:
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
        if locks is ZEROS:
            locks = page.own_locks()
        if (
            (top._lock | middle._lock) & 3
            or locks[index]
            or top._payload
            or middle._payload & _KIND_MASK != kind
        ):
            return DECLINED
        top._lock += READER
        middle._lock += READER
        locks[index] = lock
        self._paths.append((top, middle, locks, index, lock))
        return page._payloads[index]

    def tree_walk(
        self,
        tree: _Lock,
        pages: EntryPages,
        root: int,
        key: int,
        level: int,
        target: int,
        kind: int,
    ) -> tuple[EntryPage, int, int] | None:
        """``tree`` shared, and exclusively the entry of ``key`` at level ``target`` below it.

        The way from page ``root``, of ``level``, goes over payloads of ``kind`` that link to the
        next page (its name above bit 8), nine bits of ``key`` a level; ``kind`` is always the same
        for the same ``pages``.  Returns (page, index,
        payload) of the entry, or None: declined.
        """
        if tree._lock & 3:
            return None
        page = pages._pages[root]
        shifts, end = _WAYS[level][target]
        linked = pages._linked
        for shift in shifts:
            word = page._payloads[key >> shift & 511]
            below = linked.get(word)
            if below is None:
                if word & _KIND_MASK != kind:
                    return None
                below = linked[word] = pages._pages[word >> _LINK_SHIFT]
            page = below
        index = key >> end & 511
        locks = page._locks
        if locks is ZEROS:
            locks = page.own_locks()
        if locks[index]:
            return None
        tree._lock += READER
        locks[index] = EX
        self._walks.append((tree, locks, index))
        return page, index, page._payloads[index]

    def release_all(self) -> None:
        """Release everything, last taken first within each kind of lock."""
        entries = self._entries
        while entries:
            page, index = entries.pop()
            locks = page._locks
            locks[index] = locks[index] & HP if locks[index] & EX else locks[index] - READER
        walks = self._walks
        while walks:
            tree, locks, index = walks.pop()
            lock = locks[index]
            locks[index] = 0 if lock == EX else lock & HP
            tree._lock -= READER
        shared = self._shared
        while shared:
            shared.pop()._lock -= READER
        paths = self._paths
        while paths:
            top, middle, locks, index, how = paths.pop()
            lock = locks[index]
            if lock == how:
                locks[index] = 0
            else:
                locks[index] = lock & HP if how == EX else lock - READER
            middle._lock -= READER
            top._lock -= READER
        exclusive = self._exclusive
        while exclusive:
            exclusive.pop().release_exclusive()


class StepLockSet(LockSet):
    """The same, each acquire and release by itself, in words of any kind with those methods."""

    __slots__ = ("_exclusive_entries",)

    def __init__(self) -> None:
        super().__init__()
        self._exclusive_entries: list[bool] = []
        """For each of the entries held: whether exclusively."""

    def shared(self, lock: _Lock) -> int:
        """Host shared acquire."""
        payload = lock.try_shared()
        if payload >= 0:
            self._shared.append(lock)
        return payload

    def shared_entry(self, page: EntryPage, index: int) -> int:
        """Host shared acquire of an entry."""
        payload = page.try_shared(index)
        if payload >= 0:
            self._entries.append((page, index))
            self._exclusive_entries.append(False)
        return payload

    def exclusive_entry(self, page: EntryPage, index: int) -> int:
        """Host exclusive acquire of an entry."""
        payload = page.try_exclusive(index)
        if payload >= 0:
            self._entries.append((page, index))
            self._exclusive_entries.append(True)
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
        """Declined."""
        return DECLINED

    def tree_walk(
        self,
        tree: _Lock,
        pages: EntryPages,
        root: int,
        key: int,
        level: int,
        target: int,
        kind: int,
    ) -> tuple[EntryPage, int, int] | None:
        """Declined."""
        return None

    def release_all(self) -> None:
        """Release everything, last taken first within each kind of lock."""
        while self._entries:
            page, index = self._entries.pop()
            exclusively = self._exclusive_entries.pop()
            if exclusively:
                page.release_exclusive(index)
            else:
                page.release_shared(index)
        while self._shared:
            lock = self._shared.pop()
            lock.release_shared()
        while self._exclusive:
            lock = self._exclusive.pop()
            lock.release_exclusive()
