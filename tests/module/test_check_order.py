"""Checks whose order or outcome is easily got wrong, told from the reference."""

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi import status as s
from dpamt.abi.exits import TDG_MEM_PAGE_ACCEPT
from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import SEPT_NL_BLOCKED
from dpamt.abi.td_params import ATTRIBUTES_DEBUG, PRIVATE_GPA_BITS
from dpamt.module.guest import Guest, TdExit
from dpamt.module.td import HEADER_FATAL
from dpamt.sync import Word
from tests.module.recipes import (
    FAR,
    GPA,
    RECIPES,
    START,
    far_regions,
    near,
    page_promote,
    page_relocate,
    vp_flush,
)
from tests.module.rig import FIRST, Rig

PROMOTE = (leaf.TDH_MEM_PAGE_PROMOTE, 0, "")


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("1.5.25", s.TDX_SYS_NOT_READY),
        ("2.0.08", s.TDX_OPERAND_INVALID | op.OPERAND_RAX),
        ("2.0.18", s.TDX_OPERAND_INVALID | op.OPERAND_RAX),
    ],
)
def test_only_2_0_refuses_tdx_connect_leaves_before_it_is_ready(release: str, status: int) -> None:
    rig = Rig(release=release, started=False)
    assert rig.call(leaf.TDX_CONNECT_LEAVES[0])[0] == status
    assert rig.call(leaf.TDX_CONNECT_LEAVES[-1] + 1)[0] == s.TDX_SYS_NOT_READY


def test_a_fatal_td_can_be_flushed_and_little_else() -> None:
    rig = Rig()
    registers = vp_flush(rig)
    rig.module.tds.at(FIRST >> PAGE_SHIFT).header.set_bits(HEADER_FATAL)
    for number in (leaf.TDH_MEM_TRACK, leaf.TDH_MNG_KEY_CONFIG, leaf.TDH_MR_FINALIZE):
        assert rig.call(number, rcx=FIRST)[0] == s.TDX_TD_FATAL
    assert rig.call(leaf.TDH_MNG_ADDCX, rcx=near(0), rdx=FIRST)[0] == s.TDX_TD_FATAL
    rig.must(leaf.TDH_VP_FLUSH, **registers)
    assert rig.call(leaf.TDH_VP_FLUSH, **registers)[0] == s.TDX_VCPU_NOT_ASSOCIATED
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=FIRST)
    assert rig.call(leaf.TDH_VP_FLUSH, **registers)[0] == s.TDX_TD_KEYS_NOT_CONFIGURED


@pytest.mark.parametrize("spoilt", [None, 0, 3, 300])
def test_promote_of_2_0_08_locks_and_looks_at_entry_after_entry(spoilt: int | None) -> None:
    """Another CPU has entry 5: what is wrong before it is told, what is wrong after it is not."""
    rig = Rig(release="2.0.08")
    registers = page_promote(rig)
    table = rig.module.tds.sept.find(near(0) >> PAGE_SHIFT)
    word = 0
    if spoilt is not None:
        word = table.load(spoilt)
        table.store(spoilt, 0)
    table.try_exclusive(5)
    early = spoilt is not None and spoilt < 5
    wanted = s.TDX_EPT_INVALID_PROMOTE_CONDITIONS if early else s.TDX_OPERAND_BUSY
    status, args = rig.call(leaf.TDH_MEM_PAGE_PROMOTE, **registers)
    assert status == wanted | op.OPERAND_RCX
    assert (args.rcx, args.rdx) == (0, LEVEL_2M | SEPT_NL_BLOCKED << 8)
    table.release_exclusive(5)
    if spoilt is not None:
        status, _ = rig.call(leaf.TDH_MEM_PAGE_PROMOTE, **registers)
        assert status == s.TDX_EPT_INVALID_PROMOTE_CONDITIONS | op.OPERAND_RCX
        table.store(spoilt, word)
    rig.must(leaf.TDH_MEM_PAGE_PROMOTE, **registers)


def test_relocate_frees_the_old_page_first_and_uncounts_it_last() -> None:
    rig = Rig()
    registers = page_relocate(rig, *far_regions(rig)[:2])
    pamt = rig.module.pamt
    table = rig.module.tds.sept.find(FIRST + 65 * PAGE_SIZE >> PAGE_SHIFT)
    seen: list[tuple[bool, bool, int]] = []

    class Watched(Word):
        """A count that looks around when it changes."""

        __slots__ = ()

        def add(self, delta: int) -> int:
            old, new = (pamt.region(page >> 21).entries.load(0) for page in FAR[:2])
            seen.append((old != 0, new != 0, table.load(0) >> 8 << PAGE_SHIFT))
            return super().add(delta)

    for page in FAR[:2]:
        region = pamt.region(page >> 21)
        watched = Watched()
        watched.store(region.count.load())
        region.count = watched
    rig.must(leaf.TDH_MEM_PAGE_RELOCATE, **registers)
    assert seen == [(False, True, FAR[0]), (False, True, FAR[1])]


