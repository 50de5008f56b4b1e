"""Where the real module shuts down: metadata that no sequence of calls gives, made by hand here."""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGE_SHIFT, PAMT_PAGE_COUNT_MAX
from dpamt.module.fatal import ModuleFatal
from dpamt.module.view import ModuleView
from tests.module.recipes import (
    FAR,
    aug_4k,
    far_regions,
    page_relocate,
    page_remove,
    pamt_remove,
    vp_flush,
)
from tests.module.rig import FIRST, Rig

REGION = FAR[0] >> 21


def test_a_removed_page_whose_pair_is_gone() -> None:
    rig = Rig()
    call = page_remove(rig, far_regions(rig)[0])
    rig.module.pamt.remove_pair(REGION, 0)
    with pytest.raises(ModuleFatal, match="no PAMT page pair") as caught:
        rig.call(leaf.TDH_MEM_PAGE_REMOVE, **call)
    assert caught.value.state == {"hpa": FAR[0]}
    held = [lock.where for lock in ModuleView(rig.module).held_locks()]
    assert f"4K PAMT entry {FIRST:#x}" in held  # of the TDR: nothing runs that would let go


def test_a_removed_page_whose_entry_is_free() -> None:
    rig = Rig()
    call = page_remove(rig, far_regions(rig)[0])
    rig.module.pamt.clear_4k(FAR[0] >> PAGE_SHIFT)
    with pytest.raises(ModuleFatal, match="free PAMT entry"):
        rig.call(leaf.TDH_MEM_PAGE_REMOVE, **call)


def test_a_page_whose_entry_is_of_another_size() -> None:
    rig = Rig()
    call = page_remove(rig, far_regions(rig)[0])
    rig.module.pamt.remove_pair(REGION, rig.module.tds.at(FIRST >> PAGE_SHIFT).reg_entry)
    with pytest.raises(ModuleFatal, match="of its size"):
        rig.call(leaf.TDH_MEM_PAGE_REMOVE, **call)


def test_a_vcpu_whose_tdr_is_gone() -> None:
    rig = Rig()
    call = vp_flush(rig)
    rig.module.pamt.clear_4k(FIRST >> PAGE_SHIFT)
    with pytest.raises(ModuleFatal, match="free PAMT entry"):
        rig.call(leaf.TDH_VP_FLUSH, **call)


@pytest.mark.parametrize("number", [leaf.TDH_MEM_PAGE_AUG, leaf.TDH_VP_CREATE])
def test_a_count_above_512(number: int) -> None:
    rig = Rig()
    if number == leaf.TDH_MEM_PAGE_AUG:
        call = aug_4k(rig)
    else:
        tdr = rig.make_td(FIRST, rig.hkid + 1, finalize=False)
        call = {"rcx": FIRST + (400 << PAGE_SHIFT), "rdx": tdr}
    rig.module.pamt.region(FIRST >> 21).count.store(PAMT_PAGE_COUNT_MAX)
    with pytest.raises(ModuleFatal, match="above 512"):
        rig.call(number, **call)


@pytest.mark.parametrize("number", [leaf.TDH_MEM_PAGE_REMOVE, leaf.TDH_MEM_PAGE_RELOCATE])
def test_a_count_below_0(number: int) -> None:
    rig = Rig()
    make = page_remove if number == leaf.TDH_MEM_PAGE_REMOVE else page_relocate
    call = make(rig, far_regions(rig)[0])
    rig.module.pamt.region(REGION).count.store(0)
    with pytest.raises(ModuleFatal, match="below 0"):
        rig.call(number, **call)


def test_an_empty_region_with_a_count() -> None:
    rig = Rig()
    call = pamt_remove(rig)
    rig.module.pamt.region(FIRST >> 21).count.store(1)
    with pytest.raises(ModuleFatal, match="page count") as caught:
        rig.call(leaf.TDH_PHYMEM_PAMT_REMOVE, **call)
    assert caught.value.state == {"region": FIRST, "count": 1}
