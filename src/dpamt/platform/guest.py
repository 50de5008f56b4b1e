"""Software inside a TD: not the module, not Linux, but what a VCPU executes while inside.

TDH.VP.ENTER runs the guest program attached to the VCPU until it leaves.  A program keeps its own
position: when an access exits, the same instruction is executed again at the next entry, as on the
real machine.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from dpamt.abi.registers import TdxModuleArgs

TdCall = Callable[[int, TdxModuleArgs], int]
"""``status = tdcall(leaf, args)``; a call that causes a TD exit does not return to the guest."""


class GuestProgram(Protocol):
    """What runs on one VCPU."""

    def run(self, tdcall: TdCall, access: Callable[[int], None], exits: TdxModuleArgs) -> int:
        """Execute until the guest leaves of its own accord; returns the exit reason.

        ``access(gpa)`` touches a private page (and may cause a TD exit instead of returning);
        ``exits`` takes the registers of a TDVMCALL.  Reasons: :mod:`dpamt.abi.exits`.
        """


@runtime_checkable
class InterruptibleGuest(GuestProgram, Protocol):
    """A program that can say whether a virtual interrupt waits for it."""

    interrupt_waits: bool
    """An interrupt has been posted that the guest would take if it were entered."""
