"""Pages of 512 entries, each a payload under a host-priority lock, made and dropped whole.

The lock is that of :mod:`dpamt.sync.host_priority`, bit for bit; only the storage is compact.  The
4K entries of PAMT are such (a pair holds 512), and so are S-EPT pages: an S-EPT entry's lock (bit
11, and bit 52 for host priority) is the same lock without readers.
"""

from collections.abc import Callable
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

ENTRIES_PER_PAGE: Final = 512
_ZEROS: Final = [0] * ENTRIES_PER_PAGE
"""What every page without content shares; never written."""


class EntryPage:
    """512 payloads (0 or more) and their locks, addressed by index 0..511."""

    __slots__ = ("_locks", "_payloads")

    def __init__(self) -> None:
        self._payloads = _ZEROS
        self._locks: dict[int, int] = {}

    def fill(self, payload: int) -> None:
        """Write every payload and free every lock; for a page nobody else can reach."""
        self._payloads = [payload] * ENTRIES_PER_PAGE if payload else _ZEROS
        self._locks.clear()

    def try_shared(self, index: int) -> int:
        """Host shared acquire: the payload, or BUSY."""
        lock = self._locks.get(index, 0)
        if lock & EX:
            self._locks[index] = (lock + READER) & LOCK_MASK | HP
            return BUSY
        self._locks[index] = (lock & ~HP) + READER
        return self._payloads[index]

    def try_exclusive(self, index: int) -> int:
        """Host exclusive acquire: the payload, or BUSY."""
        locks = self._locks
        if index in locks and locks[index] != HP:
            locks[index] |= HP
            return BUSY
        locks[index] = EX
        return self._payloads[index]

    def try_exclusive_guest(self, index: int) -> int:
        """Guest exclusive acquire: the payload, BUSY or BUSY_HOST_PRIORITY."""
        lock = self._locks.get(index, 0)
        if lock:
            return BUSY_HOST_PRIORITY if lock & HP else BUSY
        self._locks[index] = EX
        return self._payloads[index]

    def release_shared(self, index: int) -> None:
        """Drop a shared hold."""
        lock = self._locks.pop(index) - READER
        if lock:
            self._locks[index] = lock

    def release_exclusive(self, index: int) -> None:
        """Drop the exclusive hold; the host-priority bit stays."""
        lock = self._locks.pop(index)
        if lock & HP:
            self._locks[index] = HP

    def load(self, index: int) -> int:
        """The payload, read without the lock."""
        return self._payloads[index]

    def store(self, index: int, payload: int) -> None:
        """Write the payload; the lock stays as it is."""
        if self._payloads is _ZEROS:
            self._payloads = [0] * ENTRIES_PER_PAGE
        self._payloads[index] = payload

    def first_non_zero(self, start: int, end: int) -> int:
        """Lowest index in [start, end) whose payload is not 0, or -1; one scan, one step."""
        for index in range(start, end):
            if self._payloads[index]:
                return index
        return -1

    def payloads(self) -> list[int]:
        """A copy of the 512 payloads; for audits and whole-page checks under a lock, no step."""
        return list(self._payloads)

    def lock_word(self, index: int) -> int:
        """The lock bits, for audits; no step."""
        return self._locks.get(index, 0)

    def locked(self) -> dict[int, int]:
        """Index to lock bits of every entry whose lock is not 0; for audits, no step."""
        return dict(self._locks)

    def put_back(self, index: int, lock: int) -> None:
        """Finish the release of a lock that others touched while it was held.

        ``lock`` are the bits as they were at the release, taken out of the page by the caller.
        """
        if lock & EX:
            lock &= HP
        else:
            lock -= READER
        if lock:
            self._locks[index] = lock

    def raise_host_priority(self, index: int) -> None:
        """Set HP alone, as a host whose acquire failed leaves it."""
        self._locks[index] = self._locks.get(index, 0) | HP

    def capture(self) -> tuple[int, ...]:
        """Lock and payload of the 512 entries: bits 15:0 and 16 up of each integer."""
        return tuple(
            payload << PAYLOAD_SHIFT | self._locks.get(index, 0)
            for index, payload in enumerate(self._payloads)
        )

    def restore(self, captured: tuple[int, ...]) -> None:
        """Put back what :meth:`capture` returned."""
        self._payloads = [word >> PAYLOAD_SHIFT for word in captured]
        self._locks = {
            index: word & LOCK_MASK for index, word in enumerate(captured) if word & LOCK_MASK
        }


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
        entries = self._pages.get(page)
        if entries is None:
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
