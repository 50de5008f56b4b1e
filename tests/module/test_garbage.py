"""No register contents make a leaf do anything but answer, and a refusal changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import ERROR_BIT, STATUS_NAMES
from dpamt.module.fatal import ModuleFatal
from dpamt.module.view import ModuleView
from tests.module.rig import FIRST, PAIRS, RESERVED, Rig

LEAVES = [
    leaf.TDH_MNG_CREATE,
    leaf.TDH_MNG_KEY_CONFIG,
    leaf.TDH_MNG_VPFLUSHDONE,
    leaf.TDH_MNG_KEY_FREEID,
    leaf.TDH_MNG_KEY_RECLAIMID,
    leaf.TDH_PHYMEM_CACHE_WB,
    leaf.TDH_PHYMEM_PAGE_RDMD,
    leaf.TDH_PHYMEM_PAGE_RECLAIM,
    leaf.TDH_PHYMEM_PAGE_WBINVD,
    leaf.TDH_PHYMEM_PAMT_ADD,
    leaf.TDH_PHYMEM_PAMT_REMOVE,
    leaf.TDH_SYS_CONFIG,
    leaf.TDH_SYS_INIT,
    leaf.TDH_SYS_KEY_CONFIG,
    leaf.TDH_SYS_LP_INIT,
    leaf.TDH_SYS_RD,
    leaf.TDH_SYS_TDMR_INIT,
]
TDR = FIRST
addresses = st.sampled_from(
    [FIRST + index * PAGE_SIZE for index in range(12)]
    + [FIRST + index * SIZE_2M for index in range(4)]
    + [PAIRS, PAIRS + PAGE_SIZE, RESERVED, 0, FIRST - PAGE_SIZE]
)
bits = st.sampled_from([0, 0, 0, 1, 2, 3, 8, 0x11, 1 << 45, 1 << 46, 1 << 51, 1 << 52, 1 << 63])
values = (
    st.builds(int.__or__, addresses, bits)
    | st.integers(0, 2**64 - 1)
    | st.integers(0, 70)
    | st.just(2**64 - 1)
)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(LEAVES),
            st.sampled_from([0, 0, 0, 1, 2]),
            st.lists(values, min_size=8, max_size=8),
        ),
        max_size=25,
    )
)
def test_any_registers(dynamic: bool, calls: list[tuple[int, int, list[int]]]) -> None:
    rig = Rig(dynamic=dynamic, release="2.0.18")
    rig.make_td(TDR, 40)
    view = ModuleView(rig.module)
    for number, version, registers in calls:
        before = rig.module.shared.snapshot()
        inputs = dict(zip(REGISTER_NAMES, registers, strict=True))
        try:
            status, args = rig.call(number, version, **inputs)
        except ModuleFatal:
            return
        assert status & ~0xFFFFFFFF in STATUS_NAMES
        assert all(0 <= value < 1 << 64 for value in args.as_tuple())
        assert view.check() == []
        assert rig.module.processor(0).version == 0
        if status & ERROR_BIT:
            assert rig.module.shared.snapshot() == before
