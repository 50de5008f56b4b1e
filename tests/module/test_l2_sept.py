"""L2 VMs' S-EPT pages: given with SEPT.ADD and DEMOTE, taken with SEPT.REMOVE and PROMOTE."""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi.pages import NULL_PA, PAGE_SIZE, REMOVAL_HINT, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    TDX_INTERRUPTED_BUSY,
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_L2_SEPT_ENTRY_NOT_FREE,
    TDX_L2_SEPT_WALK_FAILED,
    TDX_OPERAND_INVALID,
    TDX_SUCCESS,
)
from dpamt.module.view import ModuleView
from dpamt.sync import HostPriorityWord
from tests.module.rig import FIRST, Rig

NOT_USED = 1 << 63
L2_PAGES = [FIRST + (80 + n) * PAGE_SIZE for n in range(4)]
SEPT = FIRST + 90 * PAGE_SIZE
LARGE = FIRST + 16 * SIZE_2M


def l2_td(release: str = "2.0.18", levels: tuple[int, ...] = (3, 2, 1)) -> tuple[Rig, int]:
    """A TD with one L2 VM whose S-EPT goes down to ``levels``."""
    rig = Rig(release=release)
    tdr = rig.make_td(FIRST, rig.hkid + 1, l2_vms=1)
    for level in levels:
        sept_add(rig, tdr, level, (NULL_PA, L2_PAGES[level]))
    return rig, tdr


def sept_add(rig: Rig, tdr: int, info: int, pages: tuple[int, int], flag: int = 0) -> TdxModuleArgs:
    status, args = rig.call(
        leaf.TDH_MEM_SEPT_ADD,
        1,
        rcx=info,
        rdx=tdr | flag,
        r8=pages[0],
        r9=pages[1],
        r10=NULL_PA,
        r11=NULL_PA,
    )
    assert status == TDX_SUCCESS
    return args


def large_page(rig: Rig, tdr: int) -> None:
    """A blocked and tracked 2M page at 2M."""
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=SIZE_2M | 1, rdx=tdr, r8=LARGE)
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=SIZE_2M | 1, rdx=tdr)
    rig.must(leaf.TDH_MEM_TRACK, rcx=tdr)


def demote(rig: Rig, tdr: int, l2_page: int, flag: int = 0) -> tuple[int, TdxModuleArgs]:
    pair = rig.take_pair()
    return rig.call(
        leaf.TDH_MEM_PAGE_DEMOTE,
        rcx=SIZE_2M | 1,
        rdx=tdr | flag,
        r8=SEPT,
        r9=l2_page,
        r10=5,
        r11=6,
        r12=pair[0],
        r13=pair[1],
    )


def test_walks_and_existing_pages() -> None:
    rig, tdr = l2_td(levels=(3,))
    status, args = rig.call(
        leaf.TDH_MEM_SEPT_ADD, 1, rcx=1, rdx=tdr, r8=NULL_PA, r9=SEPT, r10=NULL_PA, r11=NULL_PA
    )
    assert status == TDX_L2_SEPT_WALK_FAILED | 1 << 16 | 2
    assert args.rdx >> 16 == 1
    status, _ = rig.call(
        leaf.TDH_MEM_SEPT_ADD, 1, rcx=3, rdx=tdr, r8=NULL_PA, r9=SEPT, r10=NULL_PA, r11=NULL_PA
    )
    assert status == TDX_L2_SEPT_ENTRY_NOT_FREE | 1 << 16 | 3
    args = sept_add(rig, tdr, 3, (NULL_PA, SEPT), flag=1)
    assert (args.r8, args.r9) == (NULL_PA, SEPT | NOT_USED)
    status, args = rig.call(
        leaf.TDH_MEM_SEPT_ADD, 1, rcx=3, rdx=tdr, r8=NULL_PA, r9=NULL_PA, r10=SEPT, r11=NULL_PA
    )
    assert status == TDX_OPERAND_INVALID | op.OPERAND_R10
    assert args.r10 == SEPT


def test_an_interrupt_between_two_pages_leaves_the_rest_to_resume() -> None:
    rig, tdr = l2_td()
    rig.module.interrupt_pending = True
    info = SIZE_2M | 1
    operands = {"rcx": info, "rdx": tdr, "r8": SEPT, "r9": L2_PAGES[0], "r10": NULL_PA}
    status, args = rig.call(leaf.TDH_MEM_SEPT_ADD, 1, r11=NULL_PA, **operands)
    assert status == TDX_INTERRUPTED_RESUMABLE
    assert (args.rcx, args.rdx, args.r8, args.r9) == (info, tdr, NULL_PA, L2_PAGES[0])
    again = dict(zip(("r8", "r9", "r10", "r11"), args.as_tuple()[2:6], strict=True))
    args = rig.must(leaf.TDH_MEM_SEPT_ADD, 1, rcx=args.rcx, rdx=args.rdx, **again)
    assert args.r9 == NULL_PA
    assert ModuleView(rig.module).check() == []


