"""What a run with KVM came to, phase by phase: SEAMCALLs by leaf, page pairs, pages in use."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dpamt.abi.pages import PT_EPT, PT_REG
from dpamt.module.view import ModuleView

if TYPE_CHECKING:
    from dpamt.boot.outcome import Booted

BEFORE: Final = "boot"
"""What the kernel asked before the first TD."""


@dataclass(frozen=True, slots=True)
class PhaseStock:
    """One phase: SEAMCALLs in it by leaf and status; at its end, what the module has."""

    name: str
    seamcalls: dict[tuple[int, int], int]
    pairs: int
    tds: int
    guest_pages: int
    sept_pages: int
    control_pages: int
    freed_pages: int = 0
    """Of all these and the pairs': pages that the kernel has freed all the same."""

    @property
    def pages(self) -> int:
        """What TDs have."""
        return self.guest_pages + self.sept_pages + self.control_pages


class Stocks:
    """Takes stock at the end of each phase, in their order."""

    def __init__(self, phases: tuple[str, ...]) -> None:
        self._phases = phases
        self._told: Counter[tuple[int, int]] = Counter()

    def take(self, number: int, booted: "Booted", freed_pages: int = 0) -> PhaseStock:
        """The phase that has just ended, ``number`` from 1."""
        name = self._phases[number - 1] if number <= len(self._phases) else f"phase {number}"
        since = {
            key: count - self._told[key]
            for key, count in booted.counts.items()
            if count != self._told[key]
        }
        self._told = Counter(booted.counts)
        if booted.module is None:
            return PhaseStock(name, since, 0, 0, 0, 0, 0)
        view = ModuleView(booted.module)
        types = Counter(use.type for use in view.used_pages().values())
        pairs = len(view.pairs()) if booted.module.pamt.dynamic else 0
        return PhaseStock(
            name,
            since,
            pairs,
            len(view.tds()),
            types[PT_REG],
            types[PT_EPT],
            types.total() - types[PT_REG] - types[PT_EPT],
            freed_pages,
        )
