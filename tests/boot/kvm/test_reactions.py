"""What KVM does about a failed SEAMCALL: what holds of every leaf, whatever its row says."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.status import (
    STATUS_NAMES,
    TDX_FLUSHVP_NOT_DONE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_NO_HKID_READY_TO_WBCACHE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_SUCCESS,
    TDX_VCPU_NOT_ASSOCIATED,
)
from dpamt.boot.kvm.reactions import Does, may_lose, reaction

KVM = "tdx_td_vcpu_init"
MAPS = "tdx_sept_set_private_spte"
FAILURE = next(
    status for status, name in STATUS_NAMES.items() if name == "TDX_PAGE_METADATA_INCORRECT"
)
READ = sorted(number for number in leaf.LEAF_NAMES if reaction(number, FAILURE, 1, KVM) is not None)
"""Leaves whose place in the source was read."""
EVERY = st.sampled_from(READ)
TRIES = st.integers(1, 12)
NO_FAILURES = (
    *(TDX_INTERRUPTED_RESUMABLE, TDX_VCPU_NOT_ASSOCIATED, TDX_FLUSHVP_NOT_DONE),
    TDX_NO_HKID_READY_TO_WBCACHE,
)


def test_every_reaction_has_words_of_its_own() -> None:
    """Two with the same words would be one."""
    assert len(Does) == 7
    assert all(isinstance(does.value, str) and len(does.value) > 10 for does in Does)


def test_what_kvm_calls_is_covered() -> None:
    assert len(READ) >= 25
    assert leaf.TDH_SYS_INIT not in READ
    assert reaction(leaf.TDH_SYS_INIT, FAILURE, 1, KVM) is None


@given(EVERY, TRIES)
def test_success_and_answers_that_are_looked_for_are_no_failures(number: int, tries: int) -> None:
    assert reaction(number, TDX_SUCCESS, tries, MAPS) is None
    assert reaction(number, 0x600, tries, MAPS) is None  # details of a success
    if number not in (leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAGE_WBINVD):
        assert all(reaction(number, status, tries, KVM) is None for status in NO_FAILURES)


@given(EVERY, st.sampled_from([FAILURE, TDX_OPERAND_BUSY, TDX_RND_NO_ENTROPY]), TRIES,
       st.sampled_from([KVM, MAPS]))  # fmt: skip
def test_an_errno_comes_with_what_the_vmm_is_told_of(
    number: int, status: int, tries: int, where: str
) -> None:
    found = reaction(number, status, tries, where)
    assert found is not None
    assert re.match("[a-z_]+", found.function)
    assert found.error in ("", "EIO", "EBUSY", "ENOMEM", "EAGAIN", "EINVAL")
    gives = found.does in (Does.REFUSES, Does.BUGS, Does.LOSES)
    assert bool(found.error) == gives


@given(EVERY)
def test_a_detail_of_a_status_changes_nothing(number: int) -> None:
    for status in (FAILURE, TDX_OPERAND_BUSY, TDX_OPERAND_INVALID):
        assert reaction(number, status | 0x1234, 1, KVM) == reaction(number, status, 1, KVM)


@given(EVERY, TRIES)
def test_no_entropy_is_tried_ten_times(number: int, tries: int) -> None:
    """sc_retry() stands below all of KVM; after it, only who takes a KeyID says EAGAIN."""
    if number == leaf.TDH_PHYMEM_PAMT_ADD:
        return  # whatever failed, get says ENOMEM or tries again
    found = reaction(number, TDX_RND_NO_ENTROPY, tries, MAPS)
    assert found is not None
    if tries < 10:
        assert (found.does, found.function, found.error) == (Does.AGAIN, "sc_retry", "")
    elif number in (leaf.TDH_MNG_CREATE, leaf.TDH_MNG_ADDCX):
        assert (found.does, found.error) == (Does.REFUSES, "EAGAIN")
    else:
        assert found == reaction(number, FAILURE, 1, MAPS)


@given(EVERY)
def test_who_waits_for_a_lock_waits_no_worse_the_first_time(number: int) -> None:
    once = reaction(number, TDX_OPERAND_BUSY, 1, MAPS)
    for tries in (2, 3, 9):
        again = reaction(number, TDX_OPERAND_BUSY, tries, MAPS)
        assert once is not None
        assert again is not None
        assert again == reaction(number, TDX_OPERAND_BUSY, 2, MAPS)
        assert once.does == again.does or (once.does, again.does) == (Does.AGAIN, Does.LOSES)
        assert once.function == again.function


@given(st.sampled_from(sorted(leaf.LEAF_NAMES)))
def test_pages_are_lost_where_the_reaction_says_so(number: int) -> None:
    found = reaction(number, FAILURE, 1, MAPS)
    lossy = found is not None and found.does in (Does.LOSES, Does.LEAKS)
    assert may_lose(number) == lossy


@pytest.mark.parametrize(
    ("number", "status", "tries", "where", "does", "error"),
    [
        # seamcall in tdx_pamt_get(): a fault is tried again; a control page is refused.
        (leaf.TDH_PHYMEM_PAMT_ADD, FAILURE, 1, MAPS, Does.GOES_ON, ""),
        (leaf.TDH_PHYMEM_PAMT_ADD, FAILURE, 1, KVM, Does.REFUSES, "ENOMEM"),
        # tdx_sept_remove_leaf_spte() bugs the VM; tdx_reclaim_td_control_pages() only warns.
        (leaf.TDH_PHYMEM_PAGE_WBINVD, FAILURE, 1, MAPS, Does.LOSES, "EIO"),
        (leaf.TDH_PHYMEM_PAGE_WBINVD, FAILURE, 1, KVM, Does.LEAKS, ""),
        # __tdx_td_init(): TD_PARAMS that the module does not take are the VMM's mistake.
        (leaf.TDH_MNG_INIT, TDX_OPERAND_INVALID, 1, KVM, Does.REFUSES, "EINVAL"),
        (leaf.TDH_MNG_INIT, FAILURE, 1, KVM, Does.BUGS, "EIO"),
        (leaf.TDH_MNG_CREATE, TDX_RND_NO_ENTROPY, 10, KVM, Does.REFUSES, "EAGAIN"),
        (leaf.TDH_MNG_ADDCX, TDX_RND_NO_ENTROPY, 11, KVM, Does.REFUSES, "EAGAIN"),
        (leaf.TDH_VP_INIT, TDX_RND_NO_ENTROPY, 10, KVM, Does.BUGS, "EIO"),
        (leaf.TDH_VP_INIT, TDX_RND_NO_ENTROPY, 9, KVM, Does.AGAIN, ""),
        (leaf.TDH_MR_FINALIZE, TDX_OPERAND_BUSY, 1, KVM, Does.REFUSES, "EBUSY"),
        (leaf.TDH_MR_FINALIZE, FAILURE, 1, KVM, Does.BUGS, "EIO"),
        (leaf.TDH_VP_ENTER, TDX_OPERAND_BUSY, 5, KVM, Does.AGAIN, ""),
        (leaf.TDH_VP_ENTER, FAILURE, 1, KVM, Does.EXITS, ""),
        (leaf.TDH_MEM_PAGE_AUG, TDX_OPERAND_BUSY, 9, MAPS, Does.AGAIN, ""),
        (leaf.TDH_MEM_PAGE_AUG, FAILURE, 1, MAPS, Does.BUGS, "EIO"),
        (leaf.TDH_MEM_RANGE_BLOCK, TDX_OPERAND_BUSY, 1, MAPS, Does.AGAIN, ""),
        (leaf.TDH_MEM_RANGE_BLOCK, TDX_OPERAND_BUSY, 2, MAPS, Does.LOSES, "EIO"),
        (leaf.TDH_MNG_KEY_FREEID, TDX_OPERAND_BUSY, 1, KVM, Does.LEAKS, ""),
        (leaf.TDH_MNG_RD, FAILURE, 1, KVM, Does.GOES_ON, ""),
    ],
)  # fmt: skip
def test_what_the_source_does(
    number: int, status: int, tries: int, where: str, does: Does, error: str
) -> None:
    found = reaction(number, status, tries, where)
    assert found is not None
    assert (found.does, found.error) == (does, error)
