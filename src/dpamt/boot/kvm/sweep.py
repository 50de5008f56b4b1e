"""Each SEAMCALL of a small TD's life failed in turn, one life for each.

The first life is left in peace: its SEAMCALLs, each by its leaf and by how many of that leaf came
before it, are those that fail in the lives after it.  One boot has them all.  The answer is
dictated: the module does not see the call.  What KVM does about it, and what it does not give back,
is shown by life.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from dpamt.abi.leaves import leaf_name
from dpamt.boot.console import Complaint
from dpamt.boot.forced import status_of
from dpamt.boot.kvm.guest import ACCEPT, SHARE, UNSHARE, word
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.told import read_vmm

MOST_LIVES: Final = 400
_PAGES: Final = 512
_IMAGE: Final = 1
_BEFORE: Final = "boot"
_PHASE: Final = re.compile(r"^dpamt: phase (\d+)$")
_FAILED: Final = re.compile(r"SEAMCALL (TDH_\w+) failed: (0x[0-9a-f]+)")
_ITS_WARNING: Final = re.compile(r"\b(?:vmx/tdx\.c|tdx/tdx\.c|kvm_host\.h|mmu/\w+\.c):\d+ at ")
"""Where KVM and the core WARN of a SEAMCALL that failed: __TDX_BUG_ON, KVM_BUG_ON, get and put."""

_WORDS: Final = (word(ACCEPT, _IMAGE, 2), word(SHARE, _IMAGE, 1), word(UNSHARE, _IMAGE, 1))
LIFE_TD: Final = f"td 0 1 {_PAGES} {_IMAGE}"
"""The TD of a life: one vCPU."""
LIFE: Final = ("build 0", f"words 0 0 {' '.join(map(str, _WORDS))}", "go", "close 0")
"""A life: built, two pages accepted, one converted, closed."""


@dataclass(slots=True)
class Life:
    """A life in which call ``nth`` of a leaf fails, if it comes to it."""

    number: int
    leaf: int
    nth: int
    came: bool = False
    """Whether the call was made: a page pair may be there already."""
    reactions: list[str] = field(default_factory=list)
    """What the VMM got and the kernel said."""
    tds: int = 0
    pages: int = 0
    pairs: int = 0
    """Left behind by this life."""
    freed: int = 0
    """Pages of those that the kernel has freed: it may give them to anybody."""


class Sweep:
    """Which call fails, and the lives so far."""

    def __init__(self, status: str) -> None:
        self.status_name = status
        self.status = status_of(f"--sweep {status}", status)
        self.calls: list[tuple[int, int]] = []
        """(Leaf, number of it) of each SEAMCALL of the life in peace."""
        self.lives: list[Life] = []
        self.done = False
        self._began = False
        self._of_leaf: Counter[int] = Counter()

    def answer(self, leaf: int) -> int | None:
        """The status that a SEAMCALL gets; None: the module answers."""
        if not self._began or self.done:
            return None
        self._of_leaf[leaf] += 1
        call = leaf, self._of_leaf[leaf]
        if not self.lives:
            self.calls.append(call)
            return None
        life = self.lives[-1]
        if call != (life.leaf, life.nth):
            return None
        life.came = True
        return self.status

    def next_life(self, stocks: list[PhaseStock]) -> bool:
        """A life has ended, or boot has; False: there is nothing more to fail."""
        self._of_leaf.clear()
        if not self._began:
            self._began = True
            return True
        if self.lives:
            life, now, before = self.lives[-1], stocks[-1], stocks[-2]
            life.tds = now.tds - before.tds
            life.pages = now.pages - before.pages
            life.pairs = now.pairs - before.pairs
            life.freed = max(now.freed_pages - before.freed_pages, 0)
        if len(self.lives) == len(self.calls):
            self.done = True
            return False
        leaf, nth = self.calls[len(self.lives)]
        self.lives.append(Life(len(self.lives) + 1, leaf, nth))
        return True

    def finish(self, console: list[str], tds: tuple[str, ...]) -> None:
        """What was said in each life."""
        slices: dict[int, list[str]] = {}
        number = 0
        for line in console:
            found = _PHASE.match(line)
            if found is not None:
                number = int(found[1])
            slices.setdefault(number, []).append(line)
        for life in self.lives:
            lines = slices.get(life.number + 1, [])  # after the phases of boot and of peace
            told = read_vmm([*lines, "dpamt: end passed 0 failed 0"], tds)
            said = dict.fromkeys(
                f"SEAMCALL {found[1]} failed" for line in lines if (found := _FAILED.search(line))
            )
            life.reactions = list(dict.fromkeys([*told.troubles, *said]))


def expected_warnings(complaints: list[Complaint]) -> list[Complaint]:
    """The kernel's own words about SEAMCALLs that failed, among all its complaints."""
    return [
        one
        for one in complaints
        if one.kind == "WARNING" and _ITS_WARNING.search(f"{one.text} ") is not None
    ]


def sweep_script(lives: int = MOST_LIVES) -> Script:
    """As many lives of a TD with one vCPU: built, two pages accepted, one converted, closed."""
    lines = [LIFE_TD, "phase 1"]
    for number in range(1, lives + 1):
        lines += [*LIFE, f"phase {number + 1}"]
    names = (_BEFORE, "in peace", *(f"life {number}" for number in range(1, lives)))
    return Script("\n".join(lines) + "\n", names, ("the TD",))


def title(life: Life) -> str:
    """``TDH.MNG.ADDCX, 3rd``."""
    return f"{leaf_name(life.leaf)}, call {life.nth} of it"
