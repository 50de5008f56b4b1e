"""What a VCPU executes in a run: accept memory, ask for conversions, halt.

A program is a list of instructions; an instruction that exits is executed again at the next entry,
so each keeps its position until it has succeeded.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from dpamt.abi.exits import (
    EXIT_REASON_HLT,
    EXIT_REASON_TDCALL,
    TDG_MEM_PAGE_ACCEPT,
    TDVMCALL_MAP_GPA,
)
from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT, PAGES_PER_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_OPERAND_BUSY_HOST_PRIORITY,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    status_name,
)
from dpamt.errors import Finding
from dpamt.host.kvm.tdvmcall import GPA_SHARED
from dpamt.platform.guest import TdCall

ACCEPT_4K: Final = 0
ACCEPT_2M: Final = 1
MAP_SHARED: Final = 2
MAP_PRIVATE: Final = 3


class Instruction(NamedTuple):
    """``pages`` 4K pages from ``gpa`` on; ACCEPT_2M takes one 2M page."""

    kind: int
    gpa: int
    pages: int


class LazyGuest:
    """A guest that accepts memory when it needs it, as Linux guests do: 2M first, else 4K.

    It halts as a TD does: by a TDVMCALL, with interrupts on (R12 is 0).
    """

    def __init__(self) -> None:
        self._work: list[Instruction] = []
        self._next = 0
        self._page = 0
        self.not_2m: list[int] = []
        """Addresses of 2M accepts that met 4K pages, and were done at 4K."""

    def load(self, work: Iterable[Instruction]) -> None:
        """What to execute from the next entry on; forgets what was done."""
        self._work = list(work)
        self._next = self._page = 0
        self.not_2m = []

    def accepts_from(self, gpa: int) -> int:
        """How many 4K pages from ``gpa`` on, where it stands, the guest is about to accept."""
        if self._next >= len(self._work):
            return 0
        kind, first, pages = self._work[self._next]
        if kind != ACCEPT_4K or gpa != first + (self._page << PAGE_SHIFT):
            return 0
        return pages - self._page

    def accepted(self, pages: int) -> None:
        """``pages`` pages from where it stands have been accepted meanwhile."""
        self._page += pages

    def run(self, tdcall: TdCall, access: Callable[[int], None], exits: TdxModuleArgs) -> int:
        """Execute until the list is done, then halt; or until the host is asked for a conversion.

        Both are TDVMCALLs.
        """
        work = self._work
        while self._next < len(work):
            kind, gpa, pages = work[self._next]
            if kind == ACCEPT_4K:
                self._accept_pages(tdcall, gpa, pages)
            elif kind == ACCEPT_2M:
                self._accept_2m(tdcall, gpa)
            else:
                self._next += 1
                exits.r10 = 0
                exits.r11 = TDVMCALL_MAP_GPA
                exits.r12 = gpa | GPA_SHARED if kind == MAP_SHARED else gpa
                exits.r13 = pages << PAGE_SHIFT
                return EXIT_REASON_TDCALL
            self._next += 1
            self._page = 0
        exits.r10 = exits.r12 = 0
        exits.r11 = EXIT_REASON_HLT
        return EXIT_REASON_TDCALL

    def _accept_pages(self, tdcall: TdCall, gpa: int, pages: int) -> None:
        page = self._page
        while page < pages:
            args = TdxModuleArgs()
            args.rcx = gpa + (page << PAGE_SHIFT)
            status = tdcall(TDG_MEM_PAGE_ACCEPT, args)
            if status:
                status &= STATUS_MASK
                if status == TDX_OPERAND_BUSY_HOST_PRIORITY:
                    continue
                if status != TDX_PAGE_ALREADY_ACCEPTED:
                    raise _failed(args, status)
            page += 1
            self._page = page

    def _accept_2m(self, tdcall: TdCall, gpa: int) -> None:
        while True:
            args = TdxModuleArgs()
            args.rcx = gpa | LEVEL_2M
            status = tdcall(TDG_MEM_PAGE_ACCEPT, args) & STATUS_MASK
            if status != TDX_OPERAND_BUSY_HOST_PRIORITY:
                break
        if status == TDX_PAGE_SIZE_MISMATCH:
            self._work[self._next] = Instruction(ACCEPT_4K, gpa, PAGES_PER_2M)
            self.not_2m.append(gpa)
            self._accept_pages(tdcall, gpa, PAGES_PER_2M)
        elif status and status != TDX_PAGE_ALREADY_ACCEPTED:
            raise _failed(args, status)


def _failed(args: TdxModuleArgs, status: int) -> Finding:
    return Finding(
        f"the guest's TDG.MEM.PAGE.ACCEPT of {args.rcx:#x} returned {status_name(status)}"
    )
