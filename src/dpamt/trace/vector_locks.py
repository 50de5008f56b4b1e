"""The other CPU of a vector file: it takes and drops locks of the module, and changes what it must.

Its steps are the calls whose leaf begins with ``@``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_TYPE_NAMES
from dpamt.abi.sept import SEPT_INDEX_BITS
from dpamt.errors import InputError
from dpamt.module.module import TdxModule
from dpamt.module.other_cpu import EntryLock, Lock, sept_entry_lock
from dpamt.module.pamt import PamtRegion
from dpamt.module.td import Td
from dpamt.sync import BUSY, HostPriorityWord, SharedExclusiveLock, StepLockSet
from dpamt.trace.vector_file import Json, number

_TYPES: Final = {name: value for value, name in PAGE_TYPE_NAMES.items()}
_INDEX_MASK: Final = (1 << SEPT_INDEX_BITS) - 1


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


class OtherCpu:
    """Another CPU inside the module; ``step`` makes it do what an ``@`` call says."""

    def __init__(self, module: TdxModule) -> None:
        self._module = module
        self._held: list[tuple[Json, Lock]] = []
        self._contend_next = False

    def step(self, call: Json, place: str) -> None:
        """Do one ``@`` call.  Raises InputError for one that cannot be done now."""
        name = call["leaf"]
        if name == "@HOLD":
            self.hold(call, place)
        elif name == "@RELEASE":
            self._release(call, place)
        elif name == "@EPOCH_REFCOUNT":
            value = number(call["value"], place)
            self._td(call, place).epoch_readers[call["index"]].store(value)
        elif name == "@INTERRUPT_PENDING":
            self._module.interrupt_pending = bool(call["value"])
        elif name == "@TREE_LOCK_CONTENDED_NEXT":
            self._contend_next = True
        else:
            page = number(call["hpa"], place) >> PAGE_SHIFT
            entries = self._region(page, place).entries
            entries.store(page & _INDEX_MASK, _TYPES[call["type"]])

    def hold(self, call: Json, place: str) -> None:
        """Take the lock that ``call`` names, which must be free for it."""
        lock = self._lock(call, place)
        mode = call["mode"]
        if mode == "host_priority":
            if isinstance(lock, SharedExclusiveLock):
                raise InputError(f"{place}.mode: {mode!r}; this lock has no host priority")
            lock.raise_host_priority()
            return
        taken = lock.try_shared() if mode == "shared" else lock.try_exclusive()
        if taken == BUSY:
            raise InputError(f"{place}: @HOLD of a lock that is not free")
        self._held.append((_named(call), lock))

    def release_all(self) -> None:
        """Drop every lock still held."""
        while self._held:
            named, lock = self._held.pop()
            _drop(lock, named["mode"])

    @contextmanager
    def beside(self, tdr: int, place: str) -> Iterator[None]:
        """While a call on the TD at ``tdr`` runs: the contention asked for, if any."""
        if not self._contend_next:
            yield
            return
        self._contend_next = False
        td = self._module.tds.at(tdr >> PAGE_SHIFT)
        tree = td.tree
        if not isinstance(tree, HostPriorityWord):
            raise InputError(f"{place}: this release's S-EPT tree lock has no host priority")
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

    def running_td(self, call: Json, place: str) -> Td:
        """The TD of a guest's call: one that MNG.INIT has made."""
        td = self._td(call, place)
        if not td.op_state.load():
            raise InputError(f"{place}.tdr: {call['tdr']}; expected a TD after MNG.INIT")
        return td

    def _release(self, call: Json, place: str) -> None:
        wanted = _named(call)
        for index, (named, lock) in enumerate(self._held):
            if named == wanted:
                _drop(lock, named["mode"])
                del self._held[index]
                return
        raise InputError(f"{place}: @RELEASE of a lock that is not held")

    def _lock(self, call: Json, place: str) -> Lock:
        module = self._module
        if "level" in call:
            page = number(call["hpa"], place) >> PAGE_SHIFT
            region = self._region(page, place)
            if call["level"] == "1G":
                return module.pamt.block(page >> 2 * SEPT_INDEX_BITS).first
            if call["level"] == "2M":
                return region.first
            return EntryLock(region.entries, page & _INDEX_MASK)
        name = call["lock"]
        if name == "KOT":
            return module.keys.kot_lock
        if name == "TDMR":
            if call["index"] >= len(module.tdmrs.all):
                raise InputError(f"{place}.index: {call['index']}; there is no such TDMR")
            return module.tdmrs.all[call["index"]].lock
        if name == "OP_STATE":
            return self._td(call, place).op_state
        if name == "SEPT_TREE":
            return self._td(call, place).tree
        if name == "TD_EPOCH":
            return self._td(call, place).epoch_lock
        return self._sept_entry(call, place)

    def _region(self, page: int, place: str) -> PamtRegion:
        region = self._module.pamt.find_region(page >> SEPT_INDEX_BITS)
        if region is None:
            raise InputError(
                f"{place}.hpa: {page << PAGE_SHIFT:#x}; expected an address in a TDMR that is "
                "initialised so far"
            )
        return region

    def _sept_entry(self, call: Json, place: str) -> EntryLock:
        td = self.running_td(call, place)
        gfn = number(call["gpa"], place) >> PAGE_SHIFT
        lock = sept_entry_lock(self._module.processor(0), td, call["septlevel"], gfn)
        if lock is None:
            raise InputError(f"{place}: {call['gpa']} has no S-EPT entry at this septlevel")
        return lock

    def _td(self, call: Json, place: str) -> Td:
        return self._module.tds.at(number(call["tdr"], place) >> PAGE_SHIFT)


def _named(call: Json) -> Json:
    return {key: value for key, value in call.items() if key != "leaf"}


def _drop(lock: Lock, mode: str) -> None:
    if mode == "shared":
        lock.release_shared()
    else:
        lock.release_exclusive()
