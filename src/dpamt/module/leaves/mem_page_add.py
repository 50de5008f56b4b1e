"""TDH.MEM.PAGE.ADD: add and measure a page with contents, before the TD runs."""

from typing import Final

from dpamt.abi.leaves import TDH_MEM_PAGE_ADD
from dpamt.abi.operands import OPERAND_R8, OPERAND_R9, OPERAND_RDX
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGE_SIZE
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import OP_STATE_ALLOWED, SEPT_MAPPED, SEPT_STATE_ALLOWED
from dpamt.abi.status import TDX_OPERAND_INVALID
from dpamt.module.checks import (
    check_state_unlocked,
    lock_new_page,
    lock_tdr,
)
from dpamt.module.fatal import ModuleFatal
from dpamt.module.processor import LogicalProcessor
from dpamt.module.sept import FRAME_SHIFT
from dpamt.module.sept_checks import (
    check_page_info,
    check_sept_state,
    check_walked,
    descend,
    private_eptp,
)
from dpamt.module.shared_memory import check_shared_hpa
from dpamt.sync import EXCLUSIVE

_OP_STATES: Final = OP_STATE_ALLOWED[TDH_MEM_PAGE_ADD]
_SEPT_STATES: Final = SEPT_STATE_ALLOWED[TDH_MEM_PAGE_ADD]


def tdh_mem_page_add(lp: LogicalProcessor, args: TdxModuleArgs) -> None:
    """RCX = GPA (4K), RDX = TDR, R8 = page, R9 = source page.

    The S-EPT is not locked: the TDR is held exclusively.  An entry locked all the same is fatal.
    The measurement is not modelled.
    Source: Intel TDX module source (open release), 2.0.08 to 2.0.18; reference (e.11).
    """
    info = args.rcx
    handle = args.rdx
    args.rcx = args.rdx = 0

    td = lock_tdr(lp, handle, OPERAND_RDX, EXCLUSIVE)
    check_state_unlocked(lp, td, _OP_STATES)
    level = check_page_info(info, LEVEL_4K, LEVEL_4K)
    gfn = info >> PAGE_SHIFT
    eptp = private_eptp(td, gfn)
    sept, index, reached = descend(lp, eptp, level, gfn)
    if reached != level:
        check_walked(args, sept, index, reached)
    word = sept.load(index)
    check_sept_state(args, word, level, _SEPT_STATES)
    source = check_shared_hpa(lp, args.r9, PAGE_SIZE, PAGE_SIZE, TDX_OPERAND_INVALID | OPERAND_R9)
    page = lock_new_page(lp, args.r8, OPERAND_R8)

    lock = sept.lock_word(index)
    if lock & EXCLUSIVE:
        raise ModuleFatal("PAGE.ADD of an S-EPT entry that is locked", gpa=info, lock=lock)
    memory = lp.module.memory
    memory.write(page << PAGE_SHIFT, memory.read(source, PAGE_SIZE))
    lp.pamt.use_tracked_4k(page, td.reg_entry)
    td.children.add(1)
    sept.store(index, page << FRAME_SHIFT | SEPT_MAPPED)
