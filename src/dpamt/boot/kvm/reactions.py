"""What KVM does about a SEAMCALL that fails, as its source says: by leaf and by its answer.

``dpamt boot --kvm --sweep`` holds what it sees against this.  The function beside each leaf is
where the answer is looked at.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c; arch/x86/virt/vmx/tdx/seamcall_internal.h (sc_retry);
for TDH.PHYMEM.PAMT.* the test patches for Dynamic PAMT (tests/boot/kernel/patches).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_FLUSHVP_NOT_DONE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_NO_HKID_READY_TO_WBCACHE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_RND_NO_ENTROPY,
    TDX_VCPU_NOT_ASSOCIATED,
)

ERROR: Final = 1 << 63
ENTROPY_TRIES: Final = 10
"""RDRAND_RETRY_LOOPS: how often sc_retry makes a SEAMCALL that found no random number."""


class Does(Enum):
    """What is seen of KVM."""

    AGAIN = "makes the call again, and the TD goes on"
    GOES_ON = "goes on, and nothing is lost"
    REFUSES = "gives the VMM an error; the VM lives"
    BUGS = "bugs the VM, and gives all back"
    EXITS = "ends KVM_RUN with KVM_EXIT_INTERNAL_ERROR; the VM lives"
    LOSES = "bugs the VM, and pages stay with the module"
    LEAKS = "WARNs, and leaks what it cannot reclaim"


@dataclass(frozen=True, slots=True)
class Reaction:
    """What KVM does, in which function; ``error`` is the errno that the VMM gets, if any."""

    does: Does
    function: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Of a leaf: after BUSY, after BUSY of the same call once more, after any other error."""

    function: str
    busy: Does
    twice: Does
    other: Does
    error: str = "EIO"
    busy_error: str = "EIO"


def _bugs(function: str) -> _Rule:
    return _Rule(function, Does.BUGS, Does.BUGS, Does.BUGS)


def _maps(function: str) -> _Rule:
    """BUSY is RET_PF_RETRY: tried without limit."""
    return _Rule(function, Does.AGAIN, Does.AGAIN, Does.BUGS)


def _zaps(function: str) -> _Rule:
    """tdh_do_no_vcpus: once more with vCPUs kept out."""
    return _Rule(function, Does.AGAIN, Does.LOSES, Does.LOSES)


def _ends(function: str) -> _Rule:
    return _Rule(function, Does.LEAKS, Does.LEAKS, Does.LEAKS)


_RULES: Final = {
    leaf.TDH_MNG_CREATE: _bugs("__tdx_td_init"),
    leaf.TDH_MNG_KEY_CONFIG: _bugs("tdx_do_tdh_mng_key_config"),
    leaf.TDH_MNG_ADDCX: _bugs("__tdx_td_init"),
    leaf.TDH_MNG_INIT: _bugs("__tdx_td_init"),
    leaf.TDH_MNG_RD: _Rule("tdx_td_init", Does.GOES_ON, Does.GOES_ON, Does.GOES_ON),
    leaf.TDH_VP_CREATE: _bugs("tdx_td_vcpu_init"),
    leaf.TDH_VP_ADDCX: _bugs("tdx_td_vcpu_init"),
    leaf.TDH_VP_INIT: _bugs("tdx_td_vcpu_init"),
    leaf.TDH_VP_WR: _bugs("tdh_vp_wr_failed"),
    leaf.TDH_VP_RD: _bugs("tdh_vp_rd_failed"),
    leaf.TDH_MEM_SEPT_ADD: _maps("tdx_sept_map_nonleaf_spte"),
    leaf.TDH_MEM_PAGE_ADD: _maps("tdx_mem_page_add"),
    leaf.TDH_MEM_PAGE_AUG: _maps("tdx_mem_page_aug"),
    leaf.TDH_MR_EXTEND: _bugs("tdx_gmem_post_populate"),
    leaf.TDH_MR_FINALIZE: _Rule(
        "tdx_td_finalize", Does.REFUSES, Does.REFUSES, Does.BUGS, busy_error="EBUSY"
    ),
    leaf.TDH_VP_ENTER: _Rule("tdx_exit_handlers_fastpath", Does.AGAIN, Does.AGAIN, Does.EXITS, ""),
    leaf.TDH_MEM_RANGE_BLOCK: _zaps("tdx_sept_remove_leaf_spte"),
    leaf.TDH_MEM_TRACK: _zaps("tdx_track"),
    leaf.TDH_MEM_PAGE_REMOVE: _zaps("tdx_sept_remove_leaf_spte"),
    leaf.TDH_PHYMEM_PAGE_WBINVD: _Rule(
        "tdx_sept_remove_leaf_spte", Does.LOSES, Does.LOSES, Does.LOSES
    ),
    leaf.TDH_VP_FLUSH: _Rule("tdx_flush_vp_on_cpu", Does.LOSES, Does.LOSES, Does.LOSES),
    leaf.TDH_MNG_VPFLUSHDONE: _ends("tdx_mmu_release_hkid"),
    leaf.TDH_PHYMEM_CACHE_WB: _ends("smp_func_do_phymem_cache_wb"),
    leaf.TDH_MNG_KEY_FREEID: _ends("tdx_mmu_release_hkid"),
    leaf.TDH_PHYMEM_PAGE_RECLAIM: _ends("__tdx_reclaim_page"),
    leaf.TDH_PHYMEM_PAMT_REMOVE: _ends("tdx_pamt_put"),
}

