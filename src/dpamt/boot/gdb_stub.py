"""The connection to QEMU's gdb stub: packets of the remote serial protocol, and registers.

Source: GDB manual, "Remote Protocol"; QEMU 7.2 gdbstub/gdbstub.c (``gdb_handle_vcont``,
``gdb_continue_partial``: vCPUs that a ``vCont`` does not name stand still).
"""

import select
import socket
import struct
from time import monotonic
from typing import Final

from dpamt.errors import Finding

NAMES: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
"""The first registers of a ``g`` packet for x86-64, 8 bytes each; 4 bytes of EFLAGS follow."""
REGISTERS: Final = struct.Struct("<17QI")
_REPLY_SECONDS: Final = 20.0
_INTERRUPT: Final = b"\x03"


class GdbStub:
    """One connection.  ``closed``: the guest is gone."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._received = bytearray()
        self.closed = False

    def describe(self) -> None:
        """Ask for the description of the registers: before that QEMU answers P with nothing."""
        self.ask("qSupported:xmlRegisters=i386")
        self.ask("qXfer:features:read:target.xml:0,ffb")

    def send(self, text: str) -> None:
        """Send a packet."""
        data = text.encode()
        self._write(b"+$" + data + b"#%02x" % (sum(data) & 0xFF))

    def interrupt(self) -> None:
        """Ask a guest that runs to stop; its answer is a packet as any stop."""
        self._write(_INTERRUPT)

    def _write(self, data: bytes) -> None:
        try:
            self.end.sendall(data)
        except OSError:
            self.closed = True

    def receive(self, seconds: float) -> str | None:
        """The next packet; None when none comes in time; "" also when the guest is gone."""
        deadline = monotonic() + seconds
        while True:
            start = self._received.find(b"$")
            end = self._received.find(b"#", start + 1)
            if start >= 0 and end >= 0 and len(self._received) >= end + 3:
                packet = self._received[start + 1 : end].decode("latin-1")
                del self._received[: end + 3]
                return packet
            ready, _, _ = select.select([self.end], [], [], max(0.0, deadline - monotonic()))
            if not ready:
                return None
            try:
                data = self.end.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return ""
            self._received.extend(data)

    def ask(self, text: str) -> str:
        """The reply to a packet; "" also when the guest is gone.  Raises Finding without one."""
        self.send(text)
        reply = self.receive(_REPLY_SECONDS)
        if reply is None:
            raise Finding(f"QEMU's gdb stub does not answer {text[:20]!r}")
        return reply

    def must(self, text: str) -> None:
        """A packet to which OK is the reply.  Raises Finding for another one."""
        reply = self.ask(text)
        if reply != "OK" and not self.closed:
            raise Finding(f"QEMU's gdb stub answers {reply!r} to {text[:20]!r}; expected OK")

    def stop_reply(self) -> str:
        """The packet that says that the guest has stopped.  Raises Finding without one."""
        reply = self.receive(_REPLY_SECONDS)
        if reply is None:
            raise Finding("QEMU's gdb stub does not stop the guest")
        return reply

    def registers(self, cpu: int) -> dict[str, int]:
        """Registers of a vCPU of a stopped guest, from 0; none when the guest is gone."""
        self.must(f"Hg{cpu + 1:x}")
        raw = bytes.fromhex(self.ask("g"))
        if self.closed:
            return {}
        return dict(zip((*NAMES, "eflags"), REGISTERS.unpack_from(raw), strict=True))
