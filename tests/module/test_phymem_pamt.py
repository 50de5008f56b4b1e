"""PAMT.ADD, PAMT.REMOVE, RDMD, RECLAIM and TD creation against a naive model of which page is what.

The model is a few sets and dictionaries of pages; it predicts every status.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.operands import OPERAND_R8, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import PAGE_SIZE, PT_PAMT, PT_TDR, RDMD_NON_LEAF, REMOVAL_HINT, SIZE_2M
from dpamt.module.view import ModuleView, Pair
from tests.module.rig import FIRST, RESERVED, Rig

REGIONS = [FIRST + index * SIZE_2M for index in range(3)] + [RESERVED]
OFFSETS = [0, 1, 2, 255, 256, 511]
PAGES = [region + offset * PAGE_SIZE for region in REGIONS for offset in OFFSETS]
OUTSIDE = [FIRST - SIZE_2M, 0, 1 << 45]


@dataclass
class Naive:
    """Region to pair, and TDR pages with the stage of their TD."""

    pairs: dict[int, tuple[int, int]] = field(default_factory=dict)
    tdrs: dict[int, int] = field(default_factory=dict)
    hkids: dict[int, int] = field(default_factory=dict)

    def pamt_pages(self) -> set[int]:
        return {page for pair in self.pairs.values() for page in pair}

    def taken(self, page: int) -> bool:
        """A PAMT page or reserved."""
        return page in self.pamt_pages() or RESERVED <= page < RESERVED + 4 * PAGE_SIZE

    def used_in(self, region: int) -> list[int]:
        return [page for page in self.tdrs if page & -SIZE_2M == region]

    def add(self, region: int, pair: tuple[int, int]) -> int:
        for page, operand in zip(pair, (OPERAND_RDX, OPERAND_R8), strict=True):
            if page in OUTSIDE:
                return s.TDX_OPERAND_ADDR_RANGE_ERROR | operand
        if region in self.pairs:
            return s.TDX_HPA_RANGE_NOT_FREE | OPERAND_RCX
        for page, operand in zip(pair, (OPERAND_RDX, OPERAND_R8), strict=True):
            if page in self.tdrs:
                return s.TDX_PAGE_NOT_FREE | operand
        if self.taken(pair[0]):
            return s.TDX_PAGE_NOT_FREE | OPERAND_RDX
        if self.taken(pair[1]) or pair[0] == pair[1]:
            return s.TDX_PAGE_NOT_FREE | OPERAND_R8
        self.pairs[region] = pair
        return s.TDX_SUCCESS

    def remove(self, region: int) -> int:
        if region not in self.pairs:
            return s.TDX_NO_PAMT_PAGE_PAIR | OPERAND_RCX
        used = self.used_in(region)
        if used:
            return s.TDX_PAMT_PAGE_NOT_EMPTY | (0 if min(used) - region < SIZE_2M // 2 else 1)
        del self.pairs[region]
        return s.TDX_SUCCESS

    def create(self, page: int, hkid: int) -> int:
        region = page & -SIZE_2M
        if region not in self.pairs:
            return s.TDX_MISSING_PAMT_PAGE_PAIR | OPERAND_RCX
        if page in self.tdrs or self.taken(page):
            return s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
        if hkid in self.hkids.values():
            return s.TDX_HKID_NOT_FREE
        self.tdrs[page] = hkid
        self.hkids[page] = hkid
        return s.TDX_SUCCESS


class PairMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.rig = Rig()
        self.view = ModuleView(self.rig.module)
        self.naive = Naive()
        self.empty = self.rig.module.shared.snapshot()

    @rule(region=st.sampled_from(REGIONS), pages=st.lists(st.sampled_from(PAGES), min_size=2))
    def add(self, region: int, pages: list[int]) -> None:
        expected = self.naive.add(region, (pages[0], pages[1]))
        status, args = self.rig.call(
            leaf.TDH_PHYMEM_PAMT_ADD, rcx=region | 1, rdx=pages[0], r8=pages[1]
        )
        assert status == expected
        assert args.as_tuple()[:3] == (region | 1, pages[0], pages[1])

    @rule(region=st.sampled_from(REGIONS), outside=st.sampled_from(OUTSIDE), first=st.booleans())
    def add_outside(self, region: int, outside: int, first: bool) -> None:
        pair = (outside, REGIONS[0]) if first else (REGIONS[0], outside)
        expected = self.naive.add(region, pair)
        status, _ = self.rig.call(leaf.TDH_PHYMEM_PAMT_ADD, rcx=region | 1, rdx=pair[0], r8=pair[1])
        assert status == expected

    @rule(region=st.sampled_from(REGIONS))
    def remove(self, region: int) -> None:
        pair = self.naive.pairs.get(region)
        expected = self.naive.remove(region)
        status, args = self.rig.call(leaf.TDH_PHYMEM_PAMT_REMOVE, rcx=region | 1, rdx=5, r8=7)
        assert status == expected
        returned = pair if status == s.TDX_SUCCESS else (5, 7)
        assert (args.rdx, args.r8) == returned

    @rule(page=st.sampled_from(PAGES), hkid=st.integers(40, 43))
    def create(self, page: int, hkid: int) -> None:
        expected = self.naive.create(page, hkid)
        status, _ = self.rig.call(leaf.TDH_MNG_CREATE, rcx=page, rdx=hkid)
        assert status == expected

    @rule(page=st.sampled_from(PAGES), configure=st.booleans())
    def destroy(self, page: int, configure: bool) -> None:
        if page not in self.naive.tdrs:
            status, _ = self.rig.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=page)
            assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX
            return
        if configure:
            self.rig.must(leaf.TDH_MNG_KEY_CONFIG, rcx=page)
        status, _ = self.rig.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=page)
        assert status == s.TDX_LIFECYCLE_STATE_INCORRECT
        self.rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=page)
        status, _ = self.rig.call(leaf.TDH_MNG_KEY_FREEID, rcx=page)
        assert status == s.TDX_WBCACHE_NOT_COMPLETE
        self.rig.must(leaf.TDH_PHYMEM_CACHE_WB)
        self.rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=page)
        args = self.rig.must(leaf.TDH_PHYMEM_PAGE_RECLAIM, rcx=page)
        del self.naive.tdrs[page]
        del self.naive.hkids[page]
        left = self.naive.used_in(page & -SIZE_2M)
        assert (args.rcx, args.rdx, args.r8) == (PT_TDR, 0, 0)
        assert args.r9 == (0 if left else REMOVAL_HINT)

    @rule(page=st.sampled_from(PAGES))
    def read(self, page: int) -> None:
        args = self.rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=page)
        region = page & -SIZE_2M
        if page in self.naive.tdrs:
            assert (args.rcx, args.r8) == (PT_TDR, 0)
        elif self.naive.taken(page):
            assert (args.rcx, args.r8) == (PT_PAMT, 0)
        else:
            assert (args.rcx, args.r8) == (0, 0 if region in self.naive.pairs else 1)
        args = self.rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=region | 1)
        if region in self.naive.pairs:
            assert args.rcx == PT_PAMT | RDMD_NON_LEAF
            assert (args.r10, args.r11) == self.naive.pairs[region]
        else:
            assert (args.rcx, args.r8, args.r10, args.r11) == (0, 1, 0, 0)

    @rule(page=st.sampled_from(PAGES))
    def write_back(self, page: int) -> None:
        status, _ = self.rig.call(leaf.TDH_PHYMEM_PAGE_WBINVD, rcx=page)
        free = page not in self.naive.tdrs and not self.naive.taken(page)
        assert status == (0 if free else s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX)

    @invariant()
    def consistent(self) -> None:
        assert self.view.check() == []
        assert self.view.lock_words() == []
        assert set(self.view.used_pages()) == {page >> 12 for page in self.naive.tdrs}
        assert self.view.pairs() == {
            region >> 21: Pair(pair[0] >> 12, pair[1] >> 12, len(self.naive.used_in(region)))
            for region, pair in self.naive.pairs.items()
        }

    def teardown(self) -> None:
        for page in list(self.naive.tdrs):
            self.destroy(page, configure=False)
        for region in list(self.naive.pairs):
            self.remove(region)
        assert self.rig.module.shared.snapshot() == self.empty


PairMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_pairs = PairMachine.TestCase
