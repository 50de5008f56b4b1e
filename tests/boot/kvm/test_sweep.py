"""The sweep: which call fails in which life, and what is told of each."""

import pytest

from dpamt.abi.leaves import TDH_MNG_ADDCX, TDH_MNG_CREATE, TDH_PHYMEM_PAMT_ADD
from dpamt.abi.status import TDX_OPERAND_BUSY
from dpamt.boot.console import Complaint
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.sweep import Sweep, expected_warnings
from dpamt.errors import InputError

PEACE = (TDH_PHYMEM_PAMT_ADD, TDH_MNG_CREATE, TDH_MNG_ADDCX, TDH_MNG_ADDCX)


def stock(tds: int = 0, pages: int = 0, pairs: int = 0) -> PhaseStock:
    return PhaseStock("", {}, pairs, tds, pages, 0, 0)


def test_each_call_of_the_life_in_peace_fails_once() -> None:
    sweep = Sweep("TDX_OPERAND_BUSY")
    stocks = [stock()]
    assert sweep.answer(TDH_MNG_CREATE) is None  # before the first life
    assert sweep.next_life(stocks)
    assert [sweep.answer(leaf) for leaf in PEACE] == [None] * 4
    failed = []
    stocks.append(stock())
    while sweep.next_life(stocks):
        calls = PEACE if len(sweep.lives) < 3 else PEACE[1:]  # the pair is there already
        failed.append([sweep.answer(leaf) for leaf in calls].index(TDX_OPERAND_BUSY))
        stocks.append(stock(len(sweep.lives), 2 * len(sweep.lives), 0))
    assert failed == [0, 1, 1, 2]
    assert sweep.done
    assert [(life.tds, life.pages) for life in sweep.lives] == [(1, 2)] * 4
    assert [life.nth for life in sweep.lives] == [1, 1, 1, 2]
    assert sweep.answer(TDH_MNG_CREATE) is None


def test_a_call_that_does_not_come_is_told() -> None:
    sweep = Sweep("0xc000010000000000")
    sweep.next_life([stock()])
    sweep.answer(TDH_PHYMEM_PAMT_ADD)
    sweep.next_life([stock(), stock()])
    assert sweep.answer(TDH_MNG_CREATE) is None
    assert not sweep.next_life([stock(), stock(), stock()])
    assert [life.came for life in sweep.lives] == [False]


def test_reactions_are_those_of_the_lines_of_each_life() -> None:
    sweep = Sweep("TDX_OPERAND_BUSY")
    sweep.next_life([stock()])
    sweep.answer(TDH_MNG_CREATE)
    sweep.answer(TDH_MNG_ADDCX)
    sweep.next_life([stock(), stock()])
    sweep.next_life([stock(), stock(), stock()])
    sweep.finish(
        [
            "dpamt: phase 1",
            "dpamt: phase 2",
            "kvm_intel: SEAMCALL TDH_MNG_CREATE failed: 0x8000020000000000",
            "dpamt: at TDX_INIT_VM",
            "dpamt: td 0 error 5 hw 0x0",
            "dpamt: phase 3",
        ],
        ("the TD",),
    )
    assert [life.reactions for life in sweep.lives] == [
        ["the TD was not built: TDX_INIT_VM: EIO", "SEAMCALL TDH_MNG_CREATE failed"],
        [],
    ]


def test_the_kernels_own_words_about_a_failed_seamcall_are_expected_and_no_others() -> None:
    own = Complaint("WARNING", "vmx/tdx.c:1702 at tdx_sept_set_private_spte+0x793/0x7e8", ())
    core = Complaint("WARNING", "arch/x86/virt/vmx/tdx/tdx.c:2164 at tdx_pamt_get+0x1/0x2", ())
    other = Complaint("WARNING", "vmx/main.c:498 at vt_cache_reg+0x10/0x18", ())
    lock = Complaint("lockdep", "possible circular locking dependency detected", ())
    assert expected_warnings([own, core, other, lock]) == [own, core]


def test_a_status_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean TDX_OPERAND_BUSY"):
        Sweep("TDX_OPERAND_BUZY")
