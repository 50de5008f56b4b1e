"""Each SEAMCALL of a TD's life fails in turn: KVM reacts as its source says, call by call.

The table of reactions is written from Linux 7.3.4 arch/x86/kvm/vmx/tdx.c, not from the model; the
function is named beside each leaf.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.exits import EXIT_REASON_TDCALL, EXIT_UNDEFINED
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.abi.status import (
    TDX_EPT_WALK_FAILED,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
)
from dpamt.host.core.tdx_errno import EAGAIN, EBUSY, EINVAL, EIO
from dpamt.host.kvm.build import tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.module.view import ModuleView
from tests.host.rig import MIB, Host, booted
from tests.host.test_order_of_calls import Guest
from tests.host.test_refusals import Wall

ERROR = TDX_EPT_WALK_FAILED
"""An error that no rule of KVM excuses."""
PAGES = 3


class Outcome(NamedTuple):
    """What the first ioctl that failed returned, and whether the VM is bugged; before its end."""

    error: int
    bugged: bool


FINE = Outcome(0, False)
BUG = Outcome(-EIO, True)
DEAD_LATER = Outcome(-EIO, True)
"""The ioctl itself returned 0; the next one finds the VM dead."""

REACTIONS: dict[int, dict[int, Outcome]] = {
    # __tdx_td_init
    leaf.TDH_MNG_CREATE: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    leaf.TDH_MNG_KEY_CONFIG: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    leaf.TDH_MNG_ADDCX: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    leaf.TDH_MNG_INIT: {
        TDX_OPERAND_BUSY: BUG,
        ERROR: BUG,
        TDX_OPERAND_INVALID: Outcome(-EINVAL, False),
    },
    # tdx_td_init: td_tdcs_exec_read64() prints and returns 0
    leaf.TDH_MNG_RD: {TDX_OPERAND_BUSY: FINE, ERROR: FINE},
    # tdx_td_vcpu_init
    leaf.TDH_VP_CREATE: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    leaf.TDH_VP_ADDCX: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    leaf.TDH_VP_INIT: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    # tdh_vp_wr_failed
    leaf.TDH_VP_WR: {TDX_OPERAND_BUSY: DEAD_LATER, ERROR: DEAD_LATER},
    # tdx_sept_map_nonleaf_spte, tdx_mem_page_add, tdx_mem_page_aug: -EBUSY is RET_PF_RETRY
    leaf.TDH_MEM_SEPT_ADD: {TDX_OPERAND_BUSY: FINE, ERROR: BUG},
    leaf.TDH_MEM_PAGE_ADD: {TDX_OPERAND_BUSY: FINE, ERROR: BUG},
    leaf.TDH_MEM_PAGE_AUG: {TDX_OPERAND_BUSY: FINE, ERROR: BUG},
    # tdx_gmem_post_populate
    leaf.TDH_MR_EXTEND: {TDX_OPERAND_BUSY: BUG, ERROR: BUG},
    # tdx_td_finalize
    leaf.TDH_MR_FINALIZE: {TDX_OPERAND_BUSY: Outcome(-EBUSY, False), ERROR: BUG},
    # tdx_exit_handlers_fastpath; __tdx_handle_exit: unhandled_exit
    leaf.TDH_VP_ENTER: {TDX_OPERAND_BUSY: FINE, ERROR: Outcome(EXIT_UNDEFINED, False)},
    # tdx_sept_remove_leaf_spte, tdx_track: tdh_do_no_vcpus() tries once more
    leaf.TDH_MEM_RANGE_BLOCK: {TDX_OPERAND_BUSY: FINE, ERROR: Outcome(0, True)},
    leaf.TDH_MEM_TRACK: {TDX_OPERAND_BUSY: FINE, ERROR: Outcome(0, True)},
    leaf.TDH_MEM_PAGE_REMOVE: {TDX_OPERAND_BUSY: FINE, ERROR: Outcome(0, True)},
    # ... and WBINVD is not tried again
    leaf.TDH_PHYMEM_PAGE_WBINVD: {
        TDX_OPERAND_BUSY: Outcome(0, True),
        ERROR: Outcome(0, True),
    },
}
"""Leaf to status to the outcome; of the calls that are made while the VMM is there."""

AT_THE_END = (
    leaf.TDH_VP_FLUSH,
    leaf.TDH_MNG_VPFLUSHDONE,
    leaf.TDH_MNG_KEY_FREEID,
    leaf.TDH_PHYMEM_CACHE_WB,
    leaf.TDH_PHYMEM_PAGE_RECLAIM,
)
"""Leaves of kvm_destroy_vm, which has nobody to tell; pages stay with the module."""


def ioctls(host: Host, vm: Vm) -> Iterator[int]:
    """What a VMM does with a TD, one result after another: 0, an errno or an exit."""
    cpu = host.cpu
    yield tdx_td_init(vm, cpu)
    vcpu = tdx_vcpu_create(vm)
    if not isinstance(vcpu, Vcpu):
        yield vcpu
        return
    yield tdx_vcpu_init(vm, vcpu, cpu)
    yield tdx_init_mem_region(vm, vcpu, cpu, 0, PAGES, measure=True)
    yield tdx_td_finalize(vm, cpu)
    host.module.attach_guest(vcpu.tdvpr << PAGE_SHIFT, Guest(SIZE_2M, PAGES))
    left = tdx_vcpu_run(vm, vcpu, cpu)
    yield 0 if left == EXIT_REASON_TDCALL else left
    yield kvm_gmem_punch_hole(vm, cpu, SIZE_2M, PAGES * PAGE_SIZE)


def live(host: Host) -> tuple[Outcome, Vm]:
    """Until something fails."""
    vm = Vm(host.kernel, 4 * MIB)
    error = next((result for result in ioctls(host, vm) if result), 0)
    return Outcome(error, vm.bugged.load() != 0), vm


def made_by_a_calm_life(design: str) -> list[int]:
    host = booted(design)
    wall = Wall(host, lambda _leaf, _nth: False, 0)
    outcome, vm = live(host)
    assert outcome == FINE
    count = len(wall.made)
    kvm_destroy_vm(vm, host.cpu)
    assert set(wall.made[count:]) & set(AT_THE_END)
    return wall.made[:count]


DESIGNS = ("static", "merged")
CALM = {design: made_by_a_calm_life(design) for design in DESIGNS}


def few(total: int) -> list[int]:
    """All occurrences of a leaf that has few; of the others the first two, one inside, the last."""
    return list(range(total)) if total <= 9 else [0, 1, total // 2, total - 1]


CASES = [
    (design, number, status, nth)
    for design in DESIGNS
    for number, reactions in REACTIONS.items()
    for status in reactions
    for nth in few(CALM[design].count(number))
]


def test_every_leaf_that_a_life_needs_has_its_reactions() -> None:
    pamt = {leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE}
    for design in DESIGNS:
        assert set(CALM[design]) - pamt == set(REACTIONS)


@pytest.mark.parametrize(("design", "number", "status", "nth"), CASES)
def test_one_call_fails(design: str, number: int, status: int, nth: int) -> None:
    host = booted(design)
    wall = Wall(host, lambda made, n: (made, n) == (number, nth), status)
    outcome, vm = live(host)
    assert outcome == REACTIONS[number][status], LEAF_NAMES[number]
    assert wall.counts[number] > nth
    kvm_destroy_vm(vm, host.cpu)
    kept = ModuleView(host.module).used_pages()
    zapping = (leaf.TDH_MEM_RANGE_BLOCK, leaf.TDH_MEM_TRACK, leaf.TDH_MEM_PAGE_REMOVE)
    if status == ERROR and number in zapping:
        # The module did not give the page back: it is named by the audit of the module.
        assert kept or number == leaf.TDH_MEM_TRACK
    else:
        assert not kept
    if number != leaf.TDH_PHYMEM_PAGE_WBINVD and not kept:
        assert host.audit() == []
    assert vm.wait_for_sept_zap.load() == 0


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("number", AT_THE_END)
def test_a_call_of_the_end_fails(design: str, number: int) -> None:
    """What the module keeps, nobody else gets: the pages are told by the module's own state."""
    calm = booted(design)
    wall = Wall(calm, lambda _leaf, _nth: False, 0)
    _, vm = live(calm)
    kvm_destroy_vm(vm, calm.cpu)
    for nth in few(wall.counts[number]):
        host = booted(design)
        Wall(host, lambda made, n, nth=nth: (made, n) == (number, nth), ERROR)  # type: ignore[misc]
        outcome, vm = live(host)
        assert outcome == FINE
        kvm_destroy_vm(vm, host.cpu)
        kept = ModuleView(host.module).used_pages()
        assert kept
        assert host.audit(idle=False) == []
        assert any("WARNING" in line for line in host.log)


