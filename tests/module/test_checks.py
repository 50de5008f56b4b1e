"""The blocks that leaves share, one by one: what each refuses, and what it has locked when done."""

from collections.abc import Callable
from typing import Any

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.operands import (
    OPERAND_OP_STATE,
    OPERAND_R8,
    OPERAND_RCX,
    OPERAND_TDR,
)
from dpamt.abi.pages import LEVEL_1G, LEVEL_2M, LEVEL_4K, PAGE_SIZE, SIZE_1G, SIZE_2M
from dpamt.abi.states import OP_STATE_INITIALIZED, OP_STATE_RUNNABLE
from dpamt.abi.td_params import TDVPS_MIN_PAGES, TDVPS_PAGES_PER_L2_VM
from dpamt.module import checks
from dpamt.module.fatal import ModuleFatal
from dpamt.module.refused import Refused
from dpamt.module.td import HEADER_FATAL, HEADER_LIFECYCLE_SHIFT, HEADER_TDCX_SHIFT
from dpamt.sync import EXCLUSIVE, SHARED
from tests.module.fuzz_watch import held_locks
from tests.module.rig import FIRST, RESERVED, SIZE, Rig

FREE = FIRST + 4 * SIZE_2M
"""A region with nothing in it."""
BACKED = FIRST + 5 * SIZE_2M
"""One with a pair, or in static mode as well."""
USED = BACKED + 7 * PAGE_SIZE
"""A TDR without anything else."""
LARGE = FIRST + 6 * SIZE_2M
"""A 2M page of the TD at FIRST."""
TDR = FIRST
SEPT = FIRST + 65 * PAGE_SIZE


def make(dynamic: bool = True) -> Rig:
    rig = Rig(dynamic)
    rig.make_td(FIRST, rig.hkid + 1)
    rig.add_pair(BACKED)
    rig.must(leaf.TDH_MNG_CREATE, rcx=USED, rdx=rig.hkid + 2)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=SIZE_2M | LEVEL_2M, rdx=TDR, r8=LARGE)
    return rig


def page_lock(hpa: int, how: int) -> dict[tuple[str, int], int]:
    """The path to a 4K page."""
    return {
        ("module.pamt.1g", hpa >> 30): SHARED,
        ("module.pamt.2m", hpa >> 21): SHARED,
        ("module.pamt.4k", hpa >> 12): how,
    }


def region_lock(hpa: int, how: int) -> dict[tuple[str, int], int]:
    return {("module.pamt.1g", hpa >> 30): SHARED, ("module.pamt.2m", hpa >> 21): how}


def refusal(rig: Rig, act: Callable[..., object], *given: Any) -> int:
    with pytest.raises(Refused) as caught:
        act(rig.module.processor(0), *given)
    rig.module.processor(0).locks.release_all()
    assert held_locks(rig.module) == {}
    return caught.value.status


def locked(
    rig: Rig, act: Callable[..., Any], *given: Any
) -> tuple[Any, dict[tuple[str, int], int]]:
    """(answer, what is locked now), and let go."""
    answer = act(rig.module.processor(0), *given)
    held = held_locks(rig.module)
    rig.module.processor(0).locks.release_all()
    assert held_locks(rig.module) == {}
    return answer, held


ODD = [1, 0x800, 1 << 63, 1 << 51]
"""Bits that no private HPA has."""


