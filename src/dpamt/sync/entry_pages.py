"""Pages of 512 entries, each a payload under a host-priority lock, made and dropped whole.

The lock is that of :mod:`dpamt.sync.host_priority`, bit for bit; only the storage is compact.  The
4K entries of PAMT are such (a pair holds 512), and so are S-EPT pages: an S-EPT entry's lock (bit
11, and bit 52 for host priority) is the same lock without readers.

Payloads that are alike, or rise evenly, take next to no storage: see :mod:`dpamt.sync.runs`.
"""

from collections.abc import Callable, Sequence
from typing import Final

from dpamt.sync.host_priority import (
    BUSY,
    BUSY_HOST_PRIORITY,
    EX,
    HP,
    LOCK_MASK,
    PAYLOAD_SHIFT,
    READER,
)
from dpamt.sync.runs import uniform, with_run

ENTRIES_PER_PAGE: Final = 512
ZEROS: Final = [0] * ENTRIES_PER_PAGE
"""The locks that pages never locked share; never written."""
EMPTY: Final = uniform(0, ENTRIES_PER_PAGE)
"""The payloads that pages without content share."""


class EntryPage:
    """512 payloads (0 or more) and their locks, addressed by index 0..511."""

    __slots__ = ("_locks", "_payloads")

    _payloads: Sequence[int]
    """A list of the page's own, or a tuple or range that cannot be written."""

    def __init__(self) -> None:
        self._payloads = EMPTY
        self._locks = ZEROS

    def fill(self, payload: int) -> None:
        """Write every payload and free every lock; for a page nobody else can reach."""
        self._payloads = uniform(payload, ENTRIES_PER_PAGE) if payload else EMPTY
        self._locks = ZEROS

    def fill_run(self, first: int, stride: int) -> None:
        """As :meth:`fill`, with payloads that rise by ``stride`` from ``first``."""
        self._payloads = range(first, first + ENTRIES_PER_PAGE * stride, stride)
        self._locks = ZEROS

    def zero(self) -> None:
        """Write 0 into every payload; the locks stay as they are."""
        self._payloads = EMPTY

    def own_locks(self) -> list[int]:
        """The lock words, in a list of the page's own; no step."""
        if self._locks is ZEROS:
            self._locks = [0] * ENTRIES_PER_PAGE
        return self._locks

    def try_shared(self, index: int) -> int:
        """Host shared acquire: the payload, or BUSY."""
        locks = self.own_locks()
        lock = locks[index]
        if lock & EX:
            locks[index] = (lock + READER) & LOCK_MASK | HP
            return BUSY
        locks[index] = (lock & ~HP) + READER
        return self._payloads[index]

    def try_exclusive(self, index: int) -> int:
        """Host exclusive acquire: the payload, or BUSY."""
        locks = self.own_locks()
        lock = locks[index]
        if lock and lock != HP:
            locks[index] = lock | HP
            return BUSY
        locks[index] = EX
        return self._payloads[index]

    def try_exclusive_guest(self, index: int) -> int:
        """Guest exclusive acquire: the payload, BUSY or BUSY_HOST_PRIORITY."""
        locks = self.own_locks()
        lock = locks[index]
        if lock:
            return BUSY_HOST_PRIORITY if lock == HP else BUSY
        locks[index] = EX
        return self._payloads[index]

    def release_shared(self, index: int) -> None:
        """Drop a shared hold."""
        self._locks[index] -= READER

    def release_exclusive(self, index: int) -> None:
        """Drop the exclusive hold; the host-priority bit stays."""
        self._locks[index] &= HP

    def store_and_release(self, index: int, payload: int) -> None:
        """Write the payload and drop the exclusive hold in one; the host-priority bit stays."""
        self.store(index, payload)
        self._locks[index] &= HP

    def load(self, index: int) -> int:
        """The payload, read without the lock."""
        return self._payloads[index]

    def store(self, index: int, payload: int) -> None:
        """Write the payload; the lock stays as it is."""
        try:
            self._payloads[index] = payload  # type: ignore[index]  # most pages have a list
        except TypeError:
            if self._payloads[index] != payload:
                self._payloads = own = list(self._payloads)
                own[index] = payload

    def clear(self, index: int) -> None:
        """Write 0; the lock stays as it is."""
        if self._payloads is not EMPTY:
            self.store(index, 0)

    def any_non_zero(self, start: int, end: int) -> bool:
        """Whether any payload in [start, end) is not 0; one scan, one step."""
        # count() compares by identity first: ten times as fast as any().
        payloads = self._payloads
        return payloads is not EMPTY and payloads[start:end].count(0) != end - start

    def load_run(self, start: int, end: int) -> Sequence[int]:
        """The payloads of [start, end), read without their locks; never written again."""
        return self._payloads[start:end]

    def store_run(self, start: int, payloads: Sequence[int]) -> None:
        """Write payloads from ``start`` on; the locks stay as they are."""
        self._payloads = with_run(self._payloads, start, payloads)

    def unlocked(self, start: int, end: int) -> bool:
        """Whether every lock word in [start, end) is 0, host priority included.

        Where the page has no lock word left at all it gives up their storage.
        """
        if self._locks is ZEROS:
            return True
        if self._locks == ZEROS:
            self._locks = ZEROS
            return True
        return self._locks[start:end].count(0) == end - start

    def any_exclusive(self) -> bool:
        """Whether any entry is locked exclusively; one scan, one step."""
        locks = self._locks
        return locks is not ZEROS and any(lock & EX for lock in locks)

    def payloads(self) -> tuple[int, ...]:
        """The 512 payloads; one scan, one step."""
        return tuple(self._payloads)

    def lock_word(self, index: int) -> int:
        """The lock bits, for audits; no step."""
        return self._locks[index]

    def locked(self) -> dict[int, int]:
        """Index to lock bits of every entry whose lock is not 0; for audits, no step."""
        if self._locks is ZEROS or not any(self._locks):
            return {}
        return {index: lock for index, lock in enumerate(self._locks) if lock}

    def raise_host_priority(self, index: int) -> None:
        """Set HP alone, as a host whose acquire failed leaves it."""
        self.own_locks()[index] |= HP

    def capture(self) -> tuple[int, ...]:
        """Lock and payload of the 512 entries: bits 15:0 and 16 up of each integer."""
        return tuple(
            payload << PAYLOAD_SHIFT | lock
            for payload, lock in zip(self._payloads, self._locks, strict=True)
        )

    def restore(self, captured: tuple[int, ...]) -> None:
        """Put back what :meth:`capture` returned."""
        self._payloads = [word >> PAYLOAD_SHIFT for word in captured]
        self._locks = [word & LOCK_MASK for word in captured]


class EntryPages:
    """A sparse set of entry pages, named by any integer.  An empty page costs next to nothing."""

    __slots__ = ("_pages", "find")

    find: Callable[[int], EntryPage]
    """``find(page)``: a page that was asked for before (else KeyError); finding it is no step."""

    def __init__(self) -> None:
        self._pages: dict[int, EntryPage] = {}
        self.find = self._pages.__getitem__

    def at(self, page: int) -> EntryPage:
        """The page, made empty when first asked for; finding it is no step."""
        try:
            return self._pages[page]
        except KeyError:
            entries = self._pages[page] = EntryPage()
            return entries

    def pages(self) -> list[int]:
        """The pages that were asked for, ascending; for audits, no step."""
        return sorted(self._pages)

    def capture(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """All pages that are not all zero, as a comparable, hashable value."""
        captured = ((page, self._pages[page].capture()) for page in sorted(self._pages))
        return tuple((page, words) for page, words in captured if any(words))

    def restore(self, captured: tuple[tuple[int, tuple[int, ...]], ...]) -> None:
        """Put back what :meth:`capture` returned; pages already handed out stay valid."""
        for entries in self._pages.values():
            entries.fill(0)
        for page, words in captured:
            self.at(page).restore(words)
