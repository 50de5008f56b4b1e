"""What the module does for a guest: accesses to private memory, TDG.MEM.PAGE.ACCEPT, TD exits.

The guest takes the lock of one S-EPT entry and no other; a host that has shown that it wants it
goes first.  It takes no lock of PAMT and none of the S-EPT tree: TLB tracking keeps what it walks.

Source: Intel TDX module source (open release), 2.0.08 to 2.0.18 [tdg_mem_page_accept.c].
"""

from dpamt.abi.exits import (
    EPT_VIOLATION_WRITE,
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXTENDED_MET_LEAF_SHIFT,
    EXTENDED_MET_LEVEL_SHIFT,
    EXTENDED_MET_STATE_SHIFT,
    EXTENDED_REQUESTED_LEVEL_SHIFT,
    EXTENDED_TYPE_ACCEPT,
    EXTENDED_TYPE_NONE,
    EXTENDED_TYPE_PENDING,
    INTERRUPTION_VALID,
    TDG_MEM_PAGE_ACCEPT,
)
from dpamt.abi.operands import OPERAND_RAX, OPERAND_RCX
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, LEVEL_PAGES, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.states import (
    SEPT_FREE,
    SEPT_MAPPED,
    SEPT_PENDING,
    SEPT_PRIVATE_LEAF,
    SEPT_READABLE_LEAF,
)
from dpamt.abi.status import (
    TDX_OPERAND_BUSY,
    TDX_OPERAND_BUSY_HOST_PRIORITY,
    TDX_OPERAND_INVALID,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    TDX_SUCCESS,
)
from dpamt.module.processor import LogicalProcessor
from dpamt.module.refused import Refused
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK
from dpamt.module.sept_checks import (
    check_page_info,
    descend,
    private_eptp,
)
from dpamt.module.td import Td
from dpamt.sync import BUSY_HOST_PRIORITY


class TdExit(Exception):  # noqa: N818  (an event of the guest, not an error)
    """The guest left the TD without wanting to: an EPT violation, or an interrupt of the host.

    ``qualification`` and ``extended`` are what the host gets in RCX and RDX, ``gpa`` in R8,
    ``interruption`` in R9.
    """

    def __init__(
        self,
        qualification: int,
        extended: int,
        gpa: int,
        reason: int = EXIT_REASON_EPT_VIOLATION,
        interruption: int = 0,
    ) -> None:
        super().__init__(f"exit reason {reason} at {gpa:#x}")
        self.qualification = qualification
        self.extended = extended
        self.gpa = gpa
        self.reason = reason
        self.interruption = interruption


class Guest:
    """The guest of a TD on one logical processor, while it is inside."""

    __slots__ = ("_lp", "_td")

    def __init__(self, lp: LogicalProcessor, td: Td) -> None:
        self._lp = lp
        self._td = td

    def take_interrupt(self) -> None:
        """An interrupt of the host that is pending comes before the next instruction: TdExit."""
        module = self._lp.module
        if module.interrupt_pending:
            information = INTERRUPTION_VALID | module.interrupt_vector
            raise TdExit(0, 0, 0, EXIT_REASON_EXTERNAL_INTERRUPT, information)

    def tdcall(self, leaf: int, args: TdxModuleArgs) -> int:
        """A TDCALL: its status.  Raises TdExit where the guest leaves instead."""
        self.take_interrupt()
        if leaf != TDG_MEM_PAGE_ACCEPT:
            return TDX_OPERAND_INVALID | OPERAND_RAX
        try:
            self._accept(args.rcx)
        except Refused as refused:
            return refused.status
        return TDX_SUCCESS

    def access(self, gpa: int) -> None:
        """A write to a private page.  Raises TdExit where the guest cannot."""
        self.take_interrupt()
        gfn = gpa >> PAGE_SHIFT
        try:
            eptp = private_eptp(self._td, gfn)
        except Refused as refused:
            raise TdExit(EPT_VIOLATION_WRITE, EXTENDED_TYPE_NONE, gpa) from refused
        sept, index, _ = descend(self._lp, eptp, LEVEL_4K, gfn)
        word = sept.load(index)
        state = word & STATE_MASK
        if state != SEPT_MAPPED:
            kind = EXTENDED_TYPE_PENDING if state == SEPT_PENDING else EXTENDED_TYPE_NONE
            raise TdExit(EPT_VIOLATION_WRITE, kind, gpa)

    def _accept(self, info: int) -> None:
        """TDG.MEM.PAGE.ACCEPT: RCX = GPA and level (4K, 2M)."""
        level = check_page_info(info, LEVEL_4K, LEVEL_2M)
        gfn = info >> PAGE_SHIFT
        eptp = private_eptp(self._td, gfn)

        sept, index, reached = descend(self._lp, eptp, level, gfn)
        if reached != level:
            word = sept.load(index)
            if word & STATE_MASK in SEPT_READABLE_LEAF:
                raise Refused(TDX_PAGE_ALREADY_ACCEPTED | reached)
            raise _accept_exit(gfn, level, word, reached)
        word = sept.try_exclusive_guest(index)
        if word == BUSY_HOST_PRIORITY:
            raise Refused(TDX_OPERAND_BUSY_HOST_PRIORITY | OPERAND_RCX)
        if word < 0:
            raise Refused(TDX_OPERAND_BUSY | OPERAND_RCX)
        try:
            accepted = self._accept_locked(word, level, gfn)
        except Exception as refused:
            sept.release_exclusive(index)
            raise refused
        sept.store_and_release(index, accepted)

    def _accept_locked(self, word: int, level: int, gfn: int) -> int:
        """The new word of an entry that is locked."""
        state = word & STATE_MASK
        if state != SEPT_FREE and state not in SEPT_PRIVATE_LEAF:
            raise Refused(TDX_PAGE_SIZE_MISMATCH | level)
        if state in SEPT_READABLE_LEAF:
            raise Refused(TDX_PAGE_ALREADY_ACCEPTED | level)
        if state != SEPT_PENDING:
            raise _accept_exit(gfn, level, word, level)

        first = word >> FRAME_SHIFT
        for page in range(first, first + LEVEL_PAGES[level]):
            self._lp.module.memory.clear_page(page)
        return word ^ SEPT_PENDING | SEPT_MAPPED


def _accept_exit(gfn: int, level: int, word: int, reached: int) -> TdExit:
    """The TD exit that asks the host for a page of ``level`` where it has this entry."""
    state = word & STATE_MASK
    extended = (
        EXTENDED_TYPE_ACCEPT
        | level << EXTENDED_REQUESTED_LEVEL_SHIFT
        | reached << EXTENDED_MET_LEVEL_SHIFT
        | state << EXTENDED_MET_STATE_SHIFT
        | (state in SEPT_PRIVATE_LEAF) << EXTENDED_MET_LEAF_SHIFT
    )
    return TdExit(EPT_VIOLATION_WRITE, extended, gfn << PAGE_SHIFT)
