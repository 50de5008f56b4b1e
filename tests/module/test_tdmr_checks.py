"""TDMR validation against an oracle that looks at every elementary piece of the address space."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import status as s
from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SIZE, SIZE_1G
from dpamt.abi.registers import U64_MASK
from dpamt.abi.status import STATUS_MASK
from dpamt.abi.tdmr import TdmrInfo
from dpamt.module.refused import Refused
from dpamt.module.tdmr_checks import TdmrChecker, available_areas, pamt_area
from dpamt.platform.machine import Cmr

HKID_BITS = (1 << 52) - (1 << 46)
NOT_PRIVATE = U64_MASK & ~(MAX_PA_LIMIT - 1) | HKID_BITS
PIECE = SIZE_1G // 4
CMRS = (Cmr(0, 2 * SIZE_1G), Cmr(2 * SIZE_1G, 4 * SIZE_1G), Cmr(7 * SIZE_1G, 3 * SIZE_1G))


def verdict(tdmrs: list[TdmrInfo], dynamic: bool = True) -> int:
    checker = TdmrChecker(CMRS, NOT_PRIVATE, dynamic)
    try:
        for tdmr in tdmrs:
            checker.check(tdmr)
    except Refused as refused:
        return refused.status
    assert checker.accepted() == tdmrs
    return s.TDX_SUCCESS


pieces = st.integers(0, 40).map(lambda count: count * PIECE)
tdmr_infos = st.builds(
    TdmrInfo,
    base=st.integers(0, 10).map(lambda gib: gib * SIZE_1G),
    size=st.integers(1, 3).map(lambda gib: gib * SIZE_1G),
    pamt_1g_base=pieces,
    pamt_1g_size=st.just(PIECE),
    pamt_2m_base=pieces,
    pamt_2m_size=st.just(PIECE),
    pamt_4k_base=pieces,
    pamt_4k_size=st.just(PIECE),
    reserved=st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 4)).map(
            lambda area: (area[0] * PIECE, area[1] * PIECE)
        ),
        max_size=3,
    ),
)


def valid(tdmrs: list[TdmrInfo]) -> bool:
    """Piece by piece: who claims it?  Sizes are large enough by construction."""
    end = 0
    for tdmr in tdmrs:
        if tdmr.base < end:
            return False
        end = tdmr.end
        inside = 0
        for offset, size in tdmr.reserved:
            if offset < inside or offset + size > tdmr.size:
                return False
            inside = offset + size
    for piece in range(0, 64 * PIECE, PIECE):
        in_cmr = any(cmr.base <= piece < cmr.end for cmr in CMRS)
        claims = 0
        for tdmr in tdmrs:
            reserved = any(
                tdmr.base + offset <= piece < tdmr.base + offset + size
                for offset, size in tdmr.reserved
            )
            claims += tdmr.base <= piece < tdmr.end and not reserved
            claims += [tdmr.pamt_1g_base, tdmr.pamt_2m_base, tdmr.pamt_4k_base].count(piece)
        if claims > 1 or (claims and not in_cmr):
            return False
    return True


@given(tdmrs=st.lists(tdmr_infos, min_size=1, max_size=3))
@settings(max_examples=400, deadline=None)
def test_accepted_exactly_when_valid(tdmrs: list[TdmrInfo]) -> None:
    assert (verdict(tdmrs) == s.TDX_SUCCESS) is valid(tdmrs)


def good() -> TdmrInfo:
    return TdmrInfo(
        base=8 * SIZE_1G,
        size=2 * SIZE_1G,
        pamt_1g_base=SIZE_1G,
        pamt_1g_size=PAGE_SIZE,
        pamt_2m_base=SIZE_1G + PAGE_SIZE,
        pamt_2m_size=4 * PAGE_SIZE,
        pamt_4k_base=SIZE_1G + 5 * PAGE_SIZE,
        pamt_4k_size=16 * PAGE_SIZE,
        reserved=[(0, PAGE_SIZE), (SIZE_1G, PAGE_SIZE)],
    )


FAULTS: list[tuple[dict[str, object], int]] = [
    ({}, s.TDX_SUCCESS),
    ({"base": U64_MASK}, s.TDX_INVALID_TDMR),
    ({"base": 8 * SIZE_1G + PAGE_SIZE}, s.TDX_INVALID_TDMR),
    ({"size": 0}, s.TDX_INVALID_TDMR),
    ({"base": 1 << 46}, s.TDX_INVALID_TDMR),
    ({"base": 1 << 52}, s.TDX_INVALID_TDMR),
    ({"size": 5 * SIZE_1G}, s.TDX_INVALID_PAMT | 1 << 8),
    ({"pamt_1g_size": 0}, s.TDX_INVALID_PAMT | 2 << 8),
    ({"pamt_2m_size": 3 * PAGE_SIZE}, s.TDX_INVALID_PAMT | 1 << 8),
    ({"pamt_4k_size": 15 * PAGE_SIZE}, s.TDX_INVALID_PAMT),
    ({"pamt_4k_base": SIZE_1G + 1}, s.TDX_INVALID_PAMT),
    ({"pamt_4k_base": U64_MASK & -PAGE_SIZE}, s.TDX_INVALID_PAMT),
    ({"pamt_2m_base": SIZE_1G}, s.TDX_PAMT_OVERLAP | 1 << 8),
    ({"pamt_4k_base": 9 * SIZE_1G}, s.TDX_PAMT_OVERLAP),
    ({"pamt_4k_base": 6 * SIZE_1G}, s.TDX_PAMT_OUTSIDE_CMRS),
    ({"pamt_1g_base": 6 * SIZE_1G}, s.TDX_PAMT_OUTSIDE_CMRS | 2 << 8),
    ({"base": 9 * SIZE_1G}, s.TDX_TDMR_OUTSIDE_CMRS),
    ({"reserved": [(0, 0), (0, PAGE_SIZE)]}, s.TDX_NON_ORDERED_RESERVED_IN_TDMR),
    (
        {"reserved": [(0, 4096), (8192, 0), (8192, 0), (8192, 4096)]},
        s.TDX_NON_ORDERED_RESERVED_IN_TDMR | 2 << 8,
    ),
    ({"reserved": [(PAGE_SIZE, U64_MASK)]}, s.TDX_INVALID_RESERVED_IN_TDMR),
    ({"reserved": [(0, 8192), (4096, 4096)]}, s.TDX_NON_ORDERED_RESERVED_IN_TDMR | 1 << 8),
    ({"reserved": [(0, 4096), (4096, 1)]}, s.TDX_INVALID_RESERVED_IN_TDMR | 1 << 8),
    ({"reserved": [(2 * SIZE_1G, 4096)]}, s.TDX_INVALID_RESERVED_IN_TDMR),
]


def test_each_fault_has_its_status_and_its_place() -> None:
    for fault, expected in FAULTS:
        tdmr = good()
        for name, value in fault.items():
            setattr(tdmr, name, value)
        assert verdict([tdmr]) == expected, fault


def test_tdmrs_must_ascend_and_say_which() -> None:
    first = good()
    first.base, first.size = 7 * SIZE_1G, SIZE_1G
    first.reserved = []
    first.pamt_1g_base, first.pamt_2m_base, first.pamt_4k_base = (
        SIZE_1G // 2,
        SIZE_1G // 2 + PAGE_SIZE,
        SIZE_1G // 2 + 8 * PAGE_SIZE,
    )
    second = good()
    assert verdict([first, second]) == s.TDX_SUCCESS
    assert verdict([second, first]) == s.TDX_NON_ORDERED_TDMR | 1
    second.pamt_2m_base = first.pamt_4k_base
    assert verdict([first, second]) == s.TDX_PAMT_OVERLAP | 1 | 1 << 8
    second = good()
    second.pamt_4k_base = 7 * SIZE_1G
    assert verdict([first, second]) == s.TDX_PAMT_OVERLAP | 1


def test_a_pamt_area_in_available_memory_is_named_by_its_own_tdmr() -> None:
    """The areas of the TDMR being checked come before those of the lower one, at each pair."""
    first = good()
    first.base, first.size = 7 * SIZE_1G, SIZE_1G
    first.reserved = []
    first.pamt_1g_base = 9 * SIZE_1G + 2 * PAGE_SIZE
    first.pamt_2m_base = 8 * SIZE_1G + 2 * PAGE_SIZE
    first.pamt_4k_base = SIZE_1G // 2
    second = good()
    assert verdict([first]) == s.TDX_SUCCESS
    assert verdict([first, second]) == s.TDX_PAMT_OVERLAP | 0 | 1 << 8 | 1 << 16
    second.pamt_1g_base = 7 * SIZE_1G
    assert verdict([first, second]) == s.TDX_PAMT_OVERLAP | 1 | 2 << 8 | 0 << 16
    second.pamt_1g_base = 9 * SIZE_1G + 20 * PAGE_SIZE
    assert verdict([first, second]) == s.TDX_PAMT_OVERLAP | 0 | 1 << 8 | 1 << 16


@given(tdmr=tdmr_infos)
def test_static_needs_entries_where_dynamic_needs_bits(tdmr: TdmrInfo) -> None:
    """The 4K area may be 128 times smaller in dynamic mode; the other areas do not change."""
    needed = tdmr.size // PAGE_SIZE * 16
    for dynamic, least in ((False, needed), (True, needed // 128)):
        tdmr.pamt_4k_size = least - PAGE_SIZE
        refused = verdict([tdmr], dynamic)
        tdmr.pamt_4k_size = least
        assert (refused == s.TDX_INVALID_PAMT) >= (verdict([tdmr], dynamic) == s.TDX_SUCCESS)
        assert verdict([tdmr], dynamic) & STATUS_MASK != s.TDX_INVALID_PAMT


def test_available_areas_and_reserved_areas_make_the_tdmr() -> None:
    tdmr = good()
    available = sum(end - start for start, end in available_areas(tdmr))
    assert available + sum(size for _, size in tdmr.reserved) == tdmr.size
    assert pamt_area(tdmr, 0) == (tdmr.pamt_4k_base, tdmr.pamt_4k_base + tdmr.pamt_4k_size)
