"""Words whose operations are reported to an observer: the same state, run step by step.

An observed word holds its state as the plain word does, in the same class.  While nobody observes,
each operation is the plain one; so a machine is set up, audited and restored as always.  While
somebody does (:class:`Watch`), an operation does nothing but ask the observer for its result.  The
observer may answer, or raise what stops the thread.

Every public method is a step or is refused while somebody observes: a method for audits would read
the state that the machine had at the start, whatever the threads have done since.

A step is (address, method, arguments).  An address names one word: its array and its index in it;
an entry of a page has index ``page << 9 | entry``, a step on a whole page has index ``page``.
"""

import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Final, NamedTuple, Protocol, cast

from dpamt.errors import InputError, ModelError
from dpamt.sync.entry_pages import EntryPage, EntryPages
from dpamt.sync.host_priority import HostPriorityWord, HostPriorityWords
from dpamt.sync.kernel_locks import Mutex, RwLock, RwLocks, SpinLock, SpinLocks
from dpamt.sync.lock_set import LockSet, StepLockSet
from dpamt.sync.shared import Shared
from dpamt.sync.shared_exclusive import SharedExclusiveLock, SharedExclusiveLocks
from dpamt.sync.steps import (
    ENTRY_STEPS,
    HOST_PRIORITY_STEPS,
    MUTEX_STEPS,
    PAGE_READS,
    PAGE_WRITES,
    RW_STEPS,
    SHARED_EXCLUSIVE_STEPS,
    SPIN_STEPS,
    WORD_STEPS,
)
from dpamt.sync.word_sizes import FEWEST_BITS, bits_of, holds
from dpamt.sync.words import Word, Words


class Address(NamedTuple):
    """The name of one word: its array, and its index there (0 of a lock that stands alone)."""

    array: str
    number: int

    def __str__(self) -> str:
        return f"{self.array}[{self.number:#x}]"


class Observer(Protocol):
    """Answers steps."""

    def step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        """The result of the step; may raise to stop the thread."""


class Watch:
    """Who observes an :class:`ObservedShared` now; None: the operations are plain."""

    __slots__ = ("observer",)

    def __init__(self) -> None:
        self.observer: Observer | None = None


def _watched(plain: type, method: str) -> Callable[..., Any]:
    """A method of a word: a step while observed."""
    operation = getattr(plain, method)

    def step(self: Any, *arguments: Any) -> Any:
        observer = self.watch.observer
        if observer is None:
            return operation(self, *arguments)
        return observer.step(self.address, method, arguments)

    step.__name__ = method
    step.__doc__ = operation.__doc__
    return step


def _watched_word(method: str) -> Callable[..., Any]:
    """The same of an atomic integer, which takes integers only."""
    operation = getattr(Word, method)

    def step(self: Any, *arguments: Any) -> Any:
        observer = self.watch.observer
        if observer is None:
            return operation(self, *arguments)
        for value in arguments:
            if type(value) is not int:
                frame = sys._getframe(1)
                raise InputError(
                    f"{frame.f_code.co_filename}:{frame.f_lineno}: {method}() of a word is given "
                    f"{value!r}; expected an integer"
                )
            if value.bit_length() >= FEWEST_BITS and not holds(self.address.array, value):
                frame = sys._getframe(1)
                raise InputError(
                    f"{frame.f_code.co_filename}:{frame.f_lineno}: {method}() of {self.address} is "
                    f"given {value:#x}; expected what {bits_of(self.address.array)} bits hold"
                )
        return observer.step(self.address, method, arguments)

    step.__name__ = method
    step.__doc__ = operation.__doc__
    return step


def _watched_entry(method: str) -> Callable[..., Any]:
    """A method of a page that names one entry: a step on the word of that entry."""
    operation = getattr(EntryPage, method)

    def step(self: Any, index: int, *arguments: Any) -> Any:
        observer = self.watch.observer
        if observer is None:
            return operation(self, index, *arguments)
        array, page = self.address
        return observer.step(Address(array, page << 9 | index), method, arguments)

    step.__name__ = method
    step.__doc__ = operation.__doc__
    return step


def _observe(plain: type, methods: tuple[str, ...]) -> dict[str, Any]:
    return {name: _watched(plain, name) for name in methods if hasattr(plain, name)}


