"""The S-EPT trees of L2 VMs: the walk, and which S-EPT pages they have beside those of the TD.

An L2 entry is guarded by the lock of the L1 entry of the same place, so it needs none of its own.
Here an L2 VM has only S-EPT pages: leaf aliases are made by the guest (TDG.MEM.PAGE.ATTR.WR),
which is not modelled.  The alias flags of an L1 entry are derived: VM ``vm`` has an alias where its
L2 entry is not free.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [sept_manager.c].
"""

from typing import Final

from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.sept import DETAILS_VM_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, show_entry
from dpamt.module.sept_checks import follow, highest_level
from dpamt.module.td import Td
from dpamt.sync import EntryPage

L2_STATUS_VM_SHIFT: Final = 16
"""Statuses about an L2 S-EPT: VM index in bits 31:16, level in 15:0."""


def l2_walk(
    lp: LogicalProcessor, td: Td, vm: int, level: int, gfn: int
) -> tuple[EntryPage, int, int]:
    """(L2 S-EPT page, index, level) of the entry of ``gfn`` reached on the way to ``level``."""
    highest = highest_level(td)
    root = td.l2_roots[vm].load()
    return follow(lp, root, highest, level, gfn)


def refuse_l2(
    args: TdxModuleArgs, status: int, vm: int, page: EntryPage, index: int, level: int
) -> None:
    """Refuse because of an L2 entry, and show it."""
    word = page.load(index)
    show_entry(args, word, level)
    args.rdx |= vm << DETAILS_VM_SHIFT
    raise Refused(status | vm << L2_STATUS_VM_SHIFT | level)


def l2_pages(
    lp: LogicalProcessor, td: Td, level: int, gfn: int
) -> list[tuple[int, EntryPage, int, int]]:
    """The L2 S-EPT pages below the entries of ``gfn`` at ``level``, ascending by VM.

    Each is (VM, L2 S-EPT page that points to it, index, its page frame number).
    """
    aliases = []
    l2_vms = td.l2_vms.load()
    for vm in range(1, l2_vms + 1):
        page, index, reached = l2_walk(lp, td, vm, level, gfn)
        word = page.load(index)
        if reached == level and word:
            aliases.append((vm, page, index, word >> FRAME_SHIFT))
    return aliases
