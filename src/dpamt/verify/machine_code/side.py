"""What machine code shares with other CPUs, as words and locks of one machine.

The counters are the kernel's own (``kernel.pamt_refcounts``), so that the audits of counts and
pairs are those of every design.  A lock is known by the address that it is taken by, and named by
the symbol there.  All other shared memory of the image is words that begin as the image has them.
"""

from typing import Any, Protocol, runtime_checkable

from dpamt.errors import InputError
from dpamt.host.core.kernel import Kernel
from dpamt.sync import Mutex, RwLock, SpinLock, Word
from dpamt.sync.observed import Address, ObservedShared, ObservedWord, ObservedWords
from dpamt.verify.learn.automaton import Recorder
from dpamt.verify.learn.shown import Fixed
from dpamt.verify.machine_code.memory import Cell
from dpamt.verify.machine_code.places import Places


class ImageWords(ObservedWords):
    """Words of one symbol, by offset; each begins with the value that the image has there."""

    __slots__ = ("_firsts", "value_names")

    def __init__(self, shared: ObservedShared, name: str) -> None:
        super().__init__(shared.watch, name)
        self._firsts: dict[int, int] = {}
        self.value_names: dict[int, str] = {}
        """Of an enumeration: its values by their names in C."""

    def begin(self, offset: int, value: int) -> Word:
        """The word at an offset, made with this value."""
        word = self._observed.get(offset)
        if word is None:
            self._firsts[offset] = value
            word = self._observed[offset] = ObservedWord(self.watch, Address(self._name, offset))
            word._value = value  # its beginning: no step of anybody
        return word

    def capture(self) -> tuple[tuple[int, int], ...]:
        """Every word that is not as it began."""
        return tuple(
            sorted(
                (offset, word._value)
                for offset, word in self._observed.items()
                if word._value != self._firsts[offset]
            )
        )

    def restore(self, captured: tuple[tuple[int, int], ...]) -> None:
        """Put back what :meth:`capture` returned."""
        for offset, word in self._observed.items():
            word._value = self._firsts[offset]
        for offset, value in captured:
            self._observed[offset]._value = value


@runtime_checkable
class TellingLog(Protocol):
    """The log of a machine under observation."""

    @property
    def recorder(self) -> Recorder:
        """Who receives the threads' events."""


class ImageSide(Fixed):
    """The shared state of the image's code on one machine."""

    def __init__(self, kernel: Kernel, places: Places) -> None:
        self._kernel = kernel
        assert isinstance(kernel.log, TellingLog)
        self.recorder = kernel.log.recorder
        self._places = places
        self._words: dict[Cell, Word] = {}
        self._arrays: dict[str, ImageWords] = {}
        self._locks: dict[tuple[type, int], Any] = {}

    def word(self, cell: Cell) -> Word:
        """The word of a cell; finding it is no step."""
        known = self._words.get(cell)
        if known is None:
            self._refuse_both(cell.address, any(at == cell.address for _, at in self._locks))
            known = self._words[cell] = self._make(cell)
        return known

    def _refuse_both(self, address: int, is_both: bool) -> None:
        """A lock that is answered has no value that code could look at."""
        if is_both:
            image = self._places.image
            raise InputError(
                f"{image.path}: {image.name_of(address)} is a lock that functions take, and a word "
                "that code reads or writes; expected one of the two"
            )

    def _make(self, cell: Cell) -> Word:
        if cell.counter:
            return self._kernel.pamt_refcounts.at(cell.number)
        array = self._arrays.get(cell.symbol)
        if array is None:
            shared = self._kernel.shared
            assert isinstance(shared, ObservedShared)
            name = f"image.{cell.symbol}"
            words = ImageWords(shared, name)
            words.value_names = dict(cell.values)
            array = self._arrays[cell.symbol] = shared._add(name, words)
        return array.begin(cell.number, self._places.memory.first_value(cell))

    def spinlock(self, address: int) -> SpinLock:
        """The spinlock at an address; finding it is no step."""
        lock: SpinLock = self._lock(SpinLock, address)
        return lock

    def rwlock(self, address: int) -> RwLock:
        """The same of a reader/writer lock."""
        lock: RwLock = self._lock(RwLock, address)
        return lock

    def mutex(self, address: int) -> Mutex:
        """The same of a mutex."""
        lock: Mutex = self._lock(Mutex, address)
        return lock

    def is_lock(self, address: int) -> bool:
        """Whether a lock was taken by that address."""
        return (SpinLock, address) in self._locks

    def _lock(self, kind: type, address: int) -> Any:
        known = self._locks.get((kind, address))
        if known is None:
            self._refuse_both(address, any(cell.address == address for cell in self._words))
            shared = self._kernel.shared
            make: Any = shared.mutex
            if kind is not Mutex:
                make = shared.spinlock if kind is SpinLock else shared.rwlock
            name = self._places.memory.lock_name(address)
            pamt = self._kernel.pamt_lock
            if kind is SpinLock and name == pamt.name:
                known = pamt
            else:
                known = make(f"image.{name}")
            self._locks[kind, address] = known
        return known