class _Observed:
    """What every observed word has beside its state."""

    __slots__ = ()

    def __init__(self: Any, watch: Watch, address: Address, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.watch = watch
        self.address = address


def _observed(plain: type, methods: dict[str, Any], constant: tuple[str, ...] = ()) -> Any:
    """The subclass of a word whose ``methods`` are steps; all others are refused to threads.

    Those in ``constant`` look at no state: what they answer is always the same.
    """
    body = {
        "__slots__": ("address", "watch"),
        "__doc__": plain.__doc__,
        **_refusals(plain, (*methods, *constant)),
        **methods,
    }
    return type(f"Observed{plain.__name__}", (_Observed, plain), body)


def _refusals(plain: type, allowed: tuple[str, ...]) -> dict[str, Any]:
    """A refusal for every public method that is not among those allowed."""
    return {
        name: _refused(operation, plain.__name__, allowed)
        for name in dir(plain)
        if not name.startswith("_") and name not in allowed
        if isinstance(operation := getattr(plain, name), FunctionType)
    }


def _refused(operation: FunctionType, kind: str, allowed: tuple[str, ...]) -> Callable[..., Any]:
    """A method that no thread may call: it is no step."""

    def audit(self: Any, *arguments: Any) -> Any:
        if self.watch.observer is None:
            return operation(self, *arguments)
        frame = sys._getframe(1)
        text = (
            f"{frame.f_code.co_filename}:{frame.f_lineno}: {operation.__name__}() of a {kind} is "
            "for audits: it is no step, and would show the machine as it was at the start; "
            f"expected one of {', '.join(sorted(allowed))}"
        )
        ours = frame.f_globals.get("__name__", "").startswith("dpamt.")
        raise ModelError(text) if ours else InputError(text)

    audit.__name__ = operation.__name__
    audit.__doc__ = operation.__doc__
    return audit


def _only(*allowed: str) -> Callable[[type], type]:
    """Of an array, refuse to threads what is not ``allowed``: finding a word is no step."""

    def refuse(array: type) -> type:
        for name, refusal in _refusals(array, allowed).items():
            setattr(array, name, refusal)
        return array

    return refuse


ObservedWord: Final = _observed(Word, {name: _watched_word(name) for name in WORD_STEPS})
ObservedHostPriorityWord: Final = _observed(
    HostPriorityWord, _observe(HostPriorityWord, HOST_PRIORITY_STEPS)
)
ObservedSharedExclusiveLock: Final = _observed(
    SharedExclusiveLock, _observe(SharedExclusiveLock, SHARED_EXCLUSIVE_STEPS), ("contended",)
)
ObservedEntryPage: Final = _observed(
    EntryPage,
    {name: _watched_entry(name) for name in ENTRY_STEPS}
    | _observe(EntryPage, tuple(sorted(PAGE_READS | PAGE_WRITES))),
)
ObservedSpinLock: Final = _observed(SpinLock, _observe(SpinLock, SPIN_STEPS))
ObservedMutex: Final = _observed(Mutex, _observe(Mutex, MUTEX_STEPS))
ObservedRwLock: Final = _observed(RwLock, _observe(RwLock, RW_STEPS))


@_only("at", "clear")
class ObservedWords(Words):
    """A sparse array of observed words."""

    __slots__ = ("_name", "_observed", "watch")

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__()
        self.watch = watch
        self._name = name
        self._observed: dict[int, Word] = {}

    def at(self, index: int) -> Word:
        """The word at ``index``; finding it is no step."""
        word = self._observed.get(index)
        if word is None:
            word = ObservedWord(self.watch, Address(self._name, index))
            self._observed[index] = word
        return word

    def clear(self, index: int) -> None:
        """Store 0; one step."""
        self.at(index).store(0)

    def non_zero(self) -> Iterator[tuple[int, int]]:
        """(index, value) of every word that is not 0; for audits, no step."""
        for index, word in list(self._observed.items()):
            if word._value:
                yield index, word._value

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned; words already handed out stay valid."""
        for word in self._observed.values():
            word.store(0)
        for index, value in captured:
            self.at(index).store(value)


@_only("at")
class ObservedHostPriorityWords(HostPriorityWords):
    """A sparse array of observed payloads under host-priority locks."""

    __slots__ = ("_name", "watch")

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__()
        self.watch = watch
        self._name = name

    def at(self, index: int) -> HostPriorityWord:
        """The word at ``index``; finding it is no step."""
        word = self._words.get(index)
        if word is None:
            word = ObservedHostPriorityWord(self.watch, Address(self._name, index))
            self._words[index] = word
        return word


@_only("at")
class ObservedEntryPages(EntryPages):
    """A sparse set of observed pages of entries; every page can be found."""

    __slots__ = ("_name", "watch")

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__()
        self.watch = watch
        self._name = name
        self.find = self.at

    def at(self, page: int) -> EntryPage:
        """The page, made empty when first asked for; finding it is no step."""
        entries = self._pages.get(page)
        if entries is None:
            entries = ObservedEntryPage(self.watch, Address(self._name, page))
            self._pages[page] = entries
        return entries


@_only("at")
class ObservedSharedExclusiveLocks(SharedExclusiveLocks):
    """A sparse array of observed plain shared/exclusive locks."""

    __slots__ = ("_name", "watch")

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__()
        self.watch = watch
        self._name = name

    def at(self, index: int) -> SharedExclusiveLock:
        """The lock at ``index``; finding it is no step."""
        lock = self._locks.get(index)
        if lock is None:
            lock = ObservedSharedExclusiveLock(self.watch, Address(self._name, index))
            self._locks[index] = lock
        return lock


@_only("at")
class ObservedSpinLocks(SpinLocks):
    """A sparse array of observed spinlocks."""

    __slots__ = ("watch",)

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__(name)
        self.watch = watch

    def at(self, index: int) -> SpinLock:
        """The lock at ``index``; finding it is no step."""
        lock = self._locks.get(index)
        if lock is None:
            address = Address(self.name, index)
            lock = self._locks[index] = ObservedSpinLock(self.watch, address, str(address))
        return lock


@_only("at")
class ObservedRwLocks(RwLocks):
    """A sparse array of observed reader/writer locks."""

    __slots__ = ("watch",)

    def __init__(self, watch: Watch, name: str) -> None:
        super().__init__(name)
        self.watch = watch

    def at(self, index: int) -> RwLock:
        """The lock at ``index``; finding it is no step."""
        lock = self._locks.get(index)
        if lock is None:
            address = Address(self.name, index)
            lock = self._locks[index] = ObservedRwLock(self.watch, address, str(address))
        return lock


class ObservedShared(Shared):
    """Makes observed arrays in place of plain ones; ``watch`` says who observes them.

    While observed, a name may be asked for again: a thread that is run again from its start makes
    its arrays again, and finds them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()

    def _again(self, name: str) -> Any:
        return self._arrays.get(name) if self.watch.observer is not None else None

    def words(self, name: str) -> Words:
        """A new sparse array of atomic integers."""
        return cast(Words, self._again(name)) or self._add(name, ObservedWords(self.watch, name))

    def host_priority_words(self, name: str) -> HostPriorityWords:
        """A new sparse array of payloads under host-priority shared/exclusive locks."""
        return self._again(name) or self._add(name, ObservedHostPriorityWords(self.watch, name))

    def entry_pages(self, name: str) -> EntryPages:
        """A new sparse set of pages of 512 payloads under host-priority locks."""
        return self._again(name) or self._add(name, ObservedEntryPages(self.watch, name))

    def shared_exclusive_locks(self, name: str) -> SharedExclusiveLocks:
        """A new sparse array of plain shared/exclusive try-locks."""
        return self._again(name) or self._add(name, ObservedSharedExclusiveLocks(self.watch, name))

    def spinlock(self, name: str) -> SpinLock:
        """A new spinlock."""
        made: SpinLock = self._again(name)
        return made or self._add(name, ObservedSpinLock(self.watch, Address(name, 0), name))

    def mutex(self, name: str) -> Mutex:
        """A new mutex."""
        made: Mutex = self._again(name)
        return made or self._add(name, ObservedMutex(self.watch, Address(name, 0), name))

    def rwlock(self, name: str) -> RwLock:
        """A new reader/writer lock."""
        made: RwLock = self._again(name)
        return made or self._add(name, ObservedRwLock(self.watch, Address(name, 0), name))

    def spinlocks(self, name: str) -> SpinLocks:
        """A new sparse array of spinlocks."""
        return self._again(name) or self._add(name, ObservedSpinLocks(self.watch, name))

    def rwlocks(self, name: str) -> RwLocks:
        """A new sparse array of reader/writer locks."""
        return self._again(name) or self._add(name, ObservedRwLocks(self.watch, name))

    def lock_set(self) -> LockSet:
        """What a logical processor takes its locks into: one lock at a time, each a step."""
        return StepLockSet()

    def forget(self, name: str) -> None:
        """Drop an array whose owner is gone; while observed it stays, for the next run."""
        if self.watch.observer is None:
            super().forget(name)
