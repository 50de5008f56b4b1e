"""TDH.MEM.SEPT.ADD, REMOVE and RD: the secure EPT pages of a TD and of its L2 VMs."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_SEPT_ADD, TDH_MEM_SEPT_RD, TDH_MEM_SEPT_REMOVE
from dpamt.abi.operands import OPERAND_R8, OPERAND_RAX, OPERAND_RCX, OPERAND_RDX
from dpamt.abi.pages import (
    HANDLE_FLAG,
    HANDLE_RESERVED_MASK,
    LEVEL_2M,
    LEVEL_4K,
    NULL_PA,
    PAGE_SHIFT,
    PT_EPT,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.sept import ENTRIES_PER_SEPT_PAGE
from dpamt.abi.states import (
    OP_STATE_ALLOWED,
    SEPT_FREE,
    SEPT_NL_MAPPED,
    SEPT_STATE_ALLOWED,
)
from dpamt.abi.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_EPT_PAGE_NOT_FREE,
    TDX_L2_SEPT_ENTRY_NOT_FREE,
    TDX_L2_SEPT_WALK_FAILED,
    TDX_OPERAND_INVALID,
)
from dpamt.abi.td_params import ATTRIBUTES_DEBUG
from dpamt.module.checks import (
    check_state,
    lock_in_use,
    lock_new_page,
    lock_tdr,
)
from dpamt.module.l2_sept import l2_pages, l2_walk, refuse_l2
from dpamt.module.pamt import OWNER_SHIFT
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK, show_entry
from dpamt.module.sept_checks import (
    check_may_go_on,
    check_page_info,
    check_sept_state,
    check_tlb,
    highest_level,
    lock_sept_entry,
)
from dpamt.module.td import Td
from dpamt.sync import EXCLUSIVE, SHARED, EntryPage

_ADD_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_SEPT_ADD]
_ADD_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_SEPT_ADD]
_REMOVE_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_SEPT_REMOVE]
_REMOVE_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_SEPT_REMOVE]
_RD_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_SEPT_RD]

NOT_USED: Final = 1 << 63
"""Set in a page operand that comes back because there was a page already; NULL_PA has it too."""

_Place = tuple[EntryPage, int]
"""An S-EPT page and the index of an entry in it."""


def tdh_mem_sept_add(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR (bit 0: existing pages are fine), R8 = page.

    Version 1: R9 to R11 = pages for L2 VMs 1 to 3, NULL_PA for none; R8 to R11 come back NULL_PA
    when used, with bit 63 when not.  Between two pages an interrupt, or another host CPU that wants
    the S-EPT tree, ends it with TDX_INTERRUPTED_RESUMABLE or TDX_INTERRUPTED_BUSY.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.8).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0
    if lp.version > 1:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)
    pages = [hpa if hpa == NULL_PA else hpa & ~NOT_USED for hpa in _page_operands(lp, args)]
    flagged = list(pages)
    try:
        if handle & HANDLE_RESERVED_MASK:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)
        existing = handle & HANDLE_FLAG != 0
        td = lock_tdr(lp, handle & ~HANDLE_FLAG, OPERAND_RDX, SHARED)
        check_state(lp, td, _ADD_OP_STATES)
        highest = highest_level(td)
        level = check_page_info(info, LEVEL_2M, highest)
        gfn = info >> PAGE_SHIFT
        sept, index, word = lock_sept_entry(lp, args, td, level, gfn, SHARED)
        check_sept_state(args, word, level, _ADD_SEPT_STATES)
        _lock_l1_page(lp, args, word, level, flagged, existing)
        places = _lock_l2_pages(lp, args, td, level, gfn, flagged, existing)

        places[0] = (sept, index)
        _add_pages(lp, args, td, places, flagged, (info, handle))
    finally:
        if lp.version:
            args.r8, args.r9, args.r10, args.r11 = flagged


def _page_operands(lp: LogicalProcessor, args: TdxModuleArgs) -> tuple[int, ...]:
    return (args.r8, args.r9, args.r10, args.r11) if lp.version else (args.r8,)


def _lock_l1_page(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    word: int,
    level: int,
    flagged: list[int],
    existing: bool,
) -> None:
    """Step 8: lock the new S-EPT page, or mark it as not used."""
    state = word & STATE_MASK
    if flagged[0] == NULL_PA:
        if not lp.version:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_R8)
        refused = state != SEPT_NL_MAPPED
    elif state == SEPT_FREE:
        lock_new_page(lp, flagged[0], OPERAND_R8)
        return
    else:
        refused = not existing
    if refused:
        show_entry(args, word, level)
        raise Refused(TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX)
    flagged[0] |= NOT_USED


def _lock_l2_pages(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    level: int,
    gfn: int,
    flagged: list[int],
    existing: bool,
) -> dict[int, _Place]:
    """Step 9: the same for each L2 VM; where its new page goes, by VM."""
    places: dict[int, _Place] = {}
    l2_vms = td.l2_vms.load()
    for vm in range(1, len(flagged)):
        if flagged[vm] == NULL_PA:
            continue
        if vm > l2_vms:
            raise Refused(TDX_OPERAND_INVALID | OPERAND_R8 + vm)
        page, index, reached = l2_walk(lp, td, vm, level, gfn)
        if reached != level:
            refuse_l2(args, TDX_L2_SEPT_WALK_FAILED, vm, page, index, reached)
        word = page.load(index)
        if not word:
            lock_new_page(lp, flagged[vm], OPERAND_R8 + vm)
            places[vm] = page, index
        elif existing:
            flagged[vm] |= NOT_USED
        else:
            refuse_l2(args, TDX_L2_SEPT_ENTRY_NOT_FREE, vm, page, index, level)
    return places


def _add_pages(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    places: dict[int, _Place],
    flagged: list[int],
    inputs: tuple[int, int],
) -> None:
    """Step 10: add page after page; from the second on, an interrupt leaves the rest to resume.

    So does another host CPU that wants the S-EPT tree.
    """
    module = lp.module
    added = False
    for vm in range(len(flagged)):
        if flagged[vm] & NOT_USED:
            continue
        if added:
            check_may_go_on(lp, args, td, *inputs)
        frame = flagged[vm] >> PAGE_SHIFT
        module.tds.sept.at(frame).fill(0)
        module.pamt.use_tracked_4k(frame, td.page << OWNER_SHIFT | PT_EPT)
        td.children.add(1)
        sept, index = places[vm]
        word = frame << FRAME_SHIFT | SEPT_NL_MAPPED
        if vm:  # an L2 VM's entry has no lock of its own
            sept.store(index, word)
        else:
            lp.locks.store_and_release(sept, index, word)
        flagged[vm] = NULL_PA
        added = True


def tdh_mem_sept_remove(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR; RCX = the page, removal hint in bit 62.

    Version 1: R9 to R11 = the L2 VMs' pages with their hints, or NULL_PA.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.9).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0
    if lp.version:
        args.r9 = args.r10 = args.r11 = NULL_PA
    if lp.version > 1:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RAX)

    td = lock_tdr(lp, handle, OPERAND_RDX, SHARED)
    op_state = check_state(lp, td, _REMOVE_OP_STATES)
    highest = highest_level(td)
    level = check_page_info(info, LEVEL_2M, highest)
    gfn = info >> PAGE_SHIFT
    sept, index, word = lock_sept_entry(lp, args, td, level, gfn, EXCLUSIVE)
    check_sept_state(args, word, level, _REMOVE_SEPT_STATES)
    frame = word >> FRAME_SHIFT
    lock_in_use(lp, frame, LEVEL_4K)
    check_tlb(lp, args, td, word, level, LEVEL_4K, op_state)
    child = lp.tds.sept.at(frame)
    used = child.any_non_zero(0, ENTRIES_PER_SEPT_PAGE)
    if used:
        show_entry(args, word, level)
        raise Refused(TDX_EPT_PAGE_NOT_FREE | OPERAND_RCX)
    aliases = l2_pages(lp, td, level, gfn)
    for at in range(len(aliases)):
        lock_in_use(lp, aliases[at][-1], LEVEL_4K)

    free_l2_pages(lp, args, td, aliases[::-1])
    lp.locks.store_and_release(sept, index, SEPT_FREE)
    td.children.add(-1)
    hint = lp.pamt.free_4k(frame)
    args.rcx = frame << PAGE_SHIFT | hint


def free_l2_pages(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    aliases: list[tuple[int, EntryPage, int, int]],
) -> None:
    """Free L2 S-EPT pages in the order given; version 1 reports them in R9 to R11."""
    outputs = [args.r9, args.r10, args.r11]
    for at in range(len(aliases)):
        vm, sept, index, frame = aliases[at]
        sept.store(index, SEPT_FREE)
        td.children.add(-1)
        hint = lp.pamt.free_4k(frame)
        outputs[vm - 1] = frame << PAGE_SHIFT | hint
    if lp.version:
        args.r9, args.r10, args.r11 = outputs


def tdh_mem_sept_rd(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA and level, RDX = TDR (bit 0: L2 attributes, debug TDs only); RCX, RDX = the entry.

    No leaf has an L2 alias here, so R8, the attributes of all L2 VMs, is 0.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.10).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle & ~HANDLE_FLAG, OPERAND_RDX, SHARED)
    check_state(lp, td, _RD_OP_STATES)
    attributes = td.attributes.load()
    if handle & HANDLE_FLAG and not attributes & ATTRIBUTES_DEBUG:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RDX)
    highest = highest_level(td)
    level = check_page_info(info, LEVEL_4K, highest)
    _, _, word = lock_sept_entry(lp, args, td, level, info >> PAGE_SHIFT, SHARED)

    show_entry(args, word, level)
    if handle & HANDLE_FLAG:
        args.r8 = 0
