"""The other CPU of a vector file: it takes and drops locks of the module, and changes what it must.

Its steps are the calls whose leaf begins with ``@``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dpamt.abi.pages import LEVEL_SHIFTS, PAGE_SHIFT, PAGE_TYPE_NAMES
from dpamt.abi.sept import SEPT_INDEX_BITS
from dpamt.errors import InputError
from dpamt.module.module import TdxModule
from dpamt.module.sept import FRAME_SHIFT
from dpamt.module.td import EPTP_LEVELS_MASK, EPTP_LEVELS_SHIFT, EPTP_ROOT_SHIFT, Td
from dpamt.sync import BUSY, EntryPage, HostPriorityWord, SharedExclusiveLock, StepLockSet
from dpamt.trace.vector_file import Json, number

_TYPES: Final = {name: value for value, name in PAGE_TYPE_NAMES.items()}
_INDEX_MASK: Final = (1 << SEPT_INDEX_BITS) - 1


class _EntryLock:
    """One entry of a page, with the methods of a lock of its own."""

    def __init__(self, page: EntryPage, index: int) -> None:
        self._page = page
        self._index = index

    def try_shared(self) -> int:
        return self._page.try_shared(self._index)

    def try_exclusive(self) -> int:
        return self._page.try_exclusive(self._index)

    def release_shared(self) -> None:
        self._page.release_shared(self._index)

    def release_exclusive(self) -> None:
        self._page.release_exclusive(self._index)

    def raise_host_priority(self) -> None:
        self._page.raise_host_priority(self._index)


class _ContendedTree(HostPriorityWord):
    """An S-EPT tree lock that another host CPU tries for, and fails, as soon as it is taken."""

    __slots__ = ()

    def try_shared(self) -> int:
        payload = super().try_shared()
        if payload >= 0:
            self.raise_host_priority()
        return payload

    def try_exclusive(self) -> int:
        payload = super().try_exclusive()
        if payload >= 0:
            self.raise_host_priority()
        return payload


_Lock = HostPriorityWord | SharedExclusiveLock | _EntryLock


class OtherCpu:
    """Another CPU inside the module; ``step`` makes it do what an ``@`` call says."""

    def __init__(self, module: TdxModule, place: str) -> None:
        self._module = module
        self._place = place
        self._held: list[tuple[Json, _Lock]] = []
        self._contend_next = False

    def step(self, call: Json) -> None:
        """Do one ``@`` call.  Raises InputError for one that is not known."""
        name = call["leaf"]
        if name == "@HOLD":
            self.hold(call)
        elif name == "@RELEASE":
            self._release(call)
        elif name == "@EPOCH_REFCOUNT":
            self._td(call).epoch_readers[call["index"]].store(call["value"])
        elif name == "@INTERRUPT_PENDING":
            self._module.interrupt_pending = bool(call["value"])
        elif name == "@TREE_LOCK_CONTENDED_NEXT":
            self._contend_next = True
        elif name == "@SET_4K_TYPE":
            page = self._number(call, "hpa") >> PAGE_SHIFT
            entries = self._module.pamt.region(page >> 9).entries
            entries.store(page & _INDEX_MASK, _TYPES[call["type"]])
        else:
            raise InputError(f"{self._place}: leaf {name!r}; expected a known step of another CPU")

    def hold(self, call: Json) -> None:
        """Take the lock that ``call`` names, which must be free for it."""
        lock = self._lock(call)
        mode = call["mode"]
        if mode == "host_priority" and not isinstance(lock, SharedExclusiveLock):
            lock.raise_host_priority()
            return
        if mode not in ("shared", "exclusive"):
            raise InputError(f"{self._place}: mode {mode!r}; not one of this lock")
        taken = lock.try_shared() if mode == "shared" else lock.try_exclusive()
        if taken == BUSY:
            raise InputError(f"{self._place}: @HOLD of a lock that is not free")
        self._held.append((_named(call), lock))

    def release_all(self) -> None:
        """Drop every lock still held."""
        while self._held:
            named, lock = self._held.pop()
            _drop(lock, named["mode"])

    @contextmanager
    def beside(self, tdr: int) -> Iterator[None]:
        """While a call on the TD at ``tdr`` runs: the contention asked for, if any."""
        if not self._contend_next:
            yield
            return
        self._contend_next = False
        td = self._module.tds.at(tdr >> PAGE_SHIFT)
        tree = td.tree
        if not isinstance(tree, HostPriorityWord):
            raise InputError(f"{self._place}: this release's S-EPT tree lock has no host priority")
        contended = _ContendedTree()
        contended.restore(tree.capture())
        lp = self._module.processor(0)
        locks = lp.locks
        lp.locks = StepLockSet()
        td.tree = contended
        try:
            yield
        finally:
            tree.restore(contended.capture())
            td.tree = tree
            lp.locks = locks

    def _release(self, call: Json) -> None:
        wanted = _named(call)
        for index, (named, lock) in enumerate(self._held):
            if named == wanted:
                _drop(lock, named["mode"])
                del self._held[index]
                return
        raise InputError(f"{self._place}: @RELEASE of a lock that is not held")

    def _lock(self, call: Json) -> _Lock:
        module = self._module
        if "level" in call:
            hpa = self._number(call, "hpa")
            if call["level"] == "1G":
                return module.pamt.block(hpa >> LEVEL_SHIFTS[2]).first
            region = module.pamt.region(hpa >> LEVEL_SHIFTS[1])
            if call["level"] == "2M":
                return region.first
            return _EntryLock(region.entries, hpa >> PAGE_SHIFT & _INDEX_MASK)
        name = call["lock"]
        if name == "KOT":
            return module.keys.kot_lock
        if name == "TDMR":
            return module.tdmrs.all[call["index"]].lock
        if name == "OP_STATE":
            return self._td(call).op_state
        if name == "SEPT_TREE":
            return self._td(call).tree
        if name == "TD_EPOCH":
            return self._td(call).epoch_lock
        if name == "SEPT_ENTRY":
            return self._sept_entry(call)
        raise InputError(f"{self._place}: lock {name!r}; not known")

    def _sept_entry(self, call: Json) -> _EntryLock:
        eptp = self._td(call).eptp.load()
        frame = eptp >> EPTP_ROOT_SHIFT
        level = ((eptp & EPTP_LEVELS_MASK) >> EPTP_LEVELS_SHIFT) - 1
        gfn = self._number(call, "gpa") >> PAGE_SHIFT
        while True:
            index = gfn >> SEPT_INDEX_BITS * level & _INDEX_MASK
            table = self._module.tds.sept.find(frame)
            if level == call["septlevel"]:
                return _EntryLock(table, index)
            frame = table.load(index) >> FRAME_SHIFT
            level -= 1

    def _td(self, call: Json) -> Td:
        return self._module.tds.at(self._number(call, "tdr") >> PAGE_SHIFT)

    def _number(self, call: Json, key: str) -> int:
        return number(call[key], f"{self._place}: {call.get('leaf', 'held')}")


def _named(call: Json) -> Json:
    return {key: value for key, value in call.items() if key != "leaf"}


def _drop(lock: _Lock, mode: str) -> None:
    if mode == "shared":
        lock.release_shared()
    else:
        lock.release_exclusive()
