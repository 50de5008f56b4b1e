"""A bulk call does what its SEAMCALLs one by one would have done, over random states."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, PAGES_PER_2M, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.bulk import ModuleBulk
from tests.module.rig import FIRST, RESERVED, SOURCE, Rig

REGIONS = (FIRST + 8 * SIZE_2M, FIRST + 9 * SIZE_2M, RESERVED)
"""Two that touch, with pairs, and the one that begins with four reserved pages."""
NO_PAIR = FIRST + 10 * SIZE_2M


class Twin:
    """A TD whose S-EPT covers 4 MiB, the same each time it is made."""

    def __init__(self, dynamic: bool, finalize: bool, release: str) -> None:
        self.rig = Rig(dynamic, release)
        self.tdr = self.rig.make_td(FIRST, self.rig.hkid + 1, finalize)
        sept = FIRST + 100 * PAGE_SIZE
        self.rig.must(leaf.TDH_MEM_SEPT_ADD, rcx=SIZE_2M | 1, rdx=self.tdr, r8=sept)
        for region in REGIONS:
            self.rig.add_pair(region)
        self.bulk = ModuleBulk(self.rig.module.processor(0))

    @property
    def module(self):  # type: ignore[no-untyped-def]
        return self.rig.module

    def state(self) -> object:
        """Everything that can be seen."""
        memory = {page: bytes(data) for page, data in self.rig.memory._pages.items() if any(data)}
        return self.module.shared.snapshot(), memory

    def call(self, number: int, **registers: int) -> int:
        return self.rig.call(number, **registers)[0]


Call = tuple[int, dict[str, int]]


def calls_of(kind: str, twin: Twin, gfn: int, pages: Sequence[int]) -> list[list[Call]]:
    """What a bulk call stands for: the SEAMCALLs of each page."""
    made: list[list[Call]] = []
    for index, page in enumerate(pages):
        at = {"rcx": gfn + index << PAGE_SHIFT, "rdx": twin.tdr}
        block = (leaf.TDH_MEM_RANGE_BLOCK, at)
        track = (leaf.TDH_MEM_TRACK, {"rcx": twin.tdr})
        remove = (leaf.TDH_MEM_PAGE_REMOVE, at)
        flush = (leaf.TDH_PHYMEM_PAGE_WBINVD, {"rcx": page << PAGE_SHIFT})
        new = {**at, "r8": page << PAGE_SHIFT}
        made.append(
            {
                "add": [(leaf.TDH_MEM_PAGE_ADD, {**new, "r9": SOURCE})],
                "aug": [(leaf.TDH_MEM_PAGE_AUG, new)],
                "block": [block],
                "remove": [remove],
                "zap": [block, remove, flush],
                "zap and track": [block, track, remove, flush],
            }[kind]
        )
    return made


def bulk_call(kind: str, twin: Twin, gfn: int, pages: Sequence[int]) -> int:
    bulk, tdr = twin.bulk, twin.tdr >> PAGE_SHIFT
    calls: dict[str, Callable[[], int]] = {
        "add": lambda: bulk.page_add(tdr, gfn, pages, SOURCE >> PAGE_SHIFT),
        "aug": lambda: bulk.page_aug(tdr, gfn, pages),
        "block": lambda: bulk.page_block(tdr, gfn, len(pages)),
        "remove": lambda: bulk.page_remove(tdr, gfn, len(pages)),
        "zap": lambda: bulk.page_zap(tdr, gfn, len(pages), False),
        "zap and track": lambda: bulk.page_zap(tdr, gfn, len(pages), True),
    }
    return calls[kind]()


KINDS = ("add", "aug", "block", "remove", "zap", "zap and track")


def the_same_page_by_page(one: Twin, other: Twin, kind: str, gfn: int, pages: list[int]) -> int:
    """Run it in bulk on the one, page by page on the other: how many pages the bulk call did."""
    done = bulk_call(kind, one, gfn, pages)
    assert 0 <= done <= len(pages)
    made = calls_of(kind, other, gfn, pages)
    for calls in made[:done]:
        for number, registers in calls:
            assert other.call(number, **registers) == 0, (kind, leaf.LEAF_NAMES[number])
    assert one.state() == other.state(), kind
    return done


def pages_of(region: int, first: int, count: int, order: str) -> list[int]:
    start = (REGIONS[region] >> PAGE_SHIFT) + first
    pages = list(range(start, start + count))
    if order == "backwards":
        pages.reverse()
    elif order == "in twos":
        pages = [page ^ 2 for page in pages]
    return pages


steps = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from((0, 1, 30, PAGES_PER_2M - 20, PAGES_PER_2M)),
    st.integers(0, 2),
    st.sampled_from((0, 3, 17, PAGES_PER_2M - 9)),
    st.integers(1, 40),
    st.sampled_from(("in order", "in order", "backwards", "in twos")),
)
troubles = st.sampled_from(
    (
        "none",
        "none",
        "none",
        "top",
        "first",
        "entry",
        "sept",
        "op_state",
        "tree",
        "epoch",
        "tdr",
        "interrupt",
        "inside",
        "track",
        "accept",
    )
)


def make_trouble(twin: Twin, trouble: str, word: int) -> None:
    """Something in the way, or something gone before."""
    module, tdr = twin.module, twin.tdr >> PAGE_SHIFT
    td, region = module.tds.at(tdr), module.pamt.region(REGIONS[0] >> 21)
    sept = module.tds.sept.at((FIRST >> PAGE_SHIFT) + 64 + 1)
    if trouble in ("top", "first", "op_state"):
        lock = {"top": region.top, "first": region.first, "op_state": td.op_state}[trouble]
        lock.restore(lock.load() << 16 | word)
    elif trouble == "tree" and module.release.host_priority_sept_tree:
        td.tree.restore(word)
    elif trouble == "epoch":
        td.epoch_lock.restore(word & ~2)
    elif trouble in ("entry", "sept", "tdr"):
        page, index = {
            "entry": (region.entries, 5),
            "sept": (sept, 7),
            "tdr": (module.pamt.region(FIRST >> 21).entries, 0),
        }[trouble]
        page.own_locks()[index] = word
    elif trouble == "interrupt":
        module.interrupt_pending = True
    elif trouble == "inside":
        td.epoch_readers[word & 1].store(1)
    elif trouble == "track":
        twin.call(leaf.TDH_MEM_TRACK, rcx=twin.tdr)
    elif trouble == "accept":
        for index in range(60):
            entry = sept.load(index)
            if entry & 0xFF == 2:
                sept.store(index, entry ^ 2 | 4)


@settings(max_examples=150, deadline=None)
@given(
    st.booleans(),
    st.booleans(),
    st.sampled_from(("1.5.25", "2.0.18")),
    st.lists(st.tuples(steps, troubles, st.sampled_from((1, 2, 3, 4, 6, 9))), max_size=9),
)
def test_bulk_is_page_by_page(
    dynamic: bool,
    finalize: bool,
    release: str,
    script: list[tuple[tuple[str, int, int, int, int, str], str, int]],
) -> None:
    if release == "1.5.25" and dynamic:
        release = "2.0.18"
    one, other = Twin(dynamic, finalize, release), Twin(dynamic, finalize, release)
    for (kind, gfn, region, first, count, order), trouble, word in script:
        held = one.state(), other.state()
        assert held[0] == held[1]
        before = one.module.shared.snapshot()
        make_trouble(one, trouble, word)
        make_trouble(other, trouble, word)
        pages = pages_of(region, first, count, order)
        if kind.startswith("zap"):
            pages = mapped_pages(one, gfn, count)
        the_same_page_by_page(one, other, kind, gfn, pages)
        one.module.interrupt_pending = other.module.interrupt_pending = False
        if trouble not in ("none", "track", "accept", "interrupt"):
            one.module.shared.restore(before)
            other.module.shared.restore(before)


def mapped_pages(twin: Twin, gfn: int, count: int) -> list[int]:
    """The pages at these guest frames; the first of all where there is none."""
    pages = []
    for index in range(gfn, min(gfn + count, 2 * PAGES_PER_2M)):
        sept = FIRST + 100 * PAGE_SIZE if index >> 9 else FIRST + 65 * PAGE_SIZE
        word = twin.module.tds.sept.at(sept >> PAGE_SHIFT).load(index & 511)
        pages.append(word >> 8 or FIRST >> PAGE_SHIFT)
    return pages or [FIRST >> PAGE_SHIFT]


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_whole_life_is_taken_in_bulk(dynamic: bool) -> None:
    """Nothing in the way: nothing is refused, regions and S-EPT pages are crossed."""
    one, other = Twin(dynamic, True, "2.0.18"), Twin(dynamic, True, "2.0.18")
    pages = list(range(REGIONS[0] >> PAGE_SHIFT, (REGIONS[1] >> PAGE_SHIFT) + PAGES_PER_2M))
    assert the_same_page_by_page(one, other, "aug", 0, pages) == len(pages)
    assert the_same_page_by_page(one, other, "zap and track", 0, pages) == len(pages)
    assert the_same_page_by_page(one, other, "aug", 0, pages) == len(pages)
    assert the_same_page_by_page(one, other, "block", 0, pages) == len(pages)
    assert the_same_page_by_page(one, other, "remove", 0, pages) == 0
    for twin in (one, other):
        assert twin.call(leaf.TDH_MEM_TRACK, rcx=twin.tdr) == 0
    assert the_same_page_by_page(one, other, "remove", 0, pages) == len(pages)


def test_it_stops_where_a_page_has_no_pair() -> None:
    one, other = Twin(True, True, "2.0.18"), Twin(True, True, "2.0.18")
    pages = [*range(NO_PAIR - 9 * PAGE_SIZE >> PAGE_SHIFT, NO_PAIR + SIZE_2M >> PAGE_SHIFT)]
    assert the_same_page_by_page(one, other, "aug", 3, pages) == 9


def test_it_stops_before_a_page_in_use_and_before_a_reserved_one() -> None:
    one, other = Twin(True, True, "2.0.18"), Twin(True, True, "2.0.18")
    first = REGIONS[0] >> PAGE_SHIFT
    for twin in (one, other):
        gpa, page = SIZE_2M + 8 * PAGE_SIZE, first + 20 << PAGE_SHIFT
        assert twin.call(leaf.TDH_MEM_PAGE_AUG, rcx=gpa, rdx=twin.tdr, r8=page) == 0
    pages = list(range(first, first + 100))
    assert the_same_page_by_page(one, other, "aug", 0, pages) == 20
    assert the_same_page_by_page(one, other, "aug", PAGES_PER_2M, pages[30:60]) == 8
    reserved = list(range(RESERVED >> PAGE_SHIFT, (RESERVED >> PAGE_SHIFT) + 8))
    assert the_same_page_by_page(one, other, "aug", 200, reserved) == 0
    assert the_same_page_by_page(one, other, "aug", 200, reserved[4:]) == 4


def test_garbage_is_refused_not_followed() -> None:
    twin = Twin(True, True, "2.0.18")
    before = twin.state()
    tdr = twin.tdr >> PAGE_SHIFT
    for bad in (0, tdr + 1, 1 << 40, 1 << 60):
        assert twin.bulk.page_aug(bad, 0, [REGIONS[0] >> PAGE_SHIFT]) == 0
        assert twin.bulk.page_aug(tdr, 0, [bad]) == 0
        assert twin.bulk.page_add(tdr, 0, [REGIONS[0] >> PAGE_SHIFT], 1 << 60) == 0
        assert twin.bulk.page_zap(tdr, 1 << 50, 3, True) == 0
    assert twin.bulk.page_aug(tdr, -1, [5]) == twin.bulk.page_aug(tdr, 0, []) == 0
    assert twin.state() == before
    args = TdxModuleArgs.of(rcx=0, rdx=twin.tdr, r8=REGIONS[0])
    assert twin.module.processor(0).seamcall(leaf.TDH_MEM_PAGE_AUG, args) == 0
