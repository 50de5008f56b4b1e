"""The TDMRs that SYS.CONFIG accepted, and how far SYS.TDMR.INIT has come in each."""

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.tdmr import TdmrInfo
from dpamt.sync import Shared, SharedExclusiveLock, Word


class Tdmr:
    """One TDMR: ``done`` counts its initialised 4K pages, ``lock`` is its mutex.

    ``reserved`` are (first page frame, pages) of its reserved areas, ascending.
    """

    __slots__ = ("done", "first", "info", "lock", "pages", "reserved")

    def __init__(self, info: TdmrInfo, done: Word, lock: SharedExclusiveLock) -> None:
        self.info = info
        self.first = info.base >> PAGE_SHIFT
        self.pages = info.size >> PAGE_SHIFT
        self.reserved = tuple(
            (info.base + offset >> PAGE_SHIFT, size >> PAGE_SHIFT)
            for offset, size in info.reserved
            if size
        )
        self.done = done
        self.lock = lock


class Tdmrs:
    """The TDMRs of a machine, ascending; written once, by SYS.CONFIG."""

    def __init__(self, shared: Shared) -> None:
        self._done = shared.words("module.tdmr.done")
        self.locks = shared.shared_exclusive_locks("module.tdmr.lock")
        self.all: tuple[Tdmr, ...] = ()
        self._by_base: dict[int, Tdmr] = {}

    def configure(self, infos: list[TdmrInfo]) -> None:
        """Take over the TDMRs of a SYS.CONFIG that has found them valid."""
        self.all = tuple(
            Tdmr(info, self._done.at(index), self.locks.at(index))
            for index, info in enumerate(infos)
        )
        self._by_base = {tdmr.info.base: tdmr for tdmr in self.all}

    def at(self, base: int) -> Tdmr | None:
        """The TDMR that begins at the byte address ``base``."""
        return self._by_base.get(base)
