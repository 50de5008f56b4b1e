"""The audit: silent on every honest state, and a sentence for each contradiction put in by hand."""

from collections.abc import Callable

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    PAGE_SIZE,
    PT_EPT,
    PT_REG,
    PT_TDCX,
    PT_TDR,
    SIZE_1G,
    SIZE_2M,
)
from dpamt.module.module import TdxModule
from dpamt.module.pamt import OWNER_SHIFT
from dpamt.module.view import ModuleView, Pair, Use
from tests.module.rig import FIRST, PAIRS, RESERVED, Rig

TDR = FIRST
PAGE = TDR >> 12
LARGE = FIRST + 8 * SIZE_2M


def td_with_pages() -> Rig:
    rig = Rig()
    rig.make_td(TDR, 40)
    for index in range(3):
        page = TDR + (100 + index) * PAGE_SIZE
        rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=index * PAGE_SIZE, rdx=TDR, r8=page)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=SIZE_2M | 1, rdx=TDR, r8=LARGE)
    return rig


def test_a_td_at_work_is_consistent_and_shown() -> None:
    rig = td_with_pages()
    view = ModuleView(rig.module)
    assert view.check() == []
    assert not view.held_locks()
    assert not view.lock_words()
    used = view.used_pages()
    assert used[PAGE] == Use(PT_TDR, 0)
    assert used[PAGE + 1] == Use(PT_TDCX, PAGE)
    assert [use.type for use in used.values()].count(PT_EPT) == 3
    assert view.large_pages(LEVEL_2M) == {LARGE >> 12: Use(PT_REG, PAGE)}
    assert view.large_pages(LEVEL_1G) == {}
    assert view.pages_in_use(TDR >> 21) == list(used)
    assert view.pages_in_use(LARGE >> 21) == []
    assert view.pairs() == {TDR >> 21: Pair(PAIRS >> 12, (PAIRS >> 12) + 1, len(used))}
    assert view.pamt_pages() == [PAIRS >> 12, (PAIRS >> 12) + 1]
    assert view.tds() == {PAGE: len(used) - 1 + 512}
    reserved = [RESERVED + index * PAGE_SIZE >> 12 for index in range(4)]
    assert view.reserved_pages(RESERVED >> 21) == reserved
    assert view.reserved_pages(TDR >> 21) == []
    assert view.bitmap() == {RESERVED >> 21: 0b1111, PAIRS >> 21: 0b11}


def test_a_static_module_is_consistent() -> None:
    rig = Rig(dynamic=False)
    rig.make_td(TDR, 40)
    view = ModuleView(rig.module)
    assert view.check() == []
    assert not view.pairs()
    assert not view.bitmap()
    assert len(view.pages_in_use(TDR >> 21)) == view.tds()[PAGE] + 1


def _count(module: TdxModule) -> None:
    module.pamt.region(TDR >> 21).count.add(1)


def _stray_count(module: TdxModule) -> None:
    module.pamt.region(LARGE >> 21).count.add(1)


def _stray_bit(module: TdxModule) -> None:
    module.pamt.take_pair_page((LARGE >> 12) + 512)


def _lost_bit(module: TdxModule) -> None:
    module.pamt.return_pair_page(PAIRS >> 12)


def _pair_page_used(module: TdxModule) -> None:
    module.pamt.region(PAIRS >> 21).entries.store(0, PT_REG | PAGE << OWNER_SHIFT)


def _pair_page_twice(module: TdxModule) -> None:
    module.pamt.install_pair(PAIRS >> 21, (PAIRS >> 12, PAIRS >> 12), 0, 0)


def _reserved_used(module: TdxModule) -> None:
    module.pamt.region(RESERVED >> 21).entries.store(1, PT_REG | PAGE << OWNER_SHIFT)


def _children(module: TdxModule) -> None:
    module.tds.at(PAGE).children.add(-1)


def _foreign_owner(module: TdxModule) -> None:
    entries = module.pamt.region(TDR >> 21).entries
    entries.store(100, PT_REG | (PAGE + 1) << OWNER_SHIFT)