@pytest.mark.parametrize("operand", [OPERAND_RCX, OPERAND_R8])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_new_4k_page(dynamic: bool, operand: int) -> None:
    rig = make(dynamic)
    good = BACKED + 9 * PAGE_SIZE
    missing = s.TDX_MISSING_PAMT_PAGE_PAIR | operand
    incorrect = s.TDX_PAGE_METADATA_INCORRECT | operand
    for lock_new in (checks.lock_new_page, checks.lock_new_entry):
        for bit in ODD:
            assert refusal(rig, lock_new, good | bit, operand) == s.TDX_OPERAND_INVALID | operand
        for outside in (FIRST - PAGE_SIZE, FIRST + SIZE):
            found = refusal(rig, lock_new, outside, operand)
            assert found == s.TDX_OPERAND_ADDR_RANGE_ERROR | operand
        for used in (USED, LARGE, LARGE + 3 * PAGE_SIZE, SEPT):
            assert refusal(rig, lock_new, used, operand) == incorrect
        if dynamic:
            assert refusal(rig, lock_new, FREE, operand) == missing
        for index in range(4):
            page = RESERVED + index * PAGE_SIZE
            assert refusal(rig, lock_new, page, operand) == (missing if dynamic else incorrect)
        for hold in (rig.module.pamt.block(good >> 30), rig.module.pamt.region(good >> 21)):
            hold.first.try_exclusive()
            with pytest.raises(Refused) as caught:
                lock_new(rig.module.processor(0), good, operand)
            assert caught.value.status == s.TDX_OPERAND_BUSY | operand
            rig.module.processor(0).locks.release_all()
            hold.first.release_exclusive()
    page, held = locked(rig, checks.lock_new_page, good, operand)
    assert (page, held) == (good >> 12, page_lock(good, EXCLUSIVE))
    (region, index), held = locked(rig, checks.lock_new_entry, good, operand)
    assert (region, index) == (rig.module.pamt.region(good >> 21), 9)
    assert held == page_lock(good, EXCLUSIVE)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_reserved_or_pair_page_is_not_new(dynamic: bool) -> None:
    rig = make(dynamic)
    rig.add_pair(RESERVED)
    for index in range(4):
        status = refusal(rig, checks.lock_new_page, RESERVED + index * PAGE_SIZE, OPERAND_R8)
        assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_R8
    page, held = locked(rig, checks.lock_new_page, RESERVED + 4 * PAGE_SIZE, OPERAND_R8)
    assert (page, held) == (page << 12 >> 12, page_lock(RESERVED + 4 * PAGE_SIZE, EXCLUSIVE))
    if dynamic:
        bit = BACKED + 511 * PAGE_SIZE
        rig.module.pamt.take_pair_page(bit >> 12)
        status = refusal(rig, checks.lock_new_page, bit, OPERAND_R8)
        assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_R8
        locked(rig, checks.lock_new_page, bit - PAGE_SIZE, OPERAND_R8)


