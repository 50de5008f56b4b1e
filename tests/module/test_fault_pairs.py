"""Of two things that are wrong with a call, the one that the reference looks at first is told.

Whatever is told, the call leaves no lock behind, and gives what its leaf gives by default.
"""

from itertools import combinations

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.module.view import ModuleView
from dpamt.sync.host_priority import EX, HP
from tests.module.fault_tables import CASES
from tests.module.recipes import RECIPES
from tests.module.rig import Rig

DEFAULTS_TO_0 = frozenset(
    {
        leaf.TDH_MEM_SEPT_ADD,
        leaf.TDH_MEM_SEPT_REMOVE,
        leaf.TDH_MEM_SEPT_RD,
        leaf.TDH_MEM_PAGE_ADD,
        leaf.TDH_MEM_PAGE_AUG,
        leaf.TDH_MEM_PAGE_REMOVE,
        leaf.TDH_MEM_PAGE_RELOCATE,
        leaf.TDH_MEM_PAGE_DEMOTE,
        leaf.TDH_MEM_PAGE_PROMOTE,
        leaf.TDH_MEM_RANGE_BLOCK,
        leaf.TDH_MEM_RANGE_UNBLOCK,
        leaf.TDH_MR_EXTEND,
    }
)
"""Leaves with default outputs RCX = RDX = 0."""


@pytest.mark.parametrize("release", ["1.5.25", "2.0.18"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{leaf.LEAF_NAMES[case[0]]} {case[2]}")
def test_the_earlier_of_two_faults_is_told(case: tuple[int, int, str], release: str) -> None:
    rig = Rig(release=release)
    call = RECIPES[case](rig)
    before = rig.module.shared.snapshot()
    faults = CASES[case](call)
    met = 0
    for first, second in [*((fault, fault) for fault in faults), *combinations(faults, 2)]:
        if first is not second and first.touches & second.touches:
            continue
        registers = call | first.registers | second.registers
        for fault in {first.name: first, second.name: second}.values():
            if fault.prepare is not None:
                fault.prepare(rig)
        held = _locks(rig)
        status, args = rig.call(case[0], case[1], **registers)
        told = f"{first.name} and {second.name}: {s.status_name(status)} {status:#x}"
        assert status == first.status, told
        if case[0] in DEFAULTS_TO_0 and not first.shown:
            assert (args.rcx, args.rdx) == (0, 0), told
        if case[0] in DEFAULTS_TO_0 and first.shown:
            assert args.rcx or args.rdx, told
        assert _locks(rig) == held, told
        met += 1
        rig.module.shared.restore(before)
        rig.module.interrupt_pending, rig.module.entropy_available = False, True
    assert met > len(faults)
    rig.must(case[0], case[1], **call)


def _locks(rig: Rig) -> dict[str, int]:
    """Where a lock is held: exclusively (1; counts mean nothing then), or by how many readers."""
    held = ModuleView(rig.module).held_locks()
    return {lock.where: lock.word & EX or lock.word & ~HP for lock in held}
