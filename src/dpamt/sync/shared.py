"""The whole shared state of a machine: every array of words and every lock, by name."""

from collections.abc import Hashable
from typing import Any, Protocol, TypeVar

from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.host_priority import HostPriorityWords
from dpamt.sync.kernel_locks import Mutex, RwLock, RwLocks, SpinLock, SpinLocks
from dpamt.sync.lock_set import LockSet
from dpamt.sync.shared_exclusive import SharedExclusiveLocks
from dpamt.sync.words import Words

Snapshot = tuple[tuple[str, Hashable], ...]
"""All shared state at one moment: comparable and hashable."""


class _Captured(Protocol):
    def capture(self) -> Hashable: ...

    def restore(self, captured: Any) -> None: ...


_Array = TypeVar("_Array", bound=_Captured)


class Shared:
    """Makes the arrays that a model's rooms ask for; copies, compares and puts back all of them.

    Every array has a name of its own (``"module.pamt.4k"``, ``"host.pamt_refcounts"``); asking for
    a name twice raises ValueError.  Another maker with the same methods can stand in its place.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, _Captured] = {}

    def _add(self, name: str, array: _Array) -> _Array:
        if name in self._arrays:
            raise ValueError(f"shared array {name} exists already")
        self._arrays[name] = array
        return array

    def words(self, name: str) -> Words:
        """A new sparse array of atomic integers."""
        return self._add(name, Words())

    def host_priority_words(self, name: str) -> HostPriorityWords:
        """A new sparse array of payloads under host-priority shared/exclusive locks."""
        return self._add(name, HostPriorityWords())

    def entry_pages(self, name: str) -> EntryPages:
        """A new sparse set of pages of 512 payloads under host-priority locks."""
        return self._add(name, EntryPages())

    def shared_exclusive_locks(self, name: str) -> SharedExclusiveLocks:
        """A new sparse array of plain shared/exclusive try-locks."""
        return self._add(name, SharedExclusiveLocks())

    def spinlock(self, name: str) -> SpinLock:
        """A new spinlock."""
        return self._add(name, SpinLock(name))

    def mutex(self, name: str) -> Mutex:
        """A new mutex."""
        return self._add(name, Mutex(name))

    def rwlock(self, name: str) -> RwLock:
        """A new reader/writer lock."""
        return self._add(name, RwLock(name))

    def spinlocks(self, name: str) -> SpinLocks:
        """A new sparse array of spinlocks."""
        return self._add(name, SpinLocks(name))

    def rwlocks(self, name: str) -> RwLocks:
        """A new sparse array of reader/writer locks."""
        return self._add(name, RwLocks(name))

    def lock_set(self) -> LockSet:
        """What a logical processor takes its locks into; it has no name: it is empty at rest."""
        return LockSet()

    def forget(self, name: str) -> None:
        """Drop an array whose owner is gone (a VM's lock), so that its name may be used again."""
        del self._arrays[name]

    def array(self, name: str) -> Any:
        """The array of that name.  Raises KeyError when there is none."""
        return self._arrays[name]

    def arrays(self) -> list[tuple[str, object]]:
        """Every array and lock that there is, by name; for audits, no step."""
        return sorted(self._arrays.items())

    def snapshot(self) -> Snapshot:
        """Every array's contents, by name."""
        return tuple((name, array.capture()) for name, array in sorted(self._arrays.items()))

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what :meth:`snapshot` returned, into arrays of the same names.

        Raises KeyError for an array that does not exist here.
        """
        for name, captured in snapshot:
            self._arrays[name].restore(captured)
