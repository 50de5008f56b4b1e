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

Way = tuple[int, int, EntryPages, int, tuple[int, ...]]
"""A way down a tree of pages: bit of a key where its last index begins, and where the part above
that does; the pages and the root among them; and where each index before the last begins.  An
index is nine bits.  Made by :func:`way_down`; the same object always means the same way."""


def way_down(pages: EntryPages, root: int, level: int, target: int) -> Way:
    """From page ``root``, whose entries are of ``level``, to an entry of ``target``."""
    return 9 * target, 9 * target + 9, pages, root, tuple(range(9 * level, 9 * target, -9))


_WayGone = tuple[Way | None, int, tuple[tuple[EntryPage, int, int], ...], EntryPage]
"""A way that was gone, for which upper part of the key; the links met (page, index, payload); and
the page at its end."""


def _go_down(key: int, way: Way, kind: int) -> _WayGone | None:
    """Follow links of ``kind``; None where something else is met."""
    _, above, pages, root, shifts = way
    page = pages.find(root)
    links = []
    for shift in shifts:
        index = key >> shift & 511
        word = page._payloads[index]
        if word & _KIND_MASK != kind:
            return None
        links.append((page, index, word))
        page = pages.find(word >> _LINK_SHIFT)
    return way, key >> above, tuple(links), page


_NO_WAY: Final[_WayGone] = (None, 0, (), EntryPage())

_Lock = HostPriorityWord | SharedExclusiveLock


_NO_LOCK: Final = HostPriorityWord()
"""Stands where a path has one word only; what it counts means nothing."""


class EntryPath:
    """The way down to a page of entries: ``top`` and ``first`` shared, then an entry.

    It is open while the payload of ``top`` is 0 and that of ``first`` is ``node``.
    """

    __slots__ = ("entries", "first", "node", "top")

    def __init__(
        self, top: HostPriorityWord, first: HostPriorityWord, node: int, entries: EntryPage
    ) -> None:
        self.top = top
        self.first = first
        self.node = node
        self.entries = entries


class LockSet:
    """What one logical processor holds.  Acquires return a payload (0 or more) or BUSY."""

    __slots__ = ("_entries", "_exclusive", "_last_way", "_paths", "_shared")

    def __init__(self) -> None:
        self._shared: list[_Lock] = []
        self._exclusive: list[_Lock] = []
        self._entries: list[tuple[EntryPage, int]] = []
        self._paths: list[tuple[_Lock, HostPriorityWord, list[int], int, int]] = []
        """Two words held shared, and a lock of a list, held as the last item says."""
        self._last_way = _NO_WAY

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

    def path(self, path: EntryPath, index: int, how: int) -> int:
        """Both words of an open path shared, and its entry ``index`` as ``how`` says.

        Returns the entry's payload, or DECLINED.
        """
        top = path.top
        first = path.first
        page = path.entries
        locks = page._locks
        if locks is ZEROS:
            locks = page.own_locks()
        if (
            (top._lock | first._lock) & 3
            or locks[index]
            or first._payload != path.node
            or top._payload
        ):
            return DECLINED
        top._lock += READER
        first._lock += READER
        locks[index] = how
        self._paths.append((top, first, locks, index, how))
        return page._payloads[index]

    def tree_walk(
        self,
        tree: _Lock,
        key: int,
        way: Way,
        kind: int,
    ) -> tuple[EntryPage, int, int] | None:
        """``tree`` shared, and exclusively the entry of ``key`` at the end of the way.

        It goes over payloads of ``kind`` that link to the next page (its name above bit 8), by the
        indices that ``way`` takes out of ``key``.  Returns (page, index, payload) of the entry, or
        None: declined.
        """
        if tree._lock & 3:
            return None
        last_way, last_key, links, page = self._last_way
        if last_way is way and last_key == key >> way[1]:
            # The way of the last walk: its links are read again, only the arithmetic is spared.
            for upper, at, word in links:
                if upper._payloads[at] != word:
                    self._last_way = _NO_WAY
                    return None
        else:
            found = _go_down(key, way, kind)
            if found is None:
                return None
            self._last_way = found
            page = found[3]
        index = key >> way[0] & 511
        locks = page._locks
        if locks is ZEROS:
            locks = page.own_locks()
        if locks[index]:
            return None
        tree._lock += READER
        locks[index] = EX
        self._paths.append((tree, _NO_LOCK, locks, index, EX))
        return page, index, page._payloads[index]

    def store_and_release(self, page: EntryPage, index: int, payload: int) -> None:
        """Write an entry held exclusively and release it before the rest, in one step.

        In a plain run it is released with the rest.
        """
        page.store(index, payload)

    def release_all(self) -> None:
        """Release everything; in a plain run nobody sees in which order."""
        if self._paths:
            for top, first, locks, index, how in self._paths:
                lock = locks[index]
                if lock == how:
                    locks[index] = 0
                else:
                    locks[index] = lock & HP if how == EX else lock - READER
                first._lock -= READER
                top._lock -= READER
            self._paths.clear()
        if self._shared:
            for word in self._shared:
                word._lock -= READER
            self._shared.clear()
        if self._entries:
            for page, index in self._entries:
                locks = page._locks
                locks[index] = locks[index] & HP if locks[index] & EX else locks[index] - READER
            self._entries.clear()
        if self._exclusive:
            for word in self._exclusive:
                word.release_exclusive()
            self._exclusive.clear()


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

    def path(self, path: EntryPath, index: int, how: int) -> int:
        """Declined."""
        return DECLINED

    def tree_walk(
        self,
        tree: _Lock,
        key: int,
        way: Way,
        kind: int,
    ) -> tuple[EntryPage, int, int] | None:
        """Declined."""
        return None

    def store_and_release(self, page: EntryPage, index: int, payload: int) -> None:
        """Write an entry held exclusively and release it before the rest, in one step."""
        at = self._entries.index((page, index))
        del self._entries[at]
        del self._exclusive_entries[at]
        page.store_and_release(index, payload)

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
