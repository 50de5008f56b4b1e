"""The mirror page table: what KVM believes the S-EPT to be, one word per entry.

    63:4 page frame | 3 frozen | 1 leaf | 0 present

The word of the entry of a level that covers a GPA is at that GPA shifted by the level's shift; an
entry that is not present is 0.  A frozen entry belongs to the CPU that froze it, until that CPU
writes it again.

Source: Linux arch/x86/kvm/mmu/tdp_mmu.c, mmu/spte.h (FROZEN_SPTE).
"""

from typing import Final

from dpamt.abi.pages import LEVEL_4K, LEVEL_PML4E
from dpamt.sync import Shared, Words

PRESENT: Final = 1
LEAF: Final = 2
FROZEN: Final = 8
PFN_SHIFT: Final = 4

PRESENT_LEAF: Final = PRESENT | LEAF

TOP_LEVEL: Final = LEVEL_PML4E
"""Level of the root's entries: a four-level S-EPT."""


def mirror_name(vm_id: int, level: int) -> str:
    """Name of a VM's array of that level."""
    return f"kvm.{vm_id}.mirror.{level}"


def make_mirror(shared: Shared, vm_id: int) -> tuple[Words, ...]:
    """The arrays of all levels, 4K first."""
    return tuple(
        shared.words(mirror_name(vm_id, level)) for level in range(LEVEL_4K, TOP_LEVEL + 1)
    )


def forget_mirror(shared: Shared, vm_id: int) -> None:
    """Drop the arrays of a VM that is gone."""
    for level in range(LEVEL_4K, TOP_LEVEL + 1):
        shared.forget(mirror_name(vm_id, level))
