"""A 1G page of a TD: what the leaves see that meet its 1G entry, and how it goes."""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi import status as s
from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGES_PER_1G,
    PT_REG,
    SIZE_1G,
    SIZE_2M,
)
from dpamt.module.view import ModuleView
from dpamt.sync import EXCLUSIVE, SHARED, LockSet
from tests.module.recipes import block_and_track, near
from tests.module.rig import FIRST, Rig

BLOCK = FIRST + SIZE_1G
INFO = SIZE_1G | LEVEL_1G


def with_1g_page(dynamic: bool = True) -> tuple[Rig, int]:
    """A TD with a 1G page, made of 512 of 2M."""
    rig = Rig(dynamic)
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    rig.must(leaf.TDH_MEM_SEPT_ADD, rcx=INFO, rdx=tdr, r8=near(0))
    for at in range(0, SIZE_1G, SIZE_2M):
        info = SIZE_1G + at | LEVEL_2M
        rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=info, rdx=tdr, r8=BLOCK + at)
    block_and_track(rig, tdr, INFO)
    rig.must(leaf.TDH_MEM_PAGE_PROMOTE, rcx=INFO, rdx=tdr)
    return rig, tdr


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_1g_page_is_removed_whole(dynamic: bool) -> None:
    rig, tdr = with_1g_page(dynamic)
    children = rig.module.tds.at(tdr >> PAGE_SHIFT).children
    before = children.load()
    status, args = rig.call(leaf.TDH_MEM_PAGE_REMOVE, rcx=INFO, rdx=tdr)
    assert status == s.TDX_GPA_RANGE_NOT_BLOCKED | op.OPERAND_RCX
    assert args.rcx
    args = rig.must(leaf.TDH_MEM_PAGE_REMOVE, **block_and_track(rig, tdr, INFO))
    assert (args.rcx, args.rdx) == (BLOCK, 0)
    assert children.load() == before - PAGES_PER_1G
    assert ModuleView(rig.module).check() == []


def test_nothing_of_it_is_free_for_anything_else() -> None:
    rig, tdr = with_1g_page()
    page = BLOCK + SIZE_2M
    pair = rig.take_pair()
    for number, registers, wanted in (
        (leaf.TDH_PHYMEM_PAMT_ADD, (page | 1, *pair), s.TDX_HPA_RANGE_NOT_FREE | op.OPERAND_RCX),
        (
            leaf.TDH_PHYMEM_PAMT_ADD,
            (FIRST + SIZE_2M | 1, page, pair[0]),
            s.TDX_PAGE_NOT_FREE | op.OPERAND_RDX,
        ),
        (leaf.TDH_PHYMEM_PAMT_REMOVE, (page | 1,), s.TDX_NO_PAMT_PAGE_PAIR | op.OPERAND_RCX),
        (leaf.TDH_MEM_PAGE_AUG, (0, tdr, page), s.TDX_PAGE_METADATA_INCORRECT | op.OPERAND_R8),
        (
            leaf.TDH_MEM_PAGE_AUG,
            (SIZE_2M | 1, tdr, page),
            s.TDX_PAGE_METADATA_INCORRECT | op.OPERAND_R8,
        ),
        (leaf.TDH_PHYMEM_PAGE_WBINVD, (page,), s.TDX_PAGE_METADATA_INCORRECT | op.OPERAND_RCX),
        (leaf.TDH_MEM_TRACK, (page,), s.TDX_PAGE_METADATA_INCORRECT | op.OPERAND_RCX),
    ):
        names = ("rcx", "rdx", "r8")[: len(registers)]
        status, _ = rig.call(number, **dict(zip(names, registers, strict=True)))
        assert status == wanted, (leaf.LEAF_NAMES[number], s.status_name(status))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_rdmd_of_any_level_shows_the_1g_entry(level: int) -> None:
    rig, tdr = with_1g_page()
    args = rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=BLOCK | level)
    assert args.as_tuple()[:3] == (PT_REG, tdr, LEVEL_1G)


def test_its_entry_is_locked_by_whoever_walks_to_it() -> None:
    rig, tdr = with_1g_page()
    other = LockSet()
    page = BLOCK >> PAGE_SHIFT
    for how, rdmd in ((SHARED, s.TDX_SUCCESS), (EXCLUSIVE, s.TDX_OPERAND_BUSY | op.OPERAND_RCX)):
        rig.module.pamt.walk(page, how, LEVEL_1G, other)
        assert rig.call(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=BLOCK)[0] == rdmd
        for number in (leaf.TDH_MEM_PAGE_REMOVE, leaf.TDH_PHYMEM_PAGE_RECLAIM):
            registers = {"rcx": BLOCK}
            if number == leaf.TDH_MEM_PAGE_REMOVE:
                registers = {"rcx": INFO, "rdx": tdr}
            status, _ = rig.call(number, **registers)
            assert status == s.TDX_OPERAND_BUSY | op.OPERAND_RCX
        other.release_all()
    assert ModuleView(rig.module).held_locks() == []


def test_it_is_reclaimed_by_its_first_address_only() -> None:
    rig, tdr = with_1g_page()
    rig.must(leaf.TDH_VP_FLUSH, rcx=rig.tdvpr(tdr))
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)
    rig.must(leaf.TDH_PHYMEM_CACHE_WB)
    status, args = rig.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=BLOCK)
    assert status == s.TDX_LIFECYCLE_STATE_INCORRECT
    assert args.as_tuple()[:4] == (PT_REG, tdr, LEVEL_1G, 0)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=tdr)
    status, args = rig.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=BLOCK + PAGE_SIZE)
    assert status == s.TDX_OPERAND_INVALID | op.OPERAND_RCX
    assert args.as_tuple()[:4] == (PT_REG, tdr, LEVEL_1G, 0)
    args = rig.must(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=BLOCK)
    assert args.as_tuple()[:4] == (PT_REG, tdr, LEVEL_1G, 0)
    assert ModuleView(rig.module).large_pages(LEVEL_1G) == {}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_bepoch_when_a_1g_page_was_split_and_made_again(dynamic: bool) -> None:
    """0 under Dynamic PAMT; under static PAMT what the leaf had before, as of 2M pages."""
    rig, tdr = with_1g_page(dynamic)
    block_and_track(rig, tdr, INFO)
    blocked = rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=BLOCK).r9
    assert blocked
    rig.must(leaf.TDH_MEM_PAGE_DEMOTE, rcx=INFO, rdx=tdr, r8=near(1))
    for at in (0, SIZE_1G - SIZE_2M):
        args = rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=BLOCK + at)
        assert args.as_tuple()[:3] == (PT_REG, tdr, LEVEL_2M)
        assert args.r9 == 0
    block_and_track(rig, tdr, INFO)
    rig.must(leaf.TDH_MEM_PAGE_PROMOTE, rcx=INFO, rdx=tdr)
    again = rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=BLOCK)
    assert again.as_tuple()[:3] == (PT_REG, tdr, LEVEL_1G)
    assert again.r9 == (0 if dynamic else blocked)
    assert ModuleView(rig.module).check() == []
