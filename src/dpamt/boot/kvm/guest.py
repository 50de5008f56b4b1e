"""What a vCPU of a booted kernel's TD executes inside TDH.VP.ENTER: an interpreter of words.

It reads its next instruction from the VMM by a TDVMCALL, MMIO of 8 bytes at a GPA without memory,
does it, and reads the next.  So the VMM (``guest/vmm/``) drives each vCPU, and what a guest does is
the same whenever the VMM hands out the same words.  A word is::

    63:56 operation | 55:36 4K pages | 35:0 guest frame, or another operand

Source: Intel GHCI 1.5 (TDG.VP.VMCALL leaves and their registers); Linux arch/x86/kvm/vmx/tdx.c.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Final

from dpamt.abi.exits import (
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_HLT,
    EXIT_REASON_TDCALL,
    EXIT_REASON_TRIPLE_FAULT,
    TDG_MEM_PAGE_ACCEPT,
    TDVMCALL_MAP_GPA,
)
from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_OPERAND_BUSY,
    TDX_OPERAND_BUSY_HOST_PRIORITY,
    TDX_PAGE_ALREADY_ACCEPTED,
    TDX_PAGE_SIZE_MISMATCH,
    TDX_SUCCESS,
    status_name,
)
from dpamt.module.guest import TdExit
from dpamt.platform.guest import TdCall

NOTHING: Final = 0
ACCEPT: Final = 1
TOUCH: Final = 2
SHARE: Final = 3
UNSHARE: Final = 4
HALT: Final = 5
FATAL: Final = 6
TRIPLE_FAULT: Final = 7
SEED: Final = 8
CHURN: Final = 9
CALL: Final = 10
TOUCH_SHARED: Final = 11
ACCEPT_2M: Final = 12
REGISTER: Final = 13
"""Of the next CALL or VMCALL: the register (12 to 15, in the place of pages) and its value."""
VMCALL: Final = 14
"""A hypercall that is not of the TDX ABI: R10 is its number."""
EXPECT: Final = 16
"""Of the next CALL or VMCALL: the status that it has to give back; 1 as pages: with bit 63 set."""
RETURNS: Final = 17
"""Of the next CALL or VMCALL: the value that R11 has to come back with; 1 as pages: R12."""
EXIT: Final = 15
"""Leave by this exit reason; what KVM does about it is not the guest's to know."""

_OPERATION_SHIFT: Final = 56
_PAGES_SHIFT: Final = 36
_PAGES_MASK: Final = (1 << 20) - 1
_OPERAND_MASK: Final = (1 << 36) - 1

SHARED: Final = 1 << 47
"""The SHARED bit of a guest with 48-bit addresses."""
NEXT_WORD: Final = 1 << 40
"""Where a guest reads its next word (NEXT_WORD_GPA in guest/vmm/vmm.h)."""
_READ: Final = 0
_WORD_BYTES: Final = 8

TDVMCALL_SUCCESS: Final = 0
TDVMCALL_RETRY: Final = 1
TDVMCALL_FATAL_ERROR: Final = 0x10003
"""ReportFatalError."""

_POSTED_INTERRUPT: Final = 0xF2
"""Vector of KVM's posted interrupts (Linux asm/irq_vectors.h): its handler only counts."""
_IS_EXTERNAL: Final = 1 << 31
"""Interruption information: valid, of type external interrupt (Intel SDM, volume 3, 26.9.2)."""


def word(operation: int, operand: int = 0, pages: int = 0) -> int:
    """An instruction.  Raises ValueError for what does not fit."""
    if not 0 <= operand <= _OPERAND_MASK or not 0 <= pages <= _PAGES_MASK:
        raise ValueError(f"operand {operand:#x}, {pages} pages")
    return operation << _OPERATION_SHIFT | pages << _PAGES_SHIFT | operand