@pytest.mark.parametrize("operand", [OPERAND_RCX, OPERAND_R8])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_new_2m_page(dynamic: bool, operand: int) -> None:
    rig = make(dynamic)
    new = checks.lock_new_2m_page
    for bit in (*ODD, PAGE_SIZE, SIZE_2M // 2):
        assert refusal(rig, new, FREE | bit, operand) == s.TDX_OPERAND_INVALID | operand
    for outside in (FIRST - SIZE_2M, FIRST + SIZE, SIZE_1G):
        assert refusal(rig, new, outside, operand) == s.TDX_OPERAND_ADDR_RANGE_ERROR | operand
    for used in (BACKED, LARGE, RESERVED, FIRST):
        assert refusal(rig, new, used, operand) == s.TDX_PAGE_METADATA_INCORRECT | operand
    rig.module.pamt.region(FREE >> 21).first.try_shared()
    with pytest.raises(Refused) as caught:
        new(rig.module.processor(0), FREE, operand)
    assert caught.value.status == s.TDX_OPERAND_BUSY | operand
    rig.module.processor(0).locks.release_all()
    rig.module.pamt.region(FREE >> 21).first.release_shared()
    assert locked(rig, new, FREE, operand) == (FREE >> 12, region_lock(FREE, EXCLUSIVE))
    if dynamic:
        rig.module.pamt.take_pair_page((FREE >> 12) + 100)
        assert refusal(rig, new, FREE, operand) == s.TDX_PAGE_METADATA_INCORRECT | operand


def test_a_page_for_a_pair() -> None:
    rig = make()
    new = checks.lock_pair_page
    for used in (USED, LARGE, LARGE + 5 * PAGE_SIZE, SEPT):
        assert refusal(rig, new, used >> 12, OPERAND_R8) == s.TDX_PAGE_NOT_FREE | OPERAND_R8
    good = BACKED + 9 * PAGE_SIZE
    assert locked(rig, new, good >> 12, OPERAND_R8) == (None, page_lock(good, SHARED))
    bare = FREE + 9 * PAGE_SIZE
    assert locked(rig, new, bare >> 12, OPERAND_R8) == (None, region_lock(FREE, SHARED))
    rig.module.pamt.region(BACKED >> 21).entries.try_exclusive(9)
    with pytest.raises(Refused) as caught:
        new(rig.module.processor(0), good >> 12, OPERAND_R8)
    assert caught.value.status == s.TDX_OPERAND_BUSY | OPERAND_R8


@pytest.mark.parametrize("how", [SHARED, EXCLUSIVE])
@pytest.mark.parametrize("known", [False, True])
def test_a_tdr(how: int, known: bool) -> None:
    """At first, and when the place of the TDR is known."""
    rig = make()
    tds = rig.module.tds
    for operand in (OPERAND_RCX, OPERAND_R8):
        tds.places.clear()
        if known:
            locked(rig, checks.lock_tdr, TDR, operand, SHARED)
            locked(rig, checks.lock_tdr, USED, operand, SHARED)
        td, held = locked(rig, checks.lock_tdr, TDR, operand, how)
        assert td is tds.at(TDR >> 12)
        assert held == page_lock(TDR, how)
        region = rig.module.pamt.region(TDR >> 21)
        region.entries.try_exclusive(0)
        with pytest.raises(Refused) as caught:
            checks.lock_tdr(rig.module.processor(0), TDR, operand, how)
        assert caught.value.status == s.TDX_OPERAND_BUSY | operand
        rig.module.processor(0).locks.release_all()
        region.entries.release_exclusive(0)
        region.entries.try_shared(0)
        if how == SHARED:
            assert checks.lock_tdr(rig.module.processor(0), TDR, operand, how) is td
            assert held_locks(rig.module)["module.pamt.4k", TDR >> 12] == 2 * SHARED
        else:
            with pytest.raises(Refused) as caught:
                checks.lock_tdr(rig.module.processor(0), TDR, operand, how)
            assert caught.value.status == s.TDX_OPERAND_BUSY | operand
        rig.module.processor(0).locks.release_all()
        region.entries.release_shared(0)
        for bit in ODD:
            status = refusal(rig, checks.lock_tdr, TDR | bit, operand, how)
            assert status == s.TDX_OPERAND_INVALID | operand
        for outside in (FIRST - PAGE_SIZE, FIRST + SIZE):
            status = refusal(rig, checks.lock_tdr, outside, operand, how)
            assert status == s.TDX_OPERAND_ADDR_RANGE_ERROR | operand
        for other in (SEPT, LARGE, FREE, BACKED, TDR + PAGE_SIZE):
            status = refusal(rig, checks.lock_tdr, other, operand, how)
            assert status == s.TDX_PAGE_METADATA_INCORRECT | operand
    rig.module.pamt.clear_4k(USED >> 12)
    status = refusal(rig, checks.lock_tdr, USED, OPERAND_RCX, how)
    assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX


@pytest.mark.parametrize("how", [SHARED, EXCLUSIVE])
def test_a_tdvpr(how: int) -> None:
    rig = make()
    tdvpr = rig.tdvpr(TDR)
    for operand in (OPERAND_RCX, OPERAND_R8):
        (vcpu, entry), held = locked(rig, checks.lock_tdvpr, tdvpr, operand, how)
        assert vcpu is rig.module.tds.vcpu(tdvpr >> 12)
        assert entry >> 8 == TDR >> 12
        assert held == page_lock(tdvpr, how)
        for other in (TDR, SEPT, LARGE, FREE, BACKED, tdvpr + PAGE_SIZE):
            status = refusal(rig, checks.lock_tdvpr, other, operand, how)
            assert status == s.TDX_PAGE_METADATA_INCORRECT | operand
        assert refusal(rig, checks.lock_tdvpr, tdvpr | 1, operand, how) == (
            s.TDX_OPERAND_INVALID | operand
        )
        rig.module.pamt.region(tdvpr >> 21).first.try_exclusive()
        with pytest.raises(Refused) as caught:
            checks.lock_tdvpr(rig.module.processor(0), tdvpr, operand, how)
        assert caught.value.status == s.TDX_OPERAND_BUSY | operand
        rig.module.processor(0).locks.release_all()
        rig.module.pamt.region(tdvpr >> 21).first.release_exclusive()


@pytest.mark.parametrize("how", [SHARED, EXCLUSIVE])
def test_an_owner(how: int) -> None:
    rig = make()
    entry = TDR >> 12 << 8 | 4
    td, held = locked(rig, checks.lock_owner, entry, how)
    assert (td, held) == (rig.module.tds.at(TDR >> 12), {("module.pamt.4k", TDR >> 12): how})
    rig.module.pamt.region(TDR >> 21).entries.try_exclusive(0)
    with pytest.raises(Refused) as caught:
        checks.lock_owner(rig.module.processor(0), entry, how)
    assert caught.value.status == s.TDX_OPERAND_BUSY | OPERAND_TDR
    with pytest.raises(ModuleFatal) as fatal:
        checks.lock_owner(rig.module.processor(0), FREE >> 12 << 8 | 4, how)
    assert fatal.value.state == {"hpa": FREE}


def test_a_page_that_the_s_ept_points_to() -> None:
    rig = make()
    for page, level in ((SEPT, LEVEL_4K), (LARGE, LEVEL_2M)):
        array = (
            ("module.pamt.4k", page >> 12) if level == LEVEL_4K else ("module.pamt.2m", page >> 21)
        )
        held = {array: EXCLUSIVE}
        assert locked(rig, checks.lock_in_use, page >> 12, level) == (None, held)
        assert locked(rig, checks.find_in_use, page >> 12, level) == (None, {})
        checks.lock_in_use(rig.module.processor(0), page >> 12, level)
        with pytest.raises(Refused) as caught:
            checks.lock_in_use(rig.module.processor(1), page >> 12, level)
        assert caught.value.status == s.TDX_OPERAND_BUSY | OPERAND_RCX
        rig.module.processor(0).locks.release_all()
        for wrong in {LEVEL_4K, LEVEL_2M, LEVEL_1G} - {level}:
            for find in (checks.lock_in_use, checks.find_in_use):
                with pytest.raises(ModuleFatal) as fatal:
                    find(rig.module.processor(0), page >> 12, wrong)
                assert fatal.value.state == {"hpa": page, "expected": wrong, "level": level}
                assert fatal.value.reason == "a mapped page has no PAMT entry of its size"


STATES = frozenset({OP_STATE_INITIALIZED})


def test_the_state_of_a_td() -> None:
    """In the order FATAL, keys, TDCS pages, OP_STATE."""
    rig = make()
    td = rig.module.tds.at(TDR >> 12)
    lp = rig.module.processor(0)
    runnable = frozenset({OP_STATE_RUNNABLE})
    good = td.header.load()
    least = rig.module.release.min_tdcs_pages
    own = {("module.td.op_state", TDR >> 12): SHARED}
    assert locked(rig, checks.check_state, td, runnable) == (OP_STATE_RUNNABLE, own)
    assert locked(rig, checks.check_state_unlocked, td, runnable) == (good, {})
    assert checks.check_keys(td) == good
    for check in (checks.check_state, checks.check_state_unlocked):
        status = refusal(rig, check, td, STATES)
        assert status == s.TDX_OP_STATE_INCORRECT | OP_STATE_RUNNABLE
    td.op_state.try_exclusive()
    with pytest.raises(Refused) as caught:
        checks.check_state(lp, td, runnable)
    assert caught.value.status == s.TDX_OPERAND_BUSY | OPERAND_OP_STATE
    assert checks.check_state_unlocked(lp, td, runnable) == good
    td.op_state.release_exclusive()
    lp.locks.release_all()

    lifecycle = 3 << HEADER_LIFECYCLE_SHIFT
    pages = good >> HEADER_TDCX_SHIFT & 31
    assert pages == least
    few = good - (1 << HEADER_TDCX_SHIFT)
    more = good + (1 << HEADER_TDCX_SHIFT)
    no_keys = good & ~lifecycle
    for header, code in (
        (few, s.TDX_TDCS_NOT_ALLOCATED),
        (no_keys, s.TDX_TD_KEYS_NOT_CONFIGURED),
        (no_keys - (1 << HEADER_TDCX_SHIFT), s.TDX_TD_KEYS_NOT_CONFIGURED),
        (good | HEADER_FATAL, s.TDX_TD_FATAL),
        (no_keys | HEADER_FATAL, s.TDX_TD_FATAL),
        (few | HEADER_FATAL, s.TDX_TD_FATAL),
    ):
        td.header.store(header)
        for check in (checks.check_state, checks.check_state_unlocked):
            assert refusal(rig, check, td, runnable) == code
        if header == few:
            assert checks.check_keys(td) == few
        else:
            with pytest.raises(Refused) as caught:
                checks.check_keys(td)
            assert caught.value.status == code
    td.header.store(more)
    assert checks.check_state(lp, td, runnable) == OP_STATE_RUNNABLE


@pytest.mark.parametrize("l2_vms", [0, 1, 3])
def test_the_pages_of_a_vcpu(l2_vms: int) -> None:
    rig = make()
    td = rig.module.tds.at(TDR >> 12)
    td.l2_vms.store(l2_vms)
    vcpu = rig.module.tds.vcpu(rig.tdvpr(TDR) >> 12)
    enough = TDVPS_MIN_PAGES + TDVPS_PAGES_PER_L2_VM * l2_vms
    for pages in (enough, enough + 1):
        vcpu.pages.store(pages)
        checks.check_tdvps(vcpu, td)
    vcpu.pages.store(enough - 1)
    with pytest.raises(Refused) as caught:
        checks.check_tdvps(vcpu, td)
    assert caught.value.status == s.TDX_TDCX_NUM_INCORRECT
