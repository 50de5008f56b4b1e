"""The building blocks about guest addresses and S-EPT entries: PAGEINFO, WALK, TLBCHK.

As in :mod:`dpamt.module.checks`: checks in the module's order, locks into ``lp.locks``.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [helpers.c, sept_manager.c].
"""

from typing import Final, NoReturn

from dpamt.abi.operands import (
    OPERAND_RCX,
    OPERAND_SEPT_TREE,
)
from dpamt.abi.pages import (
    INFO_LEVEL_MASK,
    INFO_RESERVED_MASK,
    LEVEL_4K,
    LEVEL_SHIFTS,
)
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    OP_STATE_TLB_TRACKING_REQUIRED,
    SEPT_NL_MAPPED,
    SEPT_UNBLOCK,
)
from dpamt.abi.status import (
    TDX_EPT_ENTRY_STATE_INCORRECT,
    TDX_EPT_WALK_FAILED,
    TDX_GPA_RANGE_NOT_BLOCKED,
    TDX_INTERRUPTED_BUSY,
    TDX_INTERRUPTED_RESTARTABLE,
    TDX_INTERRUPTED_RESUMABLE,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_INVALID,
    TDX_TLB_TRACKING_NOT_DONE,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK, show_entry
from dpamt.module.td import (
    Td,
    eptp_shape,
)
from dpamt.sync import EXCLUSIVE, SHARED, EntryPage

_INFO_MUST_BE_ZERO: Final = tuple(
    INFO_RESERVED_MASK | (((1 << shift) - 1) & ~INFO_LEVEL_MASK) for shift in LEVEL_SHIFTS
)
_NOT_4K: Final = INFO_RESERVED_MASK | INFO_LEVEL_MASK
"""Bits that are clear in every page info of a 4K page."""


def check_page_info(info: int, lowest: int, highest: int) -> int:
    """PAGEINFO: the level of a page info operand; its GPA is ``info`` without the level."""
    if not info & _NOT_4K and lowest == LEVEL_4K:
        return LEVEL_4K
    level = info & INFO_LEVEL_MASK
    if level < lowest or level > highest or info & _INFO_MUST_BE_ZERO[level]:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    return level


def highest_level(td: Td) -> int:
    """Level of the entries in the TD's root S-EPT page."""
    eptp = td.eptp.load()
    _, highest, _ = eptp_shape(eptp)
    return highest


def private_eptp(td: Td, gfn: int) -> int:
    """WALK step 1: ``gfn`` is a valid private guest frame; the TD's secure EPT pointer."""
    eptp = td.eptp.load()
    _, _, limit = eptp_shape(eptp)
    if gfn >= limit:
        raise Refused(TDX_OPERAND_INVALID | OPERAND_RCX)
    return eptp


def lock_tree(lp: LogicalProcessor, td: Td, how: int) -> None:
    """WALK step 2: the S-EPT tree lock."""
    if how == EXCLUSIVE:
        busy = lp.locks.exclusive(td.tree)
    else:
        busy = lp.locks.shared(td.tree)
    if busy < 0:
        raise Refused(TDX_OPERAND_BUSY | OPERAND_SEPT_TREE)


def descend(lp: LogicalProcessor, eptp: int, level: int, gfn: int) -> tuple[EntryPage, int, int]:
    """As :func:`follow`, in the TD's own S-EPT."""
    root, highest, _ = eptp_shape(eptp)
    return follow(lp, root, highest, level, gfn)


def follow(
    lp: LogicalProcessor, root: int, highest: int, level: int, gfn: int
) -> tuple[EntryPage, int, int]:
    """Follow an S-EPT from its ``root`` page, of level ``highest``, towards ``level``.

    Returns (S-EPT page, index, level) of the entry reached: a level above ``level`` where the entry
    there is not a mapped S-EPT page.
    """
    find = lp.tds.sept.find
    page = find(root)
    reached = highest
    while reached > level:
        index = gfn >> 9 * reached & 511
        word = page.load(index)
        if word & STATE_MASK != SEPT_NL_MAPPED:
            return page, index, reached
        page = find(word >> FRAME_SHIFT)
        reached -= 1
    return page, gfn >> 9 * reached & 511, reached


def check_walked(args: TdxModuleArgs, page: EntryPage, index: int, level: int) -> None:
    """WALK step 3 has failed at this entry: show it."""
    word = page.load(index)
    show_entry(args, word, level)
    raise Refused(TDX_EPT_WALK_FAILED | OPERAND_RCX)


def lock_sept_entry(
    lp: LogicalProcessor, args: TdxModuleArgs, td: Td, level: int, gfn: int, tree: int
) -> tuple[EntryPage, int, int]:
    """WALK(level) steps 1 to 4: (S-EPT page, index, word) of the entry of guest frame ``gfn``.

    The tree is locked as ``tree`` says and the entry exclusively.
    """
    if tree == SHARED and gfn < td.limit:
        found = lp.locks.tree_walk(td.tree, gfn, td.ways[level], SEPT_NL_MAPPED)
        if found is not None:
            return found
    eptp = private_eptp(td, gfn)
    return _lock_sept_entry_by_steps(lp, args, td, level, gfn, tree, eptp)


def _lock_sept_entry_by_steps(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    level: int,
    gfn: int,
    tree: int,
    eptp: int,
) -> tuple[EntryPage, int, int]:
    lock_tree(lp, td, tree)
    page, index, reached = descend(lp, eptp, level, gfn)
    if reached != level:
        check_walked(args, page, index, reached)
    seen = page.load(index)
    word = lp.locks.exclusive_entry(page, index)
    if word < 0:
        show_entry(args, seen, level)  # as the walk read it, before the attempt: reference (d.1)
        raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
    return page, index, word


def check_sept_state(args: TdxModuleArgs, word: int, level: int, allowed: frozenset[int]) -> None:
    """WALK step 5: the entry's state is allowed."""
    if word & STATE_MASK not in allowed:
        refuse_sept_state(args, word, level)


def refuse_sept_state(args: TdxModuleArgs, word: int, level: int) -> NoReturn:
    """WALK step 5 has failed: show the entry."""
    show_entry(args, word, level)
    raise Refused(TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX)


def is_tracked(td: Td, bepoch: int) -> bool:
    """Whether no VCPU can still hold translations from before ``bepoch`` ended."""
    epoch = td.epoch.load()
    if bepoch < epoch - 1:
        return True
    if bepoch != epoch - 1:
        return False
    readers = td.epoch_readers[bepoch & 1].load()
    return readers == 0


def check_tlb(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    word: int,
    level: int,
    metadata_level: int,
    op_state: int,
) -> None:
    """TLBCHK of a present or blocked entry; its page's BEPOCH is at ``metadata_level``."""
    if op_state not in OP_STATE_TLB_TRACKING_REQUIRED:
        return
    if word & STATE_MASK not in SEPT_UNBLOCK:
        show_entry(args, word, level)
        raise Refused(TDX_GPA_RANGE_NOT_BLOCKED | OPERAND_RCX)
    bepoch = lp.pamt.bepoch(word >> FRAME_SHIFT, metadata_level)
    tracked = is_tracked(td, bepoch)
    if not tracked:
        raise Refused(TDX_TLB_TRACKING_NOT_DONE | OPERAND_RCX)


def check_not_interrupted(
    lp: LogicalProcessor,
    args: TdxModuleArgs,
    td: Td,
    rcx: int,
    rdx: int,
) -> None:
    """An interrupt, or another host CPU that wants the S-EPT tree, sends the host back.

    The inputs RCX and RDX are restored, so that the host repeats the call as it is.
    Source: Intel TDX module source (open release) [helpers.c, check_host_interrupt_and_hp_bit].
    """
    if lp.module.interrupt_pending:
        args.rcx = rcx
        args.rdx = rdx
        raise Refused(TDX_INTERRUPTED_RESTARTABLE)
    contended = td.tree.contended()
    if contended:
        args.rcx = rcx
        args.rdx = rdx
        raise Refused(TDX_INTERRUPTED_BUSY)


def check_may_go_on(lp: LogicalProcessor, args: TdxModuleArgs, td: Td, rcx: int, rdx: int) -> None:
    """As :func:`check_not_interrupted`, with part of the work done: the host continues it."""
    if lp.module.interrupt_pending:
        args.rcx = rcx
        args.rdx = rdx
        raise Refused(TDX_INTERRUPTED_RESUMABLE)
    contended = td.tree.contended()
    if contended:
        args.rcx = rcx
        args.rdx = rdx
        raise Refused(TDX_INTERRUPTED_BUSY)
