"""TDH.PHYMEM.PAGE.RDMD, RECLAIM and WBINVD: one physical page, whoever owns it."""

from typing import Final

from dpamt.abi.operands import OPERAND_RCX
from dpamt.abi.pages import (
    INFO_LEVEL_MASK,
    INFO_RESERVED_MASK,
    LEVEL_1G,
    LEVEL_4K,
    LEVEL_PAGES,
    LEVEL_SHIFTS,
    PAGE_SHIFT,
    PT_EPT,
    PT_PAMT,
    PT_REG,
    PT_TDCX,
    PT_TDR,
    PT_TDVPR,
    RDMD_NON_LEAF,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import TD_TEARDOWN
from dpamt.abi.status import (
    TDX_LIFECYCLE_STATE_INCORRECT,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_METADATA_INCORRECT,
    TDX_TD_ASSOCIATED_PAGES_EXIST,
)
from dpamt.module.checks import lock_owner
from dpamt.module.pamt import AT_1G, AT_2M, OUT_OF_RANGE, OWNER_SHIFT, TYPE_MASK
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.td import HEADER_LIFECYCLE_MASK, HEADER_LIFECYCLE_SHIFT
from dpamt.sync import BUSY, EXCLUSIVE, SHARED

_TD_PAGE_TYPES: Final = frozenset({PT_REG, PT_TDR, PT_TDCX, PT_TDVPR, PT_EPT})
_BEPOCH_TYPES: Final = frozenset({PT_REG, PT_EPT})
_TORN_DOWN: Final = TD_TEARDOWN << HEADER_LIFECYCLE_SHIFT


def tdh_phymem_page_rdmd(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page and level; RCX = type, RDX = owner, R8 = level reached, R9 = BEPOCH, R10, R11.

    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (i).
    """
    module = lp.module
    pamt = module.pamt
    info = args.rcx
    args.rcx = args.rdx = args.r8 = args.r9 = args.r10 = args.r11 = 0

    level = info & INFO_LEVEL_MASK
    highest = LEVEL_1G if pamt.dynamic else LEVEL_4K
    if level > highest or info & INFO_RESERVED_MASK:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    hpa = info - level
    if hpa & (module.not_private | (1 << LEVEL_SHIFTS[level]) - 1):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    page = hpa >> PAGE_SHIFT
    level, entry = _lock_page(lp, page, SHARED, level)

    kind = entry & TYPE_MASK
    if kind == PT_PAMT:
        args.rcx = PT_PAMT | RDMD_NON_LEAF
        args.r8 = level
        region = pamt.region(page >> 9)
        pair0 = region.pair0.load()
        args.r10 = pair0 << PAGE_SHIFT
        pair1 = region.pair1.load()
        args.r11 = pair1 << PAGE_SHIFT
        return
    if not kind and info & INFO_LEVEL_MASK == LEVEL_4K and level != LEVEL_1G:
        taken = pamt.bitmap_bit(page)
        if taken:
            args.rcx = PT_PAMT
            return
    args.rcx = kind
    args.rdx = entry >> OWNER_SHIFT << PAGE_SHIFT
    args.r8 = level
    if kind in _BEPOCH_TYPES:
        args.r9 = pamt.bepoch(page, level)


def tdh_phymem_page_wbinvd(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page with the KeyID whose cache lines are written back; the page must be free.

    A free page of a region without a pair will do.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.20).
    """
    module = lp.module
    hpa = args.rcx & ~module.hkid_mask

    if hpa & module.not_private_4k:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    page = hpa >> PAGE_SHIFT
    _level, entry = _lock_page(lp, page, SHARED, LEVEL_4K)
    if entry:
        raise Refused(TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX)
    taken = module.pamt.bitmap_bit(page)
    if taken:
        raise Refused(TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX)


def tdh_phymem_page_reclaim(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = page of a TD in teardown; RCX = type, RDX = owner, R8 = level, R9 = removal hint.

    Type, owner and level are given from the moment they are known, on later failures too.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.19).
    """
    module = lp.module
    pamt = module.pamt
    hpa = args.rcx
    args.rcx = args.rdx = args.r8 = args.r9 = args.r10 = args.r11 = 0

    if hpa & module.not_private_4k:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    page = hpa >> PAGE_SHIFT
    level, entry = _lock_page(lp, page, EXCLUSIVE, LEVEL_4K)
    kind = entry & TYPE_MASK
    if kind not in _TD_PAGE_TYPES:
        raise Refused(TDX_PAGE_METADATA_INCORRECT | OPERAND_RCX)
    args.rcx = kind
    args.rdx = entry >> OWNER_SHIFT << PAGE_SHIFT
    args.r8 = level
    if page & (LEVEL_PAGES[level] - 1):
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    td = module.tds.at(page) if kind == PT_TDR else lock_owner(lp, entry, SHARED)
    header = td.header.load()
    if header & HEADER_LIFECYCLE_MASK != _TORN_DOWN:
        raise Refused(TDX_LIFECYCLE_STATE_INCORRECT)
    if kind == PT_TDR:
        children = td.children.load()
        if children:
            raise Refused(TDX_TD_ASSOCIATED_PAGES_EXIST)
    else:
        td.children.add(-LEVEL_PAGES[level])
    _clear_contents(lp, page, kind)
    if level == LEVEL_4K:
        args.r9 = pamt.free_4k(page)
    else:
        pamt.set_large(page, level, 0)


def _lock_page(lp: LogicalProcessor, page: int, how: int, target: int) -> tuple[int, int]:
    """(level, entry) of the leaf that a walk aimed at ``target`` ends at, locked as ``how`` says.

    Refused with TDX_OPERAND_ADDR_RANGE_ERROR or TDX_OPERAND_BUSY of RCX.
    """
    pamt = lp.module.pamt
    walked = pamt.walk(page, how, target, lp.locks)
    if walked == OUT_OF_RANGE:
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | OPERAND_RCX)
    if walked == BUSY:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    if walked in (AT_2M, AT_1G):
        return pamt.reached(page, walked)
    return target, walked


def _clear_contents(lp: LogicalProcessor, page: int, kind: int) -> None:
    """Forget what a control page held; on the real machine it stays, unreadable, in memory."""
    tds = lp.module.tds
    if kind == PT_TDR:
        td = tds.at(page)
        vcpus = td.vcpus.load()
        for index in range(vcpus):
            tds.x2apic_id(td, index).store(0)
        td.clear()
    elif kind == PT_TDVPR:
        vcpu = tds.vcpu(page)
        vcpu.state.store(0)
        vcpu.pages.store(0)
        vcpu.lp.store(0)
    elif kind != PT_REG:
        tds.sept.at(page).fill(0)
