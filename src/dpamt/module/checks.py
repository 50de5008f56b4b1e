"""The building blocks about TDs and pages that many leaves share: TDR, STATE, NEWPAGE.

Each makes its checks in the module's order and takes its locks into ``lp.locks``; the dispatcher
releases them, whatever the outcome.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [helpers.c].
"""

from typing import Final

from dpamt.abi.operands import (
    OPERAND_OP_STATE,
    OPERAND_RCX,
    OPERAND_TDR,
)
from dpamt.abi.pages import (
    LEVEL_2M,
    LEVEL_4K,
    PAGE_SHIFT,
    PAGE_SIZE,
    PT_TDR,
    PT_TDVPR,
)
from dpamt.abi.states import (
    TD_KEYS_CONFIGURED,
    VCPU_READY,
)
from dpamt.abi.status import (
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_OP_STATE_INCORRECT,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_PAGE_NOT_FREE,
    TDX_TD_FATAL,
    TDX_TD_KEYS_NOT_CONFIGURED,
    TDX_TDCS_NOT_ALLOCATED,
    TDX_TDCX_NUM_INCORRECT,
    TDX_VCPU_ASSOCIATED,
    TDX_VCPU_STATE_INCORRECT,
)
from dpamt.abi.td_params import TDVPS_MIN_PAGES, TDVPS_PAGES_PER_L2_VM
from dpamt.module.fatal import ModuleFatal
from dpamt.module.pamt import AT_2M, OUT_OF_RANGE, OWNER_SHIFT, TYPE_MASK, PamtRegion
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import (
    HEADER_FATAL,
    HEADER_LIFECYCLE_MASK,
    HEADER_LIFECYCLE_SHIFT,
    HEADER_TDCX_MASK,
    NO_LP,
    Td,
    Vcpu,
)
from dpamt.sync import BUSY, DECLINED, EXCLUSIVE, SHARED

_LIVE: Final = TD_KEYS_CONFIGURED << HEADER_LIFECYCLE_SHIFT
_LIVE_MASK: Final = HEADER_FATAL | HEADER_LIFECYCLE_MASK
_STATE_MASK: Final = _LIVE_MASK | HEADER_TDCX_MASK
_PAGE_OFFSET: Final = PAGE_SIZE - 1
# TDs and VCPUs.


def lock_tdr(lp: LogicalProcessor, hpa: int, operand: int, how: int) -> Td:
    """TDR(operand, how): the TD, the PAMT path of its TDR locked."""
    place = lp.tds.places.get(hpa)
    if place is None:
        region = _region_of(lp, hpa, operand)
        page = hpa >> PAGE_SHIFT
        _lock_tdr_entry(lp, region, page & 511, operand, how)
        td = lp.tds.at(page)
        lp.tds.places[hpa] = region, page & 511, td
        return td
    region, index, td = place
    entry = lp.locks.path(region, index, how)
    if entry != PT_TDR:
        if entry != DECLINED:
            raise Refused(TDX_PAGE_METADATA_INCORRECT | operand)
        _lock_tdr_entry(lp, region, index, operand, how)
    return td


def _lock_tdr_entry(
    lp: LogicalProcessor, region: PamtRegion, index: int, operand: int, how: int
) -> None:
    """Lock the path to a PAMT entry, step by step: it is a TDR's."""
    entry = lp.pamt.walk_4k(region, index, how, lp.locks)
    if entry != PT_TDR:
        raise Refused(_not_the_type(entry) | operand)


def _region_of(lp: LogicalProcessor, hpa: int, operand: int) -> PamtRegion:
    """Format and range of an explicit private 4K HPA: the 2M region it lies in.

    An HPA whose region has been asked for before has passed them, except for its offset in the
    page.
    """
    if hpa & lp.module.not_private_4k:
        raise Refused(TDX_OPERAND_INVALID | operand)
    region = lp.pamt.find_region(hpa >> 21)
    if region is None:
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | operand)
    return region


def lock_owner(lp: LogicalProcessor, entry: int, how: int) -> Td:
    """The TD that owns a page in use, from its PAMT entry; its TDR locked implicitly.

    Raises ModuleFatal where there is no such TDR.
    """
    page = entry >> OWNER_SHIFT
    lp.pamt.find(page)
    busy = lp.pamt.lock_found(page, LEVEL_4K, how, lp.locks)
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_TDR)
    return lp.tds.at(page)


def lock_tdvpr(lp: LogicalProcessor, hpa: int, operand: int, how: int) -> tuple[Vcpu, int]:
    """The VCPU whose TDVPR is at ``hpa``, its PAMT path locked; and the TDVPR's PAMT entry."""
    region = _region_of(lp, hpa, operand)
    page = hpa >> PAGE_SHIFT
    entry = lp.pamt.walk_4k(region, page & 511, how, lp.locks)
    if entry < 0 or entry & TYPE_MASK != PT_TDVPR:
        raise Refused(_not_the_type(entry) | operand)
    return lp.tds.vcpu(page), entry


def _not_the_type(walked: int) -> int:
    """Status of an explicit operand whose walk did not end at the wanted type."""
    return TDX_OPERAND_BUSY if walked == BUSY else TDX_PAGE_METADATA_INCORRECT


def check_keys(td: Td) -> int:
    """STATE steps 1 and 2: the TD is not FATAL and its keys are configured; its header."""
    header = td.header.load()
    _check_header(header, 0)
    return header


def _check_header(header: int, min_tdcx: int) -> None:
    """STATE steps 1 to 3, on a header; ``min_tdcx`` as in the header."""
    if header & _LIVE_MASK != _LIVE:
        if header & HEADER_FATAL:
            raise Refused(TDX_TD_FATAL)
        raise Refused(TDX_TD_KEYS_NOT_CONFIGURED)
    if header & HEADER_TDCX_MASK < min_tdcx:
        raise Refused(TDX_TDCS_NOT_ALLOCATED)