_MAPS: Final = "tdx_sept_"
"""Functions of KVM that map and zap under mmu_lock; get in any other is for a control page."""


_SPECIAL: Final = frozenset(
    status & STATUS_MASK
    for status in (
        TDX_INTERRUPTED_RESUMABLE,
        TDX_VCPU_NOT_ASSOCIATED,
        TDX_FLUSHVP_NOT_DONE,
        TDX_NO_HKID_READY_TO_WBCACHE,
    )
)
"""Answers that are no failures where KVM looks for them."""


def reaction(number: int, status: int, tries: int, where: str) -> Reaction | None:
    """What KVM does when a call of a leaf is answered ``status``, ``tries`` times in a row.

    ``where`` is the function of KVM's that made the call.  None: the source was not read for this.
    """
    kind = status & STATUS_MASK
    if number == leaf.TDH_PHYMEM_PAMT_ADD and status & ERROR:
        if where.startswith(_MAPS):
            return Reaction(Does.GOES_ON, "tdx_pamt_get; kvm_tdp_mmu_map tries again")
        return Reaction(Does.REFUSES, "tdx_alloc_control_page", "ENOMEM")
    if number == leaf.TDH_PHYMEM_PAGE_WBINVD and not where.startswith(_MAPS) and status & ERROR:
        return Reaction(Does.LEAKS, "tdx_reclaim_td_control_pages")
    rule = _RULES.get(number)
    if rule is None or not status & ERROR or kind in _SPECIAL:
        return None
    if status == TDX_RND_NO_ENTROPY:
        if tries < ENTROPY_TRIES:
            return Reaction(Does.AGAIN, "sc_retry")
        if number in (leaf.TDH_MNG_CREATE, leaf.TDH_MNG_ADDCX):
            return Reaction(Does.REFUSES, rule.function, "EAGAIN")
    if number == leaf.TDH_MNG_INIT and kind == TDX_OPERAND_INVALID & STATUS_MASK:
        return Reaction(Does.REFUSES, rule.function, "EINVAL")
    if kind == TDX_OPERAND_BUSY:
        does = rule.busy if tries == 1 else rule.twice
        return Reaction(does, rule.function, rule.busy_error if _gives_error(does) else "")
    if number == leaf.TDH_VP_ENTER:
        return Reaction(rule.other, "__tdx_handle_exit")
    return Reaction(rule.other, rule.function, rule.error if _gives_error(rule.other) else "")


def may_lose(number: int) -> bool:
    """Whether pages stay with the module when this leaf fails."""
    rule = _RULES.get(number)
    return rule is not None and rule.other in (Does.LOSES, Does.LEAKS)


def _gives_error(does: Does) -> bool:
    return does in (Does.REFUSES, Does.BUGS, Does.LOSES)
