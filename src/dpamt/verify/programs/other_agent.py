"""Somebody in the module who is no thread of the program and holds a lock that a SEAMCALL wants.

That is a choice, made before a SEAMCALL: the agent takes the very lock behind one of the operands
that TDX_OPERAND_BUSY can name, and lets go of it when the SEAMCALL has answered.  The answer, and
the host-priority flag that stays behind, are the module's own.

Source: Linux arch/x86/kvm/vmx/tdx.c (tdx_no_vcpus_enter_start: what contends with the zap and the
fault: TDH.VP.ENTER of zero-step mitigation, TDG.MEM.PAGE.ACCEPT); reference F.5, F.6.
"""

from typing import Final

from dpamt.abi.leaves import (
    LEAF_NAMES,
    RAX_LEAF_MASK,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.other_cpu import lock_behind
from dpamt.module.processor import LogicalProcessor
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Recorder

Holds = tuple[tuple[int, tuple[str, ...]], ...]
"""By leaf: the operands whose locks the agent may hold."""

GUEST: Final[Holds] = (
    (TDH_MEM_SEPT_ADD, ("SEPT_TREE", "RCX")),
    (TDH_MEM_PAGE_AUG, ("SEPT_TREE", "RCX")),
    (TDH_MEM_RANGE_BLOCK, ("SEPT_TREE", "RCX")),
    (TDH_MEM_TRACK, ("TD_EPOCH",)),
    (TDH_MEM_PAGE_REMOVE, ("SEPT_TREE", "RCX")),
    (TDH_MEM_PAGE_DEMOTE, ("SEPT_TREE", "RCX")),
)
"""What a VCPU of the TD holds: the tree and the epoch as it enters, an entry as it accepts."""
PAIRS: Final[Holds] = ((TDH_PHYMEM_PAMT_ADD, ("RCX",)), (TDH_PHYMEM_PAMT_REMOVE, ("RCX",)))
"""A holder of the 2M entry of the region: no kernel's rules know of one."""


class OtherAgent:
    """The agent; it gets in the way ``times`` times in all."""

    def __init__(
        self, shared: ObservedShared, recorder: Recorder, holds: Holds, times: int
    ) -> None:
        self._left = shared.words("verify.busy").at(0)
        self._left.store(times)
        self._holds = dict(holds)
        self._recorder = recorder

    def call(self, lp: LogicalProcessor, rax: int, args: TdxModuleArgs) -> int:
        """The SEAMCALL; perhaps the agent holds one of its locks."""
        leaf = rax & RAX_LEAF_MASK
        operands = self._holds.get(leaf, ())
        if operands:
            left = self._left.load()
            if left:
                what = f"another agent holds a lock of {LEAF_NAMES[leaf]}"
                chosen = self._recorder.choose(what, 1 + len(operands))
                if chosen:
                    return self._in_the_way(lp, operands[chosen - 1], left, rax, args)
        return lp.seamcall(rax, args)

    def _in_the_way(
        self, lp: LogicalProcessor, operand: str, left: int, rax: int, args: TdxModuleArgs
    ) -> int:
        lock = lock_behind(lp, rax & RAX_LEAF_MASK, operand, args)
        mine = False
        if lock is not None:
            mine = self._left.compare_and_swap(left, left - 1)
        if lock is not None and mine:
            before = lock.try_exclusive()
            mine = before >= 0
        status = lp.seamcall(rax, args)
        if lock is not None and mine:
            lock.release_exclusive()
        return status