@pytest.mark.parametrize("number", [leaf.TDH_MNG_CREATE, leaf.TDH_MNG_ADDCX])
def test_no_entropy_is_for_user_space_after_ten_times(number: int) -> None:
    host = booted("merged")
    wall = Wall(host, lambda made, _n: made == number, TDX_RND_NO_ENTROPY)
    outcome, vm = live(host)
    assert outcome == Outcome(-EAGAIN, False)
    assert wall.counts[number] == 10
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


RETRIED = (
    leaf.TDH_MEM_SEPT_ADD,
    leaf.TDH_MEM_PAGE_ADD,
    leaf.TDH_MEM_PAGE_AUG,
    leaf.TDH_VP_ENTER,
)
"""Tried again for as long as it takes; BLOCK, TRACK and REMOVE once only."""
ONCE = (leaf.TDH_MEM_RANGE_BLOCK, leaf.TDH_MEM_TRACK, leaf.TDH_MEM_PAGE_REMOVE)


@given(
    design=st.sampled_from(DESIGNS),
    retried=st.sets(st.tuples(st.sampled_from(RETRIED), st.integers(0, 12)), max_size=20),
    once=st.sets(st.tuples(st.sampled_from(ONCE), st.integers(0, 3)), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_busy_calls_that_kvm_tries_again_change_nothing(
    design: str, retried: set[tuple[int, int]], once: set[tuple[int, int]]
) -> None:
    """No two BUSY in a row for a leaf that is tried once more: even occurrences only."""
    refused = retried | {(number, 2 * nth) for number, nth in once}
    host = booted(design)
    wall = Wall(host, lambda made, nth: (made, nth) in refused, TDX_OPERAND_BUSY)
    outcome, vm = live(host)
    assert outcome == FINE
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []
    calm = CALM[design]
    for number in RETRIED:
        met = sum(1 for nth in range(wall.counts[number]) if (number, nth) in refused)
        assert wall.counts[number] == calm.count(number) + met
