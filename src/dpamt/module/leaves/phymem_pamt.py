"""TDH.PHYMEM.PAMT.ADD and PAMT.REMOVE: give the module a PAMT page pair, and take it back."""

from dpamt.abi.operands import OPERAND_R8, OPERAND_RAX, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import (
    LEVEL_2M,
    PAGE_SHIFT,
    PAGES_PER_2M,
    PAMT_ENTRIES_PER_PAIR_PAGE,
    PT_PAMT,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    TDX_HPA_RANGE_NOT_FREE,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_NOT_FREE,
    TDX_PAMT_PAGE_NOT_EMPTY,
)
from dpamt.module.checks import lock_pair_page
from dpamt.module.fatal import ModuleFatal
from dpamt.module.pamt import OUT_OF_RANGE, TYPE_MASK
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.sync import BUSY, EXCLUSIVE


def tdh_phymem_pamt_add(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = 2M region (level 1), RDX and R8 = the pair: HPA0 and HPA1.

    The range of the region is looked at after both pages of the pair.  A page of the pair may lie
    in the region itself, which is locked already: there, only the bitmap guards it.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_phymem_pamt_add.c];
    reference (f.1).
    """
    pamt = lp.module.pamt
    region = _region_operand(lp, args.rcx)
    page0 = _pair_operand(lp, args.rdx, OPERAND_RDX)
    page1 = _pair_operand(lp, args.r8, OPERAND_R8)
    if not pamt.in_range(region << 9):
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | OPERAND_RCX)

    entry = pamt.walk(region << 9, EXCLUSIVE, LEVEL_2M, lp.locks)
    if entry == BUSY:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    if entry:
        raise Refused(TDX_HPA_RANGE_NOT_FREE | OPERAND_RCX)
    if page0 >> 9 != region:
        lock_pair_page(lp, page0, OPERAND_RDX)
    if page1 >> 9 != region:
        lock_pair_page(lp, page1, OPERAND_R8)
    taken = pamt.take_pair_page(page0)
    if not taken:
        raise Refused(TDX_PAGE_NOT_FREE | OPERAND_RDX)
    taken = pamt.take_pair_page(page1)
    if not taken:
        pamt.return_pair_page(page0)
        raise Refused(TDX_PAGE_NOT_FREE | OPERAND_R8)
    pamt.install_pair(region, (page0, page1), 0, 0)


def tdh_phymem_pamt_remove(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = 2M region (level 1); RDX and R8 = the pair that was taken out.

    TDX_PAMT_PAGE_NOT_EMPTY carries the index of the pair page, 0 or 1, and no operand id.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdh_phymem_pamt_remove.c];
    reference (f.2).
    """
    pamt = lp.module.pamt
    region = _region_operand(lp, args.rcx)

    entry = pamt.walk(region << 9, EXCLUSIVE, LEVEL_2M, lp.locks)
    if entry == OUT_OF_RANGE:
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | OPERAND_RCX)
    if entry == BUSY:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    if entry < 0 or entry & TYPE_MASK != PT_PAMT:
        raise Refused(TDX_NO_PAMT_PAGE_PAIR | OPERAND_RCX)
    words = pamt.region(region)
    used = words.entries.any_non_zero(0, PAMT_ENTRIES_PER_PAIR_PAGE)
    if used:
        raise Refused(TDX_PAMT_PAGE_NOT_EMPTY | 0)
    used = words.entries.any_non_zero(PAMT_ENTRIES_PER_PAIR_PAGE, PAGES_PER_2M)
    if used:
        raise Refused(TDX_PAMT_PAGE_NOT_EMPTY | 1)
    count = words.count.load()
    if count:
        raise ModuleFatal(
            "PAMT.REMOVE of a region without used pages but with a page count",
            region=region << 21,
            count=count,
        )
    page0, page1 = pamt.remove_pair(region, 0)
    args.rdx = page0 << PAGE_SHIFT
    args.r8 = page1 << PAGE_SHIFT


def _region_operand(lp: LogicalProcessor, info: int) -> int:
    """Dynamic mode, and the format of RCX: the region (HPA >> 21)."""
    module = lp.module
    if not module.pamt.dynamic:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
    if info & module.not_private_2m != LEVEL_2M:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    return info >> 21


def _pair_operand(lp: LogicalProcessor, hpa: int, operand: int) -> int:
    """Format and range of a page of the pair: its page frame number."""
    module = lp.module
    if hpa & module.not_private_4k:
        raise Refused(TDX_OPERAND_INVALID | operand)
    if not module.pamt.in_range(hpa >> PAGE_SHIFT):
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | operand)
    return hpa >> PAGE_SHIFT
