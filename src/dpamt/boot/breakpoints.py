"""The mailbox, with breakpoints at which single vCPUs stand still.

SEAMCALLs come through the mailbox.  A vCPU that comes to a breakpoint stops before its instruction,
and is a request as any other; when it is answered, it makes that one instruction and runs on.
QEMU stops all vCPUs at every breakpoint; all but those that are held are let go at once.  A held
vCPU runs nothing, no interrupt either.

Nothing in the kernel is changed for this, and the breakpoints are there only while a schedule is
followed (:meth:`BreakpointMailbox.arm`, :meth:`BreakpointMailbox.disarm`).
"""

import select
import socket
from collections.abc import Iterable
from typing import Final

from dpamt.boot.gdb_stub import GdbStub
from dpamt.boot.mailbox import Mailbox
from dpamt.boot.request import BREAKPOINT_SITE, Answer, Request
from dpamt.errors import Finding

_GONE: Final = "WX"
_MOST_STEPS: Final = 20


class BreakpointMailbox:
    """A transport: ``mailbox`` with its ``bell``, and QEMU's gdb stub at ``end``."""

    def __init__(
        self, mailbox: Mailbox, bell: socket.socket, end: socket.socket, cpus: int
    ) -> None:
        self._mailbox = mailbox
        self._bell = bell
        self._stub = GdbStub(end)
        self._cpus = cpus
        self._addresses: list[int] = []
        self._held: set[int] = set()
        self._running = True
        """Whether any vCPU runs."""
        self._arrived: list[Request] = []
        """Requests of vCPUs that were found at a breakpoint and not handed out yet."""
        self.is_armed = False

    @property
    def closed(self) -> bool:
        """The guest is gone."""
        return self._mailbox.closed or self._stub.closed

    def arm(self, addresses: Iterable[int]) -> None:
        """Put a breakpoint at each address.

        Raises Finding when QEMU's gdb stub refuses.
        """
        self._addresses = sorted(set(addresses))
        self._stop()
        self._stub.describe()
        for address in self._addresses:
            self._stub.must(f"Z0,{address:x},1")
        self.is_armed = True
        self._go_on()

    def disarm(self) -> None:
        """Take the breakpoints away: every vCPU runs, those that were held too."""
        if not self.is_armed:
            return
        self._stop()
        for address in self._addresses:
            self._stub.must(f"z0,{address:x},1")
        self.is_armed = False
        self._held.clear()
        self._arrived.clear()
        self._stub.send("c")
        self._running = True

    def wait(self, seconds: float) -> list[Request]:
        """The requests that came, after waiting for one at most so long."""
        if not self.is_armed:
            return self._mailbox.wait(seconds)
        if not self._arrived:
            select.select([self._bell, self._stub.end], [], [], seconds)
        packet = self._stub.receive(0.0)
        if packet and packet[0] in _GONE:
            self._stub.closed = True
        if packet and not self.closed:
            self._running = False
            self._look()
            self._go_on()
        found, self._arrived = self._arrived, []
        return found + self._mailbox.wait(0.0)

    def answer(self, request: Request, answer: Answer) -> None:
        """Let the CPU of a request go on; at a breakpoint, with the instruction there."""
        if not request.is_breakpoint:
            self._mailbox.answer(request, answer)
        elif self.is_armed:  # else all run already
            self._stop()
            self._step(request.cpu, request.registers["rip"])
            self._held.discard(request.cpu)
            self._look()
            self._go_on()

    def _step(self, cpu: int, at: int) -> None:
        """Make the one instruction at ``at``.

        QEMU may stop once more for a breakpoint that it has reported already, before the vCPU has
        moved; then it is asked again.  Raises Finding when the vCPU does not move at all.
        """
        for _ in range(_MOST_STEPS):
            self._stub.send(f"vCont;s:{cpu + 1:x}")
            self._stub.stop_reply()
            if self._stub.registers(cpu).get("rip") != at:
                return
        raise Finding(f"QEMU's gdb stub: CPU {cpu} does not go on from {at:#x}")

    def _stop(self) -> None:
        """Every vCPU stands still; whoever has come to a breakpoint is seen."""
        if self._running and not self.closed:
            self._stub.interrupt()
            self._stub.stop_reply()
            self._running = False
            if self.is_armed:
                self._look()

    def _look(self) -> None:
        """Who stands at a breakpoint, of a guest that stands still: wherever it was stopped, a vCPU
        there has not made the instruction."""
        for cpu in range(self._cpus):
            if cpu in self._held:
                continue
            registers = self._stub.registers(cpu)
            if registers and registers["rip"] in self._addresses:
                self._held.add(cpu)
                self._arrived.append(Request(cpu, BREAKPOINT_SITE, registers))

    def _go_on(self) -> None:
        """All vCPUs but those that are held."""
        free = [f"c:{cpu + 1:x}" for cpu in range(self._cpus) if cpu not in self._held]
        if free and not self.closed:
            self._stub.send("vCont;" + ";".join(free))
            self._running = True
