"""PAMT.ADD and PAMT.REMOVE at the ends of a region: which half of a pair a page in use is in."""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.operands import OPERAND_R8, OPERAND_RAX, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import LEVEL_2M, PAGE_SIZE, SIZE_1G, SIZE_2M
from dpamt.module.fatal import ModuleFatal
from tests.module.rig import FIRST, PAIRS, SIZE, Rig

REGION = FIRST + 8 * SIZE_2M


@pytest.mark.parametrize(("index", "half"), [(0, 0), (1, 0), (255, 0), (256, 1), (511, 1)])
def test_a_page_in_use_is_told_by_its_half(index: int, half: int) -> None:
    rig = Rig()
    rig.add_pair(REGION)
    page = REGION + index * PAGE_SIZE
    rig.must(leaf.TDH_MNG_CREATE, rcx=page, rdx=rig.hkid + 1)
    status, args = rig.call(leaf.TDH_PHYMEM_PAMT_REMOVE, rcx=REGION | LEVEL_2M)
    assert status == s.TDX_PAMT_PAGE_NOT_EMPTY | half
    assert args.as_tuple()[1:] == (0,) * 7


def test_a_count_without_pages_is_fatal_and_named() -> None:
    rig = Rig()
    rig.add_pair(REGION)
    rig.module.pamt.region(REGION >> 21).count.store(2)
    with pytest.raises(ModuleFatal) as caught:
        rig.call(leaf.TDH_PHYMEM_PAMT_REMOVE, rcx=REGION | LEVEL_2M)
    assert caught.value.state == {"region": REGION, "count": 2}
    reason = "PAMT.REMOVE of a region without used pages but with a page count"
    assert caught.value.reason == reason


@pytest.mark.parametrize("register", ["rdx", "r8"])
def test_each_page_of_a_pair_is_looked_at(register: str) -> None:
    """Format, range, use, bitmap and lock, each with the operand of the register."""
    operand = OPERAND_RDX if register == "rdx" else OPERAND_R8
    rig = Rig()
    rig.add_pair(REGION)
    used = REGION + 5 * PAGE_SIZE
    rig.must(leaf.TDH_MNG_CREATE, rcx=used, rdx=rig.hkid + 1)
    free = {"rdx": PAIRS + SIZE_2M, "r8": PAIRS + SIZE_2M + PAGE_SIZE}
    bare = REGION + SIZE_2M
    held = PAIRS + 2 * SIZE_2M
    pamt = rig.module.pamt
    pamt.region(held >> 21).first.try_exclusive()
    for value, code in (
        (free[register] + 1, s.TDX_OPERAND_INVALID),
        (free[register] | 1 << 63, s.TDX_OPERAND_INVALID),
        (FIRST - PAGE_SIZE, s.TDX_OPERAND_ADDR_RANGE_ERROR),
        (FIRST + SIZE, s.TDX_OPERAND_ADDR_RANGE_ERROR),
        (used, s.TDX_PAGE_NOT_FREE),
        (PAIRS, s.TDX_PAGE_NOT_FREE),
        (held, s.TDX_OPERAND_BUSY),
    ):
        before = rig.module.shared.snapshot()
        call = free | {register: value}
        status, _ = rig.call(leaf.TDH_PHYMEM_PAMT_ADD, rcx=bare | LEVEL_2M, **call)
        assert status == code | operand, hex(value)
        if code != s.TDX_OPERAND_BUSY:
            assert rig.module.shared.snapshot() == before
    status, _ = rig.call(leaf.TDH_PHYMEM_PAMT_ADD, rcx=bare | LEVEL_2M, **free)
    assert status == s.TDX_SUCCESS
    pair = tuple(rig.call(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=bare | LEVEL_2M)[1].as_tuple()[4:6])
    assert pair == (free["rdx"], free["r8"])


def test_a_pair_may_lie_in_its_own_region_and_twice_in_none() -> None:
    rig = Rig()
    page = REGION + 511 * PAGE_SIZE
    status, _ = rig.call(leaf.TDH_PHYMEM_PAMT_ADD, rcx=REGION | 1, rdx=page, r8=page)
    assert status == s.TDX_PAGE_NOT_FREE | OPERAND_R8
    assert rig.module.pamt.region(REGION >> 21).bitmap.load() == 0
    rig.must(leaf.TDH_PHYMEM_PAMT_ADD, rcx=REGION | 1, rdx=REGION, r8=page)
    assert rig.module.pamt.region(REGION >> 21).bitmap.load() == 1 | 1 << 511
    back = rig.must(leaf.TDH_PHYMEM_PAMT_REMOVE, rcx=REGION | 1)
    assert (back.rdx, back.r8) == (REGION, page)


@pytest.mark.parametrize("number", [leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE])
def test_the_region_operand(number: int) -> None:
    rig = Rig()
    pair = {"rdx": PAIRS, "r8": PAIRS + PAGE_SIZE}
    for info in (REGION, REGION | 2, REGION | 3, REGION + PAGE_SIZE | 1, REGION | 1 << 63 | 1):
        status, _ = rig.call(number, rcx=info, **pair)
        assert status == s.TDX_OPERAND_INVALID | OPERAND_RCX, hex(info)
    for outside in (FIRST - SIZE_2M, FIRST + SIZE, SIZE_1G):
        status, _ = rig.call(number, rcx=outside | 1, **pair)
        assert status == s.TDX_OPERAND_ADDR_RANGE_ERROR | OPERAND_RCX
    rig.module.pamt.region(REGION >> 21).first.try_shared()
    status, _ = rig.call(number, rcx=REGION | 1, **pair)
    assert status == s.TDX_OPERAND_BUSY | OPERAND_RCX


@pytest.mark.parametrize("number", [leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE])
def test_static_pamt_knows_no_pairs(number: int) -> None:
    rig = Rig(dynamic=False)
    for info in (REGION | 1, REGION):
        status, _ = rig.call(number, rcx=info, rdx=PAIRS, r8=PAIRS + PAGE_SIZE)
        assert status == s.TDX_OPERAND_INVALID | OPERAND_RAX