def _large_over_small(module: TdxModule) -> None:
    module.pamt.set_large(PAIRS >> 12, LEVEL_2M, PT_REG | PAGE << OWNER_SHIFT)


def _block_over_pages(module: TdxModule) -> None:
    module.pamt.set_large(FIRST >> 12, LEVEL_1G, PT_REG | PAGE << OWNER_SHIFT)


def _lock_left(module: TdxModule) -> None:
    module.pamt.region(TDR >> 21).first.try_shared()


def _tree_left(module: TdxModule) -> None:
    module.tds.at(PAGE).tree.try_exclusive()


def _entry_left(module: TdxModule) -> None:
    module.pamt.region(TDR >> 21).entries.try_exclusive(7)


def _mapped_nowhere(module: TdxModule) -> None:
    sept = next(
        module.tds.sept.find(page)
        for page in module.tds.sept.pages()
        if sum(map(bool, module.tds.sept.find(page).payloads())) == 3
    )
    sept.store(1, 0)


def _mapped_twice(module: TdxModule) -> None:
    sept = next(
        module.tds.sept.find(page)
        for page in module.tds.sept.pages()
        if sum(map(bool, module.tds.sept.find(page).payloads())) == 3
    )
    sept.store(1, sept.load(0))


def _keyid(module: TdxModule) -> None:
    module.kot.at(40).store(0)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_count, "PAGE_COUNT"),
        (_stray_count, "without a pair"),
        (_stray_bit, "no pair holds it"),
        (_lost_bit, "has no bit"),
        (_pair_page_used, "is also used as REG"),
        (_pair_page_twice, "is in the pairs of regions"),
        (_reserved_used, "reserved page"),
        (_children, "CHLDCNT"),
        (_foreign_owner, "which is no TDR"),
        (_large_over_small, "has 4K pages in other use"),
        (_block_over_pages, "has smaller pages in other use"),
        (_lock_left, "2M PAMT entry 0x100000000 is locked"),
        (_tree_left, "S-EPT tree of the TD at page 0x100000 is locked"),
        (_entry_left, "4K PAMT entry 0x100007000 is locked"),
        (_mapped_nowhere, "is mapped nowhere"),
        (_mapped_twice, "points twice"),
        (_keyid, "KeyID 40 is not assigned"),
    ],
)
def test_every_contradiction_is_told(damage: Callable[[TdxModule], None], sentence: str) -> None:
    rig = td_with_pages()
    damage(rig.module)
    found = ModuleView(rig.module).check()
    assert any(sentence in line for line in found), found


def test_host_priority_alone_is_not_a_held_lock() -> None:
    rig = Rig()
    rig.module.pamt.region(FIRST >> 21).first.raise_host_priority()
    view = ModuleView(rig.module)
    assert not view.held_locks()
    assert not view.check()
    assert [lock.word for lock in view.lock_words()] == [2]


def test_an_idle_terabyte_costs_nothing_to_look_at() -> None:
    rig = Rig()
    before = len(rig.module.pamt.entries_4k.pages())
    view = ModuleView(rig.module)
    assert view.check() == []
    assert view.pages_in_use((FIRST + SIZE_1G) >> 21) == []
    assert len(rig.module.pamt.entries_4k.pages()) == before


def test_one_region_is_judged_as_the_whole_is() -> None:
    """Whatever is put into its words: what the whole check says of a region, its own does too."""
    rig = Rig(True)
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    view = ModuleView(rig.module)
    region = FIRST >> 21
    assert view.check() == view.check_region(region) == []
    words = rig.module.pamt.region(region)
    words.count.add(1)
    assert view.check_region(region)
    assert any("PAGE_COUNT" in line for line in view.check())
    words.count.add(-1)
    page = words.pair0.load()
    rig.module.pamt.bitmap.at(page >> 9).clear_bits(1 << (page & 511))
    assert any("no bit" in line for line in view.check_region(region))
    rig.module.pamt.bitmap.at(page >> 9).set_bits(1 << (page & 511))
    rig.module.pamt.bitmap.at(region).set_bits(1 << (tdr >> 12 & 511))
    assert any("used as a page of a TD" in line for line in view.check_region(region))
