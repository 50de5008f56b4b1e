"""SEAMCALLs that the module refuses by choice, and what a design may make of it.

Before a SEAMCALL that may be refused, the search goes every way: the call is made; or it is not,
and the answer is TDX_OPERAND_BUSY, TDX_RND_NO_ENTROPY (of leaves that draw random numbers, for each
of the ten tries that Linux makes), an error without remedy once, or such an error at each try of
that leaf on that CPU from then on.  With the last a design that tries again until it succeeds never
ends.  Refusals are bounded together with allocations that fail: one word counts both down.

A design may answer a refusal with a WARN and with an error returned, on the CPU that was refused;
and when PAMT.REMOVE was refused, the pair of that region stays, with a count that is one higher
than its users.  All else is as it always has to be: locks, pages, counts and pairs that agree.
"""

from typing import Final

from dpamt.abi.contention import BUSY_OPERANDS, DRAWS_ENTROPY
from dpamt.abi.leaves import (
    LEAF_NAMES,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_SEPT_ADD,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
)
from dpamt.abi.operands import OPERAND_NAMES, OPERAND_RCX
from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    status_name,
)
from dpamt.sync import Word
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Event, Recorder

PAIR_LEAVES: Final = (TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE)
"""What every design's get and put call."""
MAPPING_LEAVES: Final = (*PAIR_LEAVES, TDH_MEM_SEPT_ADD, TDH_MEM_PAGE_AUG)
"""The same, and what a fault calls under a get of its own."""
SPLITTING_LEAVES: Final = (*PAIR_LEAVES, TDH_MEM_PAGE_DEMOTE)
BUILDING_LEAVES: Final = (TDH_MNG_CREATE, TDH_MNG_ADDCX, TDH_VP_CREATE, TDH_VP_ADDCX)
"""What takes pages while a TD is made."""

_SHIFT: Final = 16
_OPERANDS: Final = {name: number for number, name in OPERAND_NAMES.items()}


class Refusals:
    """Who refuses; ``leaves`` are those that may be."""

    def __init__(
        self, shared: ObservedShared, recorder: Recorder, failures: Word, leaves: tuple[int, ...]
    ) -> None:
        self._left = failures
        self._cpus = shared.words("verify.refused.cpus")
        """1 for each CPU that was refused something."""
        self._always = shared.words("verify.refused.always")
        """The status of a leaf that a CPU is refused from now on, by CPU and leaf."""
        self.regions = shared.words("verify.refused.regions")
        """1 for each region whose PAMT.REMOVE was refused."""
        self._ways = {leaf: _ways(leaf) for leaf in leaves}
        self._recorder = recorder

    def answer(self, cpu: int, leaf: int, args: TdxModuleArgs) -> int:
        """The status of a SEAMCALL that is refused; 0: it is to be made."""
        ways = self._ways.get(leaf, ())
        if not ways:
            return 0
        for_good = self._always.at(cpu << _SHIFT | leaf)
        status = for_good.load()
        if status:
            self._left.load()  # others notice it: an endless retry is a circle of states
            return status
        chosen = self._recorder.choose(f"{LEAF_NAMES[leaf]} is refused", 1 + len(ways))
        if not chosen:
            return 0
        mine = self._left.add_unless(-1, 0)
        if not mine:
            return 0
        status, again = ways[chosen - 1]
        if again:
            for_good.store(status)
        refused = self._cpus.at(cpu)
        refused.store(1)
        if leaf == TDH_PHYMEM_PAMT_REMOVE:
            region = self.regions.at((args.rcx >> PAGE_SHIFT) // PAGES_PER_2M)
            region.store(1)
        return status

    def excuse(self, cpu: int) -> bool:
        """Whether the CPU was refused something; one step."""
        refused = self._cpus.at(cpu)
        was_refused = refused.load()
        return was_refused != 0

    def tell(self, leaf: int, status: int) -> None:
        """The refusal is an event of its own kind: no property takes it for the module's answer."""
        self._recorder.tell(Event("refused", f"{LEAF_NAMES[leaf]} -> {status_name(status)}"))

    def pairs_that_stay(self) -> set[int]:
        """Regions whose pair was not given back; for audits, no step."""
        return {region for region, _ in self.regions.non_zero()}


def _ways(leaf: int) -> tuple[tuple[int, bool], ...]:
    """(status, whether from then on) of each way that a leaf is refused."""
    ways: list[tuple[int, bool]] = []
    operands = BUSY_OPERANDS.get(leaf, ())
    if operands:
        ways.append((TDX_OPERAND_BUSY | _OPERANDS[operands[0]], False))
    if leaf in DRAWS_ENTROPY:
        ways.append((TDX_RND_NO_ENTROPY, True))
    hard = TDX_OPERAND_INVALID | OPERAND_RCX
    if leaf in SPLITTING_LEAVES:  # a design may try these again itself
        ways.append((hard, False))
    return (*ways, (hard, True))