class WordGuest:
    """One vCPU.  ``more`` has the registers of the last exit that TdxModuleArgs has none for."""

    def __init__(self) -> None:
        self.more: dict[str, int] = {}
        self.refused: Counter[tuple[str, str]] = Counter()
        """(What the guest asked, answer) of what did not succeed."""
        self.done: Counter[int] = Counter()
        """Operations done, by number."""
        self._asks: Callable[[TdxModuleArgs], None] | None = None
        """What becomes of the answer to the TDVMCALL that is under way."""
        self._plan: list[int] = []
        """Words to do before the next one is read, the first last."""
        self._page = 0
        """Pages of the first of them that are done."""
        self._seed = 0
        self._registers: dict[int, int] = {}
        self._expected = TDVMCALL_SUCCESS
        self._returns: dict[str, int] = {}
        self.interrupts = 0
        """Posted interrupts that were taken."""
        self._seen = 0
        """Those of them before the last halt."""

    def run(self, tdcall: TdCall, access: Callable[[int], None], exits: TdxModuleArgs) -> int:
        """Execute until the guest leaves of its own accord: the exit reason."""
        self.more = {}
        asks, self._asks = self._asks, None
        if asks is not None:
            asks(exits)
        while self._plan:
            reason = self._do(self._plan[-1], tdcall, access, exits)
            if reason is not None:
                return reason
            self._finish()
        return self._call(
            exits, EXIT_REASON_EPT_VIOLATION, self._take, _WORD_BYTES, _READ, NEXT_WORD | SHARED
        )

    def _finish(self) -> None:
        self.done[self._plan.pop() >> _OPERATION_SHIFT] += 1
        self._page = 0

    def _call(
        self,
        exits: TdxModuleArgs,
        leaf: int,
        then: Callable[[TdxModuleArgs], None],
        r12: int = 0,
        r13: int = 0,
        r14: int = 0,
        r15: int = 0,
    ) -> int:
        """A TDVMCALL: the guest leaves, and ``then`` gets the registers that it comes back with."""
        exits.r10, exits.r11, exits.r12, exits.r13 = 0, leaf, r12, r13
        self.more = {"r14": r14, "r15": r15}
        self._asks = then
        return EXIT_REASON_TDCALL

    def _take(self, exits: TdxModuleArgs) -> None:
        if exits.r10 == TDVMCALL_SUCCESS:
            self._plan = [exits.r11]
        else:
            self.refused["next word", hex(exits.r10)] += 1

    def _do(
        self, asked: int, tdcall: TdCall, access: Callable[[int], None], exits: TdxModuleArgs
    ) -> int | None:
        """Do a word: the exit reason, or None when it is done."""
        operation = asked >> _OPERATION_SHIFT
        pages = asked >> _PAGES_SHIFT & _PAGES_MASK
        operand = asked & _OPERAND_MASK
        if operation == ACCEPT or (operation == ACCEPT_2M and self._page):
            return self._accept(operand, pages, tdcall, exits)
        if operation == ACCEPT_2M:
            return self._accept_2m(operand, pages, tdcall, exits)
        if operation in (TOUCH, TOUCH_SHARED):
            return self._touch(operand, pages, operation == TOUCH_SHARED, access)
        if operation in (SHARE, UNSHARE):
            return self._map_gpa(operand, pages, operation == SHARE, exits)
        if operation == HALT:
            # As a guest does that looks once more before it halts: what came wakes nobody.
            came, self._seen = self.interrupts > self._seen, self.interrupts
            if came:
                return None
            # R12: whether interrupts are blocked.
            return self._call(exits, EXIT_REASON_HLT, self._go_on, operand)
        if operation == FATAL:
            return self._call(exits, TDVMCALL_FATAL_ERROR, self._go_on, operand)
        if operation == TRIPLE_FAULT:
            return EXIT_REASON_TRIPLE_FAULT
        if operation in (CALL, VMCALL):
            r12, r13, r14, r15 = (self._registers.get(number, 0) for number in range(12, 16))
            self._registers = {}
            leaf = operand if operation == CALL else r12
            reason = self._call(exits, leaf, self._go_on, r12, r13, r14, r15)
            if operation == VMCALL:
                exits.r10, exits.r11, exits.r12, exits.r13 = operand, r12, r13, r14
            return reason
        if operation == EXIT:
            self._asks = self._left
            external = operand == EXIT_REASON_EXTERNAL_INTERRUPT
            return self._interrupted(exits) if external else operand
        if operation == EXPECT:
            self._expected = operand | pages << 63
        elif operation == RETURNS:
            self._returns["r12" if pages else "r11"] = operand
        elif operation == REGISTER:
            shared = SHARED if operand >> 35 else 0  # the operand's top bit: the SHARED bit
            self._registers[pages] = operand & ~(1 << 35) | shared
        elif operation == SEED:
            self._seed = asked & ((1 << _OPERATION_SHIFT) - 1)
        elif operation == CHURN:
            self._churn(operand, pages)
        elif operation != NOTHING:
            self.refused[f"operation {operation}", "unknown"] += 1
        return None

    def _go_on(self, exits: TdxModuleArgs) -> None:
        """A TDVMCALL whose answer the guest does not need."""
        expected, self._expected = self._expected, TDVMCALL_SUCCESS
        if exits.r10 != expected:
            call = f"TDVMCALL {self._plan[-1] & _OPERAND_MASK:#x}"
            self.refused[call, hex(exits.r10)] += 1
        returns, self._returns = self._returns, {}
        for register, due in returns.items():
            if (value := getattr(exits, register)) != due:
                call = f"TDVMCALL {self._plan[-1] & _OPERAND_MASK:#x}"
                self.refused[call, f"{register} {value:#x}, where {due:#x} is due"] += 1
        self._finish()

    def _left(self, _exits: TdxModuleArgs) -> None:
        """Back after an exit of the guest's own making."""
        self._finish()

    def _accept(self, gfn: int, pages: int, tdcall: TdCall, exits: TdxModuleArgs) -> int | None:
        while self._page < pages:
            args = TdxModuleArgs()
            args.rcx = gfn + self._page << PAGE_SHIFT
            status = tdcall(TDG_MEM_PAGE_ACCEPT, args)
            if status & STATUS_MASK in (TDX_OPERAND_BUSY, TDX_OPERAND_BUSY_HOST_PRIORITY):
                return self._interrupted(exits)
            if status and status & STATUS_MASK != TDX_PAGE_ALREADY_ACCEPTED:
                self.refused["TDG.MEM.PAGE.ACCEPT", status_name(status)] += 1
            self._page += 1
        return None

    def _accept_2m(self, gfn: int, pages: int, tdcall: TdCall, exits: TdxModuleArgs) -> int | None:
        """As Linux guests do: at 2M, and page by page where the host has mapped 4K pages."""
        args = TdxModuleArgs()
        args.rcx = gfn << PAGE_SHIFT | LEVEL_2M
        status = tdcall(TDG_MEM_PAGE_ACCEPT, args) & STATUS_MASK
        if status == TDX_PAGE_SIZE_MISMATCH:
            return self._accept(gfn, pages, tdcall, exits)
        if status in (TDX_OPERAND_BUSY, TDX_OPERAND_BUSY_HOST_PRIORITY):
            return self._interrupted(exits)
        if status not in (TDX_SUCCESS, TDX_PAGE_ALREADY_ACCEPTED):
            self.refused["TDG.MEM.PAGE.ACCEPT", status_name(status)] += 1
        return None

    def _interrupted(self, exits: TdxModuleArgs) -> int:
        """The guest would try again until an interrupt of the host takes its CPU."""
        exits.r9 = _IS_EXTERNAL | _POSTED_INTERRUPT
        return EXIT_REASON_EXTERNAL_INTERRUPT

    def _touch(
        self, gfn: int, pages: int, shared: bool, access: Callable[[int], None]
    ) -> int | None:
        while self._page < pages:
            gpa = gfn + self._page << PAGE_SHIFT
            self._page += shared  # mapped when the vCPU comes back: shared EPT is not walked here
            if shared:
                raise TdExit(0x2, 0, gpa | SHARED)
            access(gpa)
            self._page += 1
        return None

    def _map_gpa(self, gfn: int, pages: int, shared: bool, exits: TdxModuleArgs) -> int:
        first = gfn + self._page << PAGE_SHIFT
        size = pages - self._page << PAGE_SHIFT

        def answered(came: TdxModuleArgs) -> None:
            if came.r10 == TDVMCALL_RETRY:
                self._page = ((came.r11 & ~SHARED) >> PAGE_SHIFT) - gfn
                return
            if came.r10 != TDVMCALL_SUCCESS:
                self.refused["MapGPA", hex(came.r10)] += 1
            self._finish()

        return self._call(
            exits, TDVMCALL_MAP_GPA, answered, first | SHARED if shared else first, size
        )

    def _churn(self, gfn: int, pages: int) -> None:
        """Convert pages of a range to shared and back, as often as the seed's low half says."""
        times, seed = self._seed & 0xFFFFFF, self._seed >> 24
        random = Random(seed)
        plan = []
        for _ in range(times):
            page = gfn + random.randrange(pages)
            plan += [word(SHARE, page, 1), word(UNSHARE, page, 1), word(ACCEPT, page, 1)]
        self._plan = [*reversed(plan), self._plan[-1]]
        return
