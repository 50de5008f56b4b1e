"""The guests of a boot's TDs, one for each vCPU that the kernel makes, and their interrupts."""

from collections import Counter
from typing import Final

from dpamt.abi.exits import EXIT_REASON_EPT_VIOLATION
from dpamt.abi.leaves import TDH_VP_ENTER, TDH_VP_INIT, TDH_VP_WR
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.status import TDX_SUCCESS
from dpamt.boot.kvm.guest import WordGuest
from dpamt.module.module import TdxModule

_FIELD_MASK: Final = 0xFFFF
_POSTED_DESCRIPTOR: Final = 0x2016
"""VMCS field of the posted-interrupt descriptor's address (Intel SDM, volume 3, appendix B)."""
_REQUESTS: Final = 4
"""Quadwords of the descriptor that have a bit for each vector; the bit behind them says that one
of them is new (Intel SDM, volume 3, 31.6)."""

MOST_FAULTS: Final = 10_000
_EXIT_REASON: Final = 0xFFFF_FFFF
_R8: Final = 2
"""Place in a SEAMCALL's registers: the address of an EPT violation."""


class Guests:
    """Puts a :class:`WordGuest` on each vCPU as it is initialised."""

    def __init__(self) -> None:
        self._all: list[WordGuest] = []
        self._of: dict[int, WordGuest] = {}
        """By the frame number of its TDVPR; a page that becomes a TDVPR again gets a new guest."""
        self._descriptors: dict[int, int] = {}
        """By the same: where the vCPU's posted interrupts are."""
        self._faults: dict[int, tuple[int, int]] = {}
        """By the same: where its last exit was an EPT violation, and how often in a row."""

    def about_to_enter(self, module: TdxModule, tdvpr: int) -> None:
        """Posted interrupts are taken at entry, as the CPU does when their vector comes."""
        guest = self._of.get(tdvpr >> PAGE_SHIFT)
        at = self._descriptors.get(tdvpr >> PAGE_SHIFT)
        if guest is None or at is None:
            return
        memory = module.memory
        control = memory.read64(at + 8 * _REQUESTS)
        if not control & 1:
            return
        memory.write64(at + 8 * _REQUESTS, control & ~1)
        for index in range(_REQUESTS):
            requests = memory.read64(at + 8 * index)
            if requests:
                memory.write64(at + 8 * index, 0)
                guest.interrupts += requests.bit_count()

    def answered(
        self, module: TdxModule, leaf: int, before: tuple[int, ...], status: int
    ) -> dict[str, int]:
        """A SEAMCALL with these registers was answered: more registers that it gives back."""
        tdvpr = before[0]
        page = tdvpr >> PAGE_SHIFT
        if leaf == TDH_VP_INIT and status == TDX_SUCCESS:
            guest = WordGuest()
            module.attach_guest(tdvpr, guest)
            self._all.append(guest)
            self._of[page] = guest
            self._descriptors.pop(page, None)
        elif leaf == TDH_VP_WR and before[1] & _FIELD_MASK == _POSTED_DESCRIPTOR:
            self._descriptors[page] = before[2]
        elif leaf == TDH_VP_ENTER and not status >> 63:
            entered = self._of.get(page)
            if entered is not None:
                return entered.more
        return {}

    def fault_again(
        self, leaf: int, before: tuple[int, ...], status: int, after: tuple[int, ...]
    ) -> list[str]:
        """What is wrong when a vCPU leaves by the same EPT violation over and over.

        KVM enters it as if the page were mapped.  While other CPUs convert a page, a vCPU may come
        back a few times; :data:`MOST_FAULTS` are more than any of KVM's own retries.
        """
        if leaf != TDH_VP_ENTER:
            return []
        tdvpr = before[0] >> PAGE_SHIFT
        is_fault = status & _EXIT_REASON == EXIT_REASON_EPT_VIOLATION and not status >> 63
        gpa = after[_R8] if is_fault else -1
        same = self._faults.get(tdvpr)
        times = same[1] + 1 if is_fault and same is not None and same[0] == gpa else 1
        self._faults[tdvpr] = gpa, times
        if times != MOST_FAULTS:
            return []
        return [
            f"stuck: the vCPU of TDVPR {before[0]:#x} left {times:,} times in a row by an EPT "
            f"violation at {gpa:#x}: KVM enters it again, and the page is not mapped"
        ]

    def refused(self) -> Counter[tuple[str, str]]:
        """(What guests asked, answer) of what did not succeed, and how often."""
        return sum((guest.refused for guest in self._all), Counter())

    def interrupts(self) -> int:
        """Posted interrupts that guests took."""
        return sum(guest.interrupts for guest in self._all)
