"""Any SEAMCALL of the memory and VCPU leaves, with any registers, with and without short cuts.

Two modules get the same calls: one takes its locks by the short cuts of a plain run, the other one
by one.  They must answer and be alike, and nothing but an answer or a shutdown may come of it.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import NULL_PA, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import STATUS_MASK, STATUS_NAMES
from dpamt.module.fatal import ModuleFatal
from dpamt.module.view import ModuleView
from dpamt.sync import StepLockSet
from tests.module.rig import FIRST, PAIRS, PARAMS_L2, RESERVED, SOURCE, Rig

LEAVES = [
    leaf.TDH_MNG_ADDCX,
    leaf.TDH_MNG_INIT,
    leaf.TDH_VP_CREATE,
    leaf.TDH_VP_ADDCX,
    leaf.TDH_VP_INIT,
    leaf.TDH_VP_ENTER,
    leaf.TDH_VP_FLUSH,
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
    leaf.TDH_MEM_TRACK,
    leaf.TDH_MR_EXTEND,
    leaf.TDH_MR_FINALIZE,
    leaf.TDH_PHYMEM_PAMT_ADD,
    leaf.TDH_PHYMEM_PAMT_REMOVE,
]
TDR = FIRST
infos = st.sampled_from(
    [0, PAGE_SIZE, 1, 2, 3, 4, 7, SIZE_2M, SIZE_2M | 1, SIZE_2M + PAGE_SIZE, 1 << 30 | 1, 1 << 47]
)
pages = st.sampled_from(
    [FIRST + n * PAGE_SIZE for n in (0, 10, 65, 67, 100, 101, 102)]
    + [FIRST + n * SIZE_2M for n in (1, 16, 17)]
    + [PAIRS, PAIRS + PAGE_SIZE, RESERVED, SOURCE, PARAMS_L2, NULL_PA, 0]
)
oddities = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 8, 1 << 46, 1 << 51, 1 << 52, 1 << 63])
mostly_tdr = st.just(TDR) | st.just(TDR) | st.builds(int.__or__, pages, oddities)
operands = st.builds(int.__or__, pages, oddities) | st.integers(0, 2**64 - 1)
calls = st.tuples(
    st.sampled_from(LEAVES),
    st.sampled_from([0, 0, 0, 1, 2]),
    st.tuples(st.builds(int.__or__, infos, oddities) | operands, mostly_tdr, *[operands] * 6),
)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@settings(max_examples=60, deadline=None)
@given(
    release=st.sampled_from(["1.5.25", "2.0.08", "2.0.18"]),
    finalize=st.booleans(),
    l2_vms=st.integers(0, 1),
    interrupt=st.booleans(),
    steps=st.lists(calls, max_size=30),
)
def test_it_answers_alike_with_and_without_short_cuts(
    dynamic: bool,
    release: str,
    finalize: bool,
    l2_vms: int,
    interrupt: bool,
    steps: list[tuple[int, int, tuple[int, ...]]],
) -> None:
    quick, slow = Rig(dynamic, release), Rig(dynamic, release)
    slow.module.processor(0).locks = StepLockSet()
    for rig in (quick, slow):
        rig.make_td(TDR, rig.hkid + 1, finalize=finalize, l2_vms=l2_vms)
        rig.module.interrupt_pending = interrupt
    view = ModuleView(quick.module)
    for number, version, values in steps:
        registers = dict(zip(REGISTER_NAMES, values, strict=True))
        try:
            status, args = quick.call(number, version, **registers)
        except ModuleFatal as fatal:
            with pytest.raises(ModuleFatal, match=fatal.reason):
                slow.call(number, version, **registers)
            return
        assert (status, args) == slow.call(number, version, **registers)
        if number != leaf.TDH_VP_ENTER:
            assert status & STATUS_MASK in STATUS_NAMES
        assert all(0 <= value < 1 << 64 for value in args.as_tuple())
        assert view.check() == []
    assert quick.module.shared.snapshot() == slow.module.shared.snapshot()
