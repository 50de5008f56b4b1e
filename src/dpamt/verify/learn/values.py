"""What a step does to the value of its word: asked of the plain word itself.

The value of a word is what its ``capture`` shows.  A plain word of the same class is given the
value, does the operation, and is looked at again; so there is no second copy of what an operation
means.  Answers are kept.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Final, NamedTuple

from dpamt.errors import InputError, ModelError
from dpamt.sync.entry_pages import EntryPage, EntryPages
from dpamt.sync.host_priority import (
    EX,
    HP,
    LOCK_MASK,
    PAYLOAD_SHIFT,
    READER,
    HostPriorityWord,
    HostPriorityWords,
)
from dpamt.sync.kernel_locks import BareLock, Deadlock, RwLock, RwLocks, SpinLock, SpinLocks
from dpamt.sync.shared_exclusive import SharedExclusiveLock, SharedExclusiveLocks
from dpamt.sync.steps import PAGE_READS, PAGE_WRITES, WAITS
from dpamt.sync.word_sizes import bits_of, holds
from dpamt.sync.words import Word, Words
from dpamt.verify.learn.automaton import Step

DONE: Final = 0
BLOCKED: Final = 1
MISUSED: Final = 2
"""How a step went: it has a result; it must wait; a lock was released that is not held so."""


class Outcome(NamedTuple):
    """What a step gives: how it went, its result, and the word's new value."""

    how: int
    result: Any
    value: Hashable


class _Scratch:
    """A plain word of one class, to try operations on."""

    def __init__(self, word: Any) -> None:
        self._word = word

    def put(self, value: Any) -> None:
        self._word.restore(value)

    def get(self) -> Any:
        return self._word.capture()

    def do(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._word, method)(*arguments)


class _PlainWord(_Scratch):
    def put(self, value: Any) -> None:
        self._word.store(value)

    def get(self) -> Any:
        return self._word.load()


class _Lock(_Scratch):
    def get(self) -> Any:
        return self._word.lock_word()


class _Entry(_Scratch):
    """Entry 0 of a page."""

    def put(self, value: int) -> None:
        self._word.store(0, value >> PAYLOAD_SHIFT)
        self._word.own_locks()[0] = value & LOCK_MASK

    def get(self) -> int:
        return entry_value(self._word, 0)

    def do(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._word, method)(0, *arguments)


def entry_value(page: EntryPage, index: int) -> int:
    """Lock and payload of one entry in one integer, as in :meth:`EntryPage.capture`."""
    payload: int = EntryPage.load(page, index) if type(page) is EntryPage else page.load(index)
    return payload << PAYLOAD_SHIFT | page.lock_word(index)


def scratch_for(array: object) -> _Scratch:
    """A word to try operations on, of the kind that the array holds.

    Raises ModelError for an array of an unknown kind.
    """
    if isinstance(array, Words):
        return _PlainWord(Word())
    if isinstance(array, HostPriorityWords):
        return _Scratch(HostPriorityWord())
    if isinstance(array, EntryPages):
        return _Entry(EntryPage())
    if isinstance(array, SharedExclusiveLocks):
        return _Lock(SharedExclusiveLock())
    if isinstance(array, (BareLock, SpinLocks)):
        return _Scratch(SpinLock(array.name))
    if isinstance(array, (RwLock, RwLocks)):
        return _Scratch(RwLock(array.name))
    raise ModelError(f"steps on a {type(array).__name__} are not known")


