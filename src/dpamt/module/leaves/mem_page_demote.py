"""TDH.MEM.PAGE.DEMOTE: split a 2M or 1G page of a TD into 512 smaller ones."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_DEMOTE
from dpamt.abi.operands import (
    OPERAND_R8,
    OPERAND_R12,
    OPERAND_R13,
    OPERAND_RCX,
    OPERAND_RDX,
)
from dpamt.abi.pages import (
    HANDLE_FLAG,
    HANDLE_RESERVED_MASK,
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_PAGES,
    NULL_PA,
    PAGE_SHIFT,
    PT_EPT,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED, SEPT_NL_MAPPED, SEPT_STATE_ALLOWED, SEPT_UNBLOCK
from dpamt.abi.status import (
    TDX_L2_SEPT_WALK_FAILED,
    TDX_OPERAND_ADDR_RANGE_ERROR,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_NOT_FREE,
)
from dpamt.module.checks import (
    check_state,
    find_in_use,
    lock_new_page,
    lock_pair_page,
    lock_tdr,
)
from dpamt.module.l2_sept import l2_walk, refuse_l2
from dpamt.module.leaves.mem_sept import NOT_USED
from dpamt.module.pamt import OWNER_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK
from dpamt.module.sept_checks import (
    check_not_interrupted,
    check_page_info,
    check_sept_state,
    check_tlb,
    lock_sept_entry,
)
from dpamt.module.td import Td
from dpamt.sync import EXCLUSIVE, SHARED, EntryPage

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_PAGE_DEMOTE]
_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_PAGE_DEMOTE]


def tdh_mem_page_demote(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR (bit 0: sparse), R8 = S-EPT page, R9 to R11 = L2 S-EPT pages.

    R12, R13 = the pair, for a 2M page in dynamic mode.  Sparse: an L2 S-EPT page is used only where
    the page has an alias, which no leaf has here; a page not used comes back with bit 63.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (h.1).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0
    if handle & HANDLE_RESERVED_MASK:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)

    td = lock_tdr(lp, handle & ~HANDLE_FLAG, OPERAND_RDX, SHARED)
    op_state = check_state(lp, td, _OP_STATES)
    level = check_page_info(info, LEVEL_2M, LEVEL_1G)
    gfn = info >> PAGE_SHIFT
    sept, index, word = lock_sept_entry(lp, args, td, level, gfn, SHARED)
    check_sept_state(args, word, level, _SEPT_STATES)
    page = word >> FRAME_SHIFT
    find_in_use(lp, page, level)
    check_tlb(lp, args, td, word, level, level, op_state)
    child = lock_new_page(lp, args.r8, OPERAND_R8)
    l2_vms = td.l2_vms.load()
    l2_pages = _lock_l2_pages(lp, args, l2_vms, handle)
    l2_entries = _l2_entries(lp, args, td, l2_pages, level, gfn, (info, handle))
    if l2_vms or not lp.module.release.interrupt_needs_l2_vms:
        check_not_interrupted(lp, args, td, info, handle)
    _split_pamt(lp, args, page, level)

    state = word & STATE_MASK
    first = page << FRAME_SHIFT | SEPT_UNBLOCK.get(state, state)
    lp.tds.sept.at(child).fill_run(first, LEVEL_PAGES[level - 1] << FRAME_SHIFT)
    lp.locks.store_and_release(sept, index, child << FRAME_SHIFT | SEPT_NL_MAPPED)
    _enter(lp, td, child)
    _link_l2(lp, td, l2_pages, l2_entries)
    if handle & HANDLE_FLAG:
        operands = [args.r9, args.r10, args.r11]
        args.r9, args.r10, args.r11 = (
            hpa | NOT_USED if vm < l2_vms else hpa for vm, hpa in enumerate(operands)
        )


def _link_l2(
    lp: LogicalProcessor,
    td: Td,
    pages: list[tuple[int, int]],
    entries: list[tuple[EntryPage, int]],
) -> None:
    """Point the L2 VMs' entries to their new, empty S-EPT pages."""
    for at in range(len(pages)):
        _, child = pages[at]
        sept, index = entries[at]
        lp.tds.sept.at(child).fill(0)
        sept.store(index, child << FRAME_SHIFT | SEPT_NL_MAPPED)
        _enter(lp, td, child)


def _enter(lp: LogicalProcessor, td: Td, child: int) -> None:
    """Enter a new S-EPT page, to which an entry points now, in PAMT.

    Its BEPOCH stays what the page's last use has left, as recorded from the real module.
    """
    lp.pamt.use_4k(child, td.page << OWNER_SHIFT | PT_EPT)
    td.children.add(1)


def _lock_l2_pages(
    lp: LogicalProcessor, args: TdxModuleArgs, l2_vms: int, handle: int
) -> list[tuple[int, int]]:
    """Step 8: (VM, frame) of the new L2 S-EPT pages, their PAMT entries locked."""
    pages: list[tuple[int, int]] = []
    if handle & HANDLE_FLAG:
        return pages
    operands = (args.r9, args.r10, args.r11)
    for vm in range(1, l2_vms + 1):
        if operands[vm - 1] != NULL_PA:
            frame = lock_new_page(lp, operands[vm - 1] & ~NOT_USED, OPERAND_R8 + vm)
            pages.append((vm, frame))
    return pages


def _l2_entries(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    pages: list[tuple[int, int]],
    level: int,
    gfn: int,
    inputs: tuple[int, int],
) -> list[tuple[EntryPage, int]]:
    """Step 9: the L2 entries that will point to them."""
    entries = []
    for at in range(len(pages)):
        check_not_interrupted(lp, args, td, *inputs)
        vm, _ = pages[at]
        sept, index, reached = l2_walk(lp, td, vm, level, gfn)
        if reached != level:
            refuse_l2(args, TDX_L2_SEPT_WALK_FAILED, vm, sept, index, reached)
        entries.append((sept, index))
    return entries


def _split_pamt(lp: LogicalProcessor, args: TdxModuleArgs, page: int, level: int) -> None:
    """Steps 11 to 19: the PAMT entry of the page becomes 512 of the next size.

    Unlike in PAMT.ADD, both formats come before both ranges, and the pair cannot lie in the page.
    """
    pamt = lp.pamt
    busy = pamt.lock_found(page, level, EXCLUSIVE, lp.locks)
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    if level == LEVEL_1G:
        return pamt.split_1g(page >> 18)
    if not pamt.dynamic:
        return pamt.split_2m(page >> 9, (0, 0))
    for hpa, operand in ((args.r12, OPERAND_R12), (args.r13, OPERAND_R13)):
        if hpa & lp.module.not_private_4k:
            raise Refused(TDX_OPERAND_INVALID | operand)
    page0 = args.r12 >> PAGE_SHIFT
    page1 = args.r13 >> PAGE_SHIFT
    if not pamt.in_range(page0):
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | OPERAND_R12)
    if not pamt.in_range(page1):
        raise Refused(TDX_OPERAND_ADDR_RANGE_ERROR | OPERAND_R13)
    lock_pair_page(lp, page0, OPERAND_R12)
    lock_pair_page(lp, page1, OPERAND_R13)
    taken = pamt.take_pair_page(page0)
    if not taken:
        raise Refused(TDX_PAGE_NOT_FREE | OPERAND_R12)
    taken = pamt.take_pair_page(page1)
    if not taken:
        pamt.return_pair_page(page0)
        raise Refused(TDX_PAGE_NOT_FREE | OPERAND_R13)
    return pamt.split_2m(page >> 9, (page0, page1))