def check_state(lp: LogicalProcessor, td: Td, allowed: frozenset[int]) -> int:
    """STATE(sh): the TD is usable and its OP_STATE allowed; OP_STATE stays locked shared."""
    header = td.header.load()
    if header & _STATE_MASK not in lp.live_headers:
        _check_header(header, lp.module.header_min_tdcx)
    op_state = lp.locks.shared(td.op_state)
    if op_state not in allowed:
        if op_state < 0:
            raise Refused(TDX_OPERAND_BUSY | OPERAND_OP_STATE)
        raise Refused(TDX_OP_STATE_INCORRECT | op_state)
    return op_state


def check_state_unlocked(lp: LogicalProcessor, td: Td, allowed: frozenset[int]) -> int:
    """STATE(no lock): for leaves that hold the TDR exclusively; the TD's header."""
    header = td.header.load()
    _check_header(header, lp.module.header_min_tdcx)
    op_state = td.op_state.load()
    if op_state not in allowed:
        raise Refused(TDX_OP_STATE_INCORRECT | op_state)
    return header


def check_tdvps(vcpu: Vcpu, td: Td) -> None:
    """The VCPU has all pages of its TDVPS."""
    pages = vcpu.pages.load()
    l2_vms = td.l2_vms.load()
    if pages < TDVPS_MIN_PAGES + TDVPS_PAGES_PER_L2_VM * l2_vms:
        raise Refused(TDX_TDCX_NUM_INCORRECT)


def associate(lp: LogicalProcessor, vcpu: Vcpu, td: Td) -> None:
    """Bind a VCPU that is READY to this processor; one that is bound to another must be flushed."""
    state = vcpu.state.load()
    if state != VCPU_READY:
        raise Refused(TDX_VCPU_STATE_INCORRECT | state)
    taken = vcpu.lp.compare_and_swap(NO_LP, lp.index + 1)
    if taken:
        td.associated.add(1)
        return
    associated = vcpu.lp.load()
    if associated != lp.index + 1:
        raise Refused(TDX_VCPU_ASSOCIATED)


# Pages.


def lock_new_page(lp: LogicalProcessor, hpa: int, operand: int) -> int:
    """NEWPAGE(operand): a free 4K page, its PAMT entry locked exclusively."""
    region, index = lock_new_entry(lp, hpa, operand)
    return region.base | index


def lock_new_entry(lp: LogicalProcessor, hpa: int, operand: int) -> tuple[PamtRegion, int]:
    """As :func:`lock_new_page`: the page as its region and its index there."""
    region = lp.regions.get(hpa >> 21)
    if region is None or hpa & _PAGE_OFFSET:
        region = _region_of(lp, hpa, operand)
    index = hpa >> PAGE_SHIFT & 511
    locks = lp.locks
    entry = locks.path(region, index, EXCLUSIVE)
    if entry == DECLINED:
        entry = lp.pamt.walk_4k(region, index, EXCLUSIVE, locks)
    if entry:
        if entry == AT_2M and lp.pamt.dynamic:
            first = region.first.load()
            if not first:
                raise Refused(TDX_MISSING_PAMT_PAGE_PAIR | operand)
        raise Refused(_not_the_type(entry) | operand)
    bits = region.bitmap.load()
    if (bits or region.reserved) and (bits | region.reserved) >> index & 1:
        raise Refused(TDX_PAGE_METADATA_INCORRECT | operand)
    return region, index


def lock_new_2m_page(lp: LogicalProcessor, hpa: int, operand: int) -> int:
    """A free 2M page, its PAMT entry locked exclusively: its first frame."""
    pamt = lp.pamt
    if hpa & lp.module.not_private_2m:
        raise Refused(TDX_OPERAND_INVALID | operand)
    page = hpa >> PAGE_SHIFT
    entry = pamt.walk(page, EXCLUSIVE, LEVEL_2M, lp.locks)
    if entry == OUT_OF_RANGE:
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | operand)
    if entry:
        raise Refused(_not_the_type(entry) | operand)
    used = pamt.any_use_of(page >> 9)
    if used:
        raise Refused(TDX_PAGE_METADATA_INCORRECT | operand)
    return page


def lock_in_use(lp: LogicalProcessor, page: int, level: int) -> None:
    """Lock implicitly and exclusively the PAMT entry of a page that the S-EPT points to.

    Raises ModuleFatal where the table has it at another level: the real module shuts down.
    """
    pamt = lp.pamt
    find_in_use(lp, page, level)
    busy = pamt.lock_found(page, level, EXCLUSIVE, lp.locks)
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)


def find_in_use(lp: LogicalProcessor, page: int, level: int) -> None:
    """As :func:`lock_in_use`, but without the lock."""
    found, _ = lp.pamt.find(page)
    if found != level:
        raise ModuleFatal(
            "a mapped page has no PAMT entry of its size",
            hpa=page << PAGE_SHIFT,
            expected=level,
            level=found,
        )


def lock_pair_page(lp: LogicalProcessor, page: int, operand: int) -> None:
    """A page to hold PAMT entries: its path locked shared, the entry reached free at any level."""
    pamt = lp.pamt
    walked = pamt.walk(page, SHARED, LEVEL_4K, lp.locks)
    if walked == BUSY:
        raise Refused(TDX_OPERAND_BUSY | operand)
    _, entry = pamt.reached(page, walked)
    if entry:
        raise Refused(TDX_PAGE_NOT_FREE | operand)