def test_the_pair_of_a_demote_is_looked_at_in_its_own_order() -> None:
    """Both formats, both ranges, then page after page; the first is given back for the second."""
    rig = Rig()
    registers = RECIPES[leaf.TDH_MEM_PAGE_DEMOTE, 0, ""](rig)
    outside, odd = FIRST - SIZE_2M, 8
    used, free = rig.must(leaf.TDH_PHYMEM_PAGE_RDMD, rcx=FIRST | 1).r10, registers["r12"]
    large = registers | {"rcx": GPA | 1}
    for r12, r13, wanted in (
        (outside, odd, s.TDX_OPERAND_INVALID | op.OPERAND_R13),
        (odd, odd, s.TDX_OPERAND_INVALID | op.OPERAND_R12),
        (outside, outside, s.TDX_OPERAND_ADDR_RANGE_ERROR | op.OPERAND_R12),
        (used, outside, s.TDX_OPERAND_ADDR_RANGE_ERROR | op.OPERAND_R13),
        (registers["r8"], free, s.TDX_OPERAND_BUSY | op.OPERAND_R12),
        (FIRST + PAGE_SIZE, FIRST, s.TDX_PAGE_NOT_FREE | op.OPERAND_R12),
        (free, FIRST + PAGE_SIZE, s.TDX_PAGE_NOT_FREE | op.OPERAND_R13),
        (used, free, s.TDX_PAGE_NOT_FREE | op.OPERAND_R12),
        (free, free, s.TDX_PAGE_NOT_FREE | op.OPERAND_R13),
    ):
        status, _ = rig.call(leaf.TDH_MEM_PAGE_DEMOTE, **(large | {"r12": r12, "r13": r13}))
        assert status == wanted, s.status_name(status)
    rig.must(leaf.TDH_MEM_PAGE_DEMOTE, **registers)


def test_a_debug_td_shows_l2_attributes_and_another_does_not() -> None:
    rig = Rig()
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    status, _ = rig.call(leaf.TDH_MEM_SEPT_RD, rcx=1, rdx=tdr | 1, r8=7)
    assert status == s.TDX_OPERAND_INVALID | op.OPERAND_RDX
    rig.module.tds.at(tdr >> PAGE_SHIFT).attributes.store(ATTRIBUTES_DEBUG)
    assert rig.must(leaf.TDH_MEM_SEPT_RD, rcx=1, rdx=tdr | 1, r8=7).r8 == 0
    assert rig.must(leaf.TDH_MEM_SEPT_RD, rcx=1, rdx=tdr, r8=7).r8 == 7


def test_a_key_engine_that_is_taken_or_fails() -> None:
    for key in ((leaf.TDH_MNG_KEY_CONFIG, 0, ""), (leaf.TDH_SYS_KEY_CONFIG, 0, "")):
        rig = Rig(started=key not in START)
        registers = (RECIPES.get(key) or START[key])(rig)
        engine = rig.module.keys.key_engines.at(0)
        engine.try_exclusive()
        assert rig.call(key[0], **registers)[0] == s.TDX_OPERAND_BUSY | op.OPERAND_KET
        engine.release_exclusive()
        rig.module.key_engine_works = False
        assert rig.call(key[0], **registers)[0] == s.TDX_KEY_GENERATION_FAILED
        rig.module.key_engine_works = True
        rig.must(key[0], **registers)


def test_gpas_beyond_the_private_ones() -> None:
    rig = Rig()
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    shared_bit = 1 << PRIVATE_GPA_BITS[0]
    for number in (leaf.TDH_MEM_PAGE_AUG, leaf.TDH_MEM_RANGE_BLOCK, leaf.TDH_MEM_SEPT_RD):
        status, args = rig.call(number, rcx=shared_bit, rdx=tdr, r8=near(0))
        assert status == s.TDX_OPERAND_INVALID | op.OPERAND_RCX
        assert (args.rcx, args.rdx) == (0, 0)
    building = Rig()
    call = RECIPES[leaf.TDH_MEM_PAGE_ADD, 0, ""](building)
    status, _ = building.call(leaf.TDH_MEM_PAGE_ADD, **(call | {"rcx": shared_bit}))
    assert status == s.TDX_OPERAND_INVALID | op.OPERAND_RCX


def test_a_guest_meets_a_taken_entry_a_shared_gpa_and_an_unknown_call() -> None:
    rig = Rig()
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=near(0))
    rig.module.tds.sept.find((FIRST >> PAGE_SHIFT) + 65).try_exclusive(0)
    td = rig.module.tds.at(tdr >> PAGE_SHIFT)
    guest = Guest(rig.module.processor(0), td)
    accept = TdxModuleArgs.of(rcx=0)
    assert guest.tdcall(TDG_MEM_PAGE_ACCEPT, accept) == s.TDX_OPERAND_BUSY | op.OPERAND_RCX
    assert guest.tdcall(TDG_MEM_PAGE_ACCEPT + 1, accept) == s.TDX_OPERAND_INVALID | op.OPERAND_RAX
    with pytest.raises(TdExit) as caught:
        guest.access(1 << PRIVATE_GPA_BITS[0])
    assert caught.value.gpa == 1 << PRIVATE_GPA_BITS[0]


def test_shutdown_waits_for_whoever_is_inside() -> None:
    rig = Rig()
    rig.module.global_lock.try_shared()
    assert rig.call(leaf.TDH_SYS_SHUTDOWN, rcx=1)[0] == s.TDX_SYS_BUSY
    rig.module.global_lock.release_shared()
    assert rig.call(leaf.TDH_SYS_SHUTDOWN, rcx=2)[0] == s.TDX_OPERAND_INVALID | op.OPERAND_RCX
    rig.must(leaf.TDH_SYS_SHUTDOWN, rcx=1)
    assert rig.call(leaf.TDH_MEM_TRACK, rcx=FIRST)[0] == s.TDX_SYS_SHUTDOWN


def test_a_2m_page_outside_the_tdmr() -> None:
    rig = Rig()
    registers = RECIPES[leaf.TDH_MEM_PAGE_AUG, 0, "2M"](rig)
    status, _ = rig.call(leaf.TDH_MEM_PAGE_AUG, **(registers | {"r8": FIRST - SIZE_2M}))
    assert status == s.TDX_OPERAND_ADDR_RANGE_ERROR | op.OPERAND_R8