class Operations:
    """The outcomes of steps on the words of one array."""

    def __init__(self, array: object) -> None:
        self._scratch = scratch_for(array)
        self._known: dict[tuple[str, tuple[Any, ...], Hashable], Outcome] = {}

    def outcome(self, step: Step, value: Hashable) -> Outcome:
        """What the step gives when its word has this value."""
        key = step.method, step.arguments, value
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._try(step, value)
        return known

    def _try(self, step: Step, value: Hashable) -> Outcome:
        scratch = self._scratch
        scratch.put(value)
        try:
            result = scratch.do(step.method, step.arguments)
        except Deadlock as deadlock:
            if step.method in WAITS:
                return Outcome(BLOCKED, None, value)
            return Outcome(MISUSED, str(deadlock), value)
        now = scratch.get()
        if isinstance(scratch, _PlainWord) and not holds(step.address.array, now):
            raise InputError(
                f"{step.address} becomes {now:#x} by {step.method}(), and a word of "
                f"{bits_of(step.address.array)} bits holds less; in C it wraps round"
            )
        return Outcome(DONE, result, now)


# Words of a running machine, read and written from outside while nobody observes.


def read_word(array: Any, index: int) -> Hashable:
    """The value of the word ``index`` of an array."""
    if isinstance(array, EntryPages):
        return entry_value(array.at(index >> 9), index & 511)
    if isinstance(array, Words):
        return array.at(index).load()
    if isinstance(array, HostPriorityWords):
        return array.at(index).capture()
    if isinstance(array, SharedExclusiveLocks):
        return array.at(index).lock_word()
    if hasattr(array, "at"):
        value: Hashable = array.at(index).capture()
        return value
    captured: Hashable = array.capture()
    return captured


def write_word(array: Any, index: int, value: Any) -> None:
    """Give the word ``index`` of an array a value that :func:`read_word` has shown."""
    if isinstance(array, EntryPages):
        page = array.at(index >> 9)
        page.store(index & 511, value >> PAYLOAD_SHIFT)
        page.own_locks()[index & 511] = value & LOCK_MASK
    elif isinstance(array, Words):
        array.at(index).store(value)
    elif hasattr(array, "at"):
        array.at(index).restore(value)
    else:
        array.restore(value)


def do_step(array: Any, number: int, method: str, arguments: tuple[Any, ...]) -> Any:
    """A step done on the word ``number`` of an array itself."""
    if not hasattr(array, "at"):
        return getattr(array, method)(*arguments)
    if not isinstance(array, EntryPages):
        return getattr(array.at(number), method)(*arguments)
    if method in PAGE_READS or method in PAGE_WRITES:
        return getattr(array.at(number), method)(*arguments)
    return getattr(array.at(number >> 9), method)(number & 511, *arguments)


# Values for people.


def payload_shift(array: object) -> int:
    """At which bit the payload begins in the value of a word of an array."""
    return PAYLOAD_SHIFT if isinstance(array, (EntryPages, HostPriorityWords)) else 0


def value_text(array: object, value: Any) -> str:
    """The value of a word of an array in words: what it holds, and how its lock is held."""
    if isinstance(array, Words):
        names: Mapping[int, str] = getattr(array, "value_names", {})
        return names.get(value) or _number(value)
    if isinstance(array, (BareLock, SpinLocks)):
        return "held" if value else "free"
    if isinstance(array, (RwLock, RwLocks)):
        return "free" if not value else "write-held" if value & 1 else f"{value >> 1} readers"
    if isinstance(array, SharedExclusiveLocks) or payload_shift(array):
        lock = value & LOCK_MASK
        held = [
            *(["exclusive"] if lock & EX else []),
            *([f"{lock // READER} shared"] if lock // READER else []),
            *(["wanted by the host"] if lock & HP and payload_shift(array) else []),
        ]
        payload = [_number(value >> PAYLOAD_SHIFT)] if payload_shift(array) else []
        return ", ".join([*payload, *held]) or "free"
    return str(value)


def _number(value: int) -> str:
    return str(value) if -10 < value < 10 else hex(value)


def filled(index: int, method: str, arguments: tuple[Any, ...], before: Any) -> int:
    """An entry's value after a whole-page write."""
    if method == "zero":
        lock: int = before & LOCK_MASK
        return lock
    if method == "fill":
        payload: int = arguments[0]
    else:
        payload = arguments[0] + index * arguments[1]
    return payload << PAYLOAD_SHIFT
