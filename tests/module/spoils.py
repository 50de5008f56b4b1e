"""Bugs to be put into the module, each of a kind that the fuzzer and the machine must find."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from dpamt.abi.pages import PAMT_PAGE_COUNT_MAX
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, TDX_MISSING_PAMT_PAGE_PAIR, TDX_OPERAND_BUSY
from dpamt.module.leaves import phymem_pamt
from dpamt.module.pamt import Pamt
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.sync import LockSet
from tests.module.rig import PAIRS


@dataclass(frozen=True)
class Spoil:
    """``owner.name`` becomes ``make(what it was)``; ``faults``: what the report may say."""

    name: str
    owner: Any
    attribute: str
    make: Callable[[Any], Any]
    faults: tuple[str, ...]
    common: bool = True
    """Whether some thousand calls meet it."""

    def into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        was = getattr(self.owner, self.attribute)
        monkeypatch.setattr(self.owner, self.attribute, self.make(was))


def _uncounted(method: Callable[..., int]) -> Callable[..., int]:
    def free_4k(self: Pamt, page: int) -> int:
        hint = method(self, page)
        if page % 3 == 0:
            self.regions[page >> 9].count.add(1)
        return hint

    return free_4k


def _shy(method: Callable[..., int]) -> Callable[..., int]:
    def seamcall(self: LogicalProcessor, rax: int, args: Any) -> int:
        status = method(self, rax, args)
        if status & STATUS_MASK == TDX_OPERAND_BUSY:
            self.module.global_lock.try_shared()
        return status

    return seamcall


def _keeps_a_path(method: Callable[..., int]) -> Callable[..., int]:
    """The 1G entry stays locked where a pair is missing."""

    def seamcall(self: LogicalProcessor, rax: int, args: TdxModuleArgs) -> int:
        status = method(self, rax, args)
        if status & STATUS_MASK == TDX_MISSING_PAMT_PAGE_PAIR:
            self.pamt.first_1g.at(4).try_shared()
        return status

    return seamcall


def _greedy(method: Callable[..., bool]) -> Callable[..., bool]:
    """A bit of the bitmap is set although the call is refused, outside of where pairs come from."""

    def take_pair_page(self: Pamt, page: int) -> bool:
        taken = method(self, page)
        if page < PAIRS >> 12:
            raise Refused(TDX_OPERAND_BUSY)
        return taken

    return take_pair_page


def _keeps_a_bit(_: Callable[..., None]) -> Callable[..., None]:
    return lambda self, page: None


def _clumsy(method: Callable[..., None]) -> Callable[..., None]:
    def set_bepoch(self: Pamt, page: int, level: int, epoch: int) -> None:
        [method][level](self, page, level, epoch)

    return set_bepoch


def _turned_pair(method: Callable[..., None]) -> Callable[..., None]:
    def install(self: Pamt, region: int, pair: tuple[int, int], entry: int, count: int) -> None:
        method(self, region, (pair[1], pair[0]), entry, count)

    return install


def _one_less(method: Callable[..., None]) -> Callable[..., None]:
    def install(self: Pamt, region: int, pair: tuple[int, int], entry: int, count: int) -> None:
        method(self, region, pair, entry, count - (count == PAMT_PAGE_COUNT_MAX))

    return install


def _takes_used_pages(method: Callable[..., None]) -> Callable[..., None]:
    def lock_pair_page(lp: LogicalProcessor, page: int, operand: int) -> None:
        try:
            method(lp, page, operand)
        except Refused as refused:
            if refused.status & STATUS_MASK == TDX_OPERAND_BUSY:
                raise

    return lock_pair_page


def _gives_no_owner(method: Callable[..., tuple[int, int]]) -> Callable[..., Any]:
    """RDMD and whoever looks a page up by it sees another page's owner."""

    def reached(self: Pamt, page: int, walked: int) -> tuple[int, int]:
        level, entry = method(self, page, walked)
        return level, entry & 0xFF if page & 1 else entry

    return reached


def _forgets_the_old(_: Callable[..., int]) -> Callable[..., int]:
    return lambda self, page: 0


def _leaves_count_behind(method: Callable[..., tuple[int, int]]) -> Callable[..., Any]:
    def remove_pair(self: Pamt, region: int, entry: int) -> tuple[int, int]:
        count = self.region(region).count.load()
        pair = method(self, region, entry)
        self.region(region).count.store(count)
        return pair

    return remove_pair


def _any_use_never(_: Callable[..., bool]) -> Callable[..., bool]:
    return lambda self, region: False


def _drops_exclusive(method: Callable[..., int]) -> Callable[..., int]:
    """What is held exclusively is taken, but not noted down to be released."""

    def exclusive(self: LockSet, lock: Any) -> int:
        payload = method(self, lock)
        if payload >= 0 and len(self._exclusive) > 1:
            self._exclusive.pop()
        return payload

    return exclusive


SPOILS = [
    Spoil("uncounted", Pamt, "free_4k", _uncounted, ("PAGE_COUNT",)),
    Spoil("shy", LogicalProcessor, "seamcall", _shy, ("module.sys.lock 0x0: lock word",)),
    Spoil(
        "keeps a path", LogicalProcessor, "seamcall", _keeps_a_path, ("pamt.1g 0x4: lock",), False
    ),
    Spoil("greedy", Pamt, "take_pair_page", _greedy, ("bitmap and pairs", "no pair holds it")),
    Spoil("keeps a bit", Pamt, "return_pair_page", _keeps_a_bit, ("bitmap and pairs",)),
    Spoil("clumsy", Pamt, "set_bepoch", _clumsy, ("raised IndexError",)),
    Spoil("turned pair", Pamt, "install_pair", _turned_pair, ("and the call says",)),
    Spoil("one less", Pamt, "install_pair", _one_less, ("PAGE_COUNT",)),
    Spoil(
        "takes used",
        phymem_pamt,
        "lock_pair_page",
        _takes_used_pages,
        ("in use are also PAMT", "has smaller ones in use"),
    ),
    Spoil("no owner", Pamt, "reached", _gives_no_owner, ("RDMD of",)),
    Spoil("forgets the old", Pamt, "free_4k", _forgets_the_old, ("CHLDCNT",)),
    Spoil(
        "count behind", Pamt, "remove_pair", _leaves_count_behind, ("PAGE_COUNT 512 with 0",), False
    ),
    Spoil("any use never", Pamt, "any_use_of", _any_use_never, ("has smaller ones in use",), False),
    Spoil("drops exclusive", LockSet, "exclusive", _drops_exclusive, ("lock word 0x1,",), False),
]