@pytest.mark.parametrize("version", [0, 1])
def test_demote_and_promote_carry_an_l2_page(version: int) -> None:
    rig, tdr = l2_td()
    far = FIRST + 24 * SIZE_2M
    rig.add_pair(far)
    large_page(rig, tdr)
    before = rig.module.tds.at(tdr >> 12).children.load()
    status, args = demote(rig, tdr, far)
    assert status == TDX_SUCCESS
    assert (args.r9, args.r10, args.r11) == (far, 5, 6)
    assert rig.module.tds.at(tdr >> 12).children.load() == before + 2
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=SIZE_2M | 1, rdx=tdr)
    rig.must(leaf.TDH_MEM_TRACK, rcx=tdr)
    args = rig.must(leaf.TDH_MEM_PAGE_PROMOTE, version, rcx=SIZE_2M | 1, rdx=tdr, r9=1)
    assert args.rcx == SEPT
    assert args.r9 == (far | REMOVAL_HINT if version else 1)
    assert args.r10 == (NULL_PA if version else 0)
    assert rig.module.tds.at(tdr >> 12).children.load() == before
    assert ModuleView(rig.module).check() == []


def test_a_sparse_demote_returns_the_page_unused() -> None:
    rig, tdr = l2_td()
    large_page(rig, tdr)
    status, args = demote(rig, tdr, L2_PAGES[0], flag=1)
    assert status == TDX_SUCCESS
    assert (args.r9, args.r10, args.r11) == (L2_PAGES[0] | NOT_USED, 5, 6)


@pytest.mark.parametrize(
    ("release", "l2_vms", "seen"),
    [("1.5.25", 0, True), ("2.0.08", 0, True), ("2.0.18", 0, False), ("2.0.18", 1, True)],
)
def test_who_looks_for_an_interrupt(release: str, l2_vms: int, seen: bool) -> None:
    rig = Rig(release=release)
    tdr = rig.make_td(FIRST, rig.hkid + 1, l2_vms=l2_vms)
    large_page(rig, tdr)
    rig.module.interrupt_pending = True
    before = rig.module.shared.snapshot()
    status, args = demote(rig, tdr, NULL_PA)
    if seen:
        assert status == TDX_INTERRUPTED_RESTARTABLE
        assert (args.rcx, args.rdx) == (SIZE_2M | 1, tdr)
        assert rig.module.shared.snapshot() == before
    else:
        assert status == TDX_SUCCESS


class WantedTree(HostPriorityWord):
    """A tree lock that another host CPU fails to take as soon as it is taken."""

    __slots__ = ()

    def try_shared(self) -> int:
        payload = super().try_shared()
        self.raise_host_priority()
        return payload


@pytest.mark.parametrize(("release", "seen"), [("1.5.25", True), ("2.0.18", False)])
def test_another_cpu_that_wants_the_tree_goes_first(release: str, seen: bool) -> None:
    rig = Rig(release=release)
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    large_page(rig, tdr)
    tree = WantedTree()
    tree.raise_host_priority()
    rig.module.tds.at(tdr >> 12).tree = tree
    status, args = demote(rig, tdr, NULL_PA)
    if seen:
        assert status == TDX_INTERRUPTED_BUSY
        assert (args.rcx, args.rdx) == (SIZE_2M | 1, tdr)
    else:
        assert status == TDX_SUCCESS


def test_a_1g_page_is_made_of_2m_pages_and_split_again() -> None:
    rig = Rig()
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    block = FIRST + (1 << 30)
    gpa = 1 << 30
    rig.must(leaf.TDH_MEM_SEPT_ADD, rcx=gpa | 2, rdx=tdr, r8=SEPT)
    for n in range(512):
        at = n * SIZE_2M
        rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=gpa + at | 1, rdx=tdr, r8=block + at)
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=gpa | 2, rdx=tdr)
    rig.must(leaf.TDH_MEM_TRACK, rcx=tdr)
    children = rig.module.tds.at(tdr >> 12).children
    before = children.load()
    args = rig.must(leaf.TDH_MEM_PAGE_PROMOTE, rcx=gpa | 2, rdx=tdr, r12=8, r13=9)
    assert (args.rcx, args.r12, args.r13) == (SEPT, 8, 9)
    view = ModuleView(rig.module)
    assert set(view.large_pages(2)) == {block >> 12}
    assert view.large_pages(1) == {}
    assert view.check() == []
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=gpa | 2, rdx=tdr)
    rig.must(leaf.TDH_MEM_TRACK, rcx=tdr)
    rig.must(leaf.TDH_MEM_PAGE_DEMOTE, rcx=gpa | 2, rdx=tdr, r8=SEPT)
    assert len(view.large_pages(1)) == 512
    assert children.load() == before
    assert view.check() == []
