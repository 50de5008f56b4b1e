"""The fourteen cases of the public Dynamic PAMT test, as data: which TDs, which sizes, what order.

Every TD has one VCPU.  A case begins on an idle host, then launches all its VMs, then closes them
one after another, and looks at the PAMT in use after each step; stress cases do it all again.

Source: intel/lkvs, BM/tdx-host/tdx_dpamt_test.sh and BM/tdx-host/tests (June 2025).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dpamt.plan.mix import TdMix

UNIT: Final = 1 << 30
"""Bytes that a "GB" of a case stands for."""

IDLE: Final = "idle"
LAUNCHED: Final = "launched"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A point at which the PAMT in use is read: its name, and the VMs (by index) alive there."""

    name: str
    alive: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A test: VMs in the order they are closed; ``tds[i]`` is None for a VM that is no TD."""

    name: str
    title: str
    tds: tuple[TdMix | None, ...]
    repeat: int = 1

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Those of one repetition, in order; the last has no VM alive."""
        yield Checkpoint(IDLE, ())
        if not self.tds:
            return
        everybody = tuple(range(len(self.tds)))
        yield Checkpoint(LAUNCHED, everybody)
        for index in everybody:
            yield Checkpoint(f"vm{index + 1}-closed", everybody[index + 1 :])


def case_of(number: int, unit: int = UNIT) -> Case:
    """A case of the public test, a "GB" of it ``unit`` bytes.  Raises KeyError for no such case."""
    title, sizes, repeat = _CASES[number]
    tds = tuple(None if size is None else TdMix(1, size * unit, 1, 0.0) for size in sizes)
    return Case(str(number), title, tds, repeat)


def case_of_tds(mixes: list[TdMix]) -> Case:
    """A case of one's own: TDs of these kinds, launched together and closed one by one."""
    tds = [TdMix(1, mix.memory, mix.vcpus, mix.share_2m) for mix in mixes for _ in range(mix.count)]
    return Case("td", f"{len(tds)} TD" + ("" if len(tds) == 1 else "s"), tuple(tds))


def most_tds(mixes: list[TdMix]) -> int:
    """TDs of such a case."""
    return sum(mix.count for mix in mixes)


_ONE_BY_ONE: Final = (1, 4, 8, 32, 96)

_CASES: Final[dict[int, tuple[str, tuple[int | None, ...], int]]] = {
    0: ("TDX is enabled, no VM (the public test reads no number here)", (), 1),
    1: ("Dynamic PAMT is enabled, no VM", (), 1),
    2: ("one TD of 1 GB", (1,), 1),
    3: ("one TD of 4 GB", (4,), 1),
    4: ("one TD of 96 GB", (96,), 1),
    5: ("two TDs of 1 GB, one closed after the other", (1, 1), 1),
    6: ("two TDs of 4 GB, one closed after the other", (4, 4), 1),
    7: ("two TDs of 96 GB, one closed after the other", (96, 96), 1),
    8: ("a VM that is not a TD, of 1 GB", (None,), 1),
    9: ("one TD of 1 GB beside a VM that is not a TD", (1, None), 1),
    10: ("TDs of 1 and 96 GB, 10 times", (1, 96), 10),
    11: ("TDs of 1, 4, 8, 32 and 96 GB closed one by one, 10 times", _ONE_BY_ONE, 10),
    12: ("TDs of 1 and 96 GB, 100 times", (1, 96), 100),
    13: ("TDs of 1, 4, 8, 32 and 96 GB closed one by one, 100 times", _ONE_BY_ONE, 100),
}
"""Number to title, sizes in GB (None: no TD) in the order of closing, repetitions."""

CASE_NUMBERS: Final = tuple(_CASES)
