"""The gdb stub of QEMU as a transport: stop at each place, read and write registers, go on.

Nothing in the guest is changed, but all its CPUs stand still while one is answered.  What is spoken
is the remote serial protocol (GDB manual, "Remote Protocol").
"""

import select
import socket
import struct
from collections.abc import Iterable
from time import monotonic
from typing import Final

from dpamt.boot.interventions import (
    MKTME_KEYIDS,
    PRIVATE_KEYIDS,
    RDMSR,
    RENDEZVOUS,
    RENDEZVOUS_SITE,
    SEAMCALL,
    Place,
)
from dpamt.boot.request import Answer, Request
from dpamt.errors import Finding

_NAMES: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
"""The first registers of a ``g`` packet for x86-64, 8 bytes each; 4 bytes of EFLAGS follow."""
_REGISTERS: Final = struct.Struct("<17QI")
_CARRY: Final = 1
_REPLY_SECONDS: Final = 20.0


class GdbTransport:
    """Answers at breakpoints; ``places`` are those of the kernel."""

    def __init__(self, end: socket.socket, places: Iterable[Place]) -> None:
        self._end = end
        self._received = bytearray()
        self._running = False
        self._thread = ""
        self._raw = b""
        self._values: dict[str, int] = {}
        self.closed = False
        self._places: dict[int, tuple[Place, int]] = {}
        sites = calls = 0
        # QEMU answers P with nothing until the description of the registers has been asked for.
        self._ask("qSupported:xmlRegisters=i386")
        self._ask("qXfer:features:read:target.xml:0,ffb")
        for place in places:
            site = -1
            if place.kind == SEAMCALL:
                site, sites = sites, sites + 1
            elif place.kind == RENDEZVOUS:
                site, calls = RENDEZVOUS_SITE + calls, calls + 1
            self._places[place.address] = place, site
            self._must(f"Z0,{place.address:x},1")

    # Packets.

    def _send(self, text: str) -> None:
        data = text.encode()
        try:
            self._end.sendall(b"+$" + data + b"#%02x" % (sum(data) & 0xFF))
        except OSError:
            self.closed = True

    def _receive(self, seconds: float) -> str | None:
        """The next packet; None when none comes in time; "" also when the guest is gone."""
        deadline = monotonic() + seconds
        while True:
            start = self._received.find(b"$")
            end = self._received.find(b"#", start + 1)
            if start >= 0 and end >= 0 and len(self._received) >= end + 3:
                packet = self._received[start + 1 : end].decode("latin-1")
                del self._received[: end + 3]
                return packet
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - monotonic()))
            if not ready:
                return None
            try:
                data = self._end.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                return ""
            self._received.extend(data)

    def _ask(self, text: str) -> str:
        self._send(text)
        reply = self._receive(_REPLY_SECONDS)
        if reply is None:
            raise Finding(f"QEMU's gdb stub does not answer {text[:20]!r}")
        return reply

    def _must(self, text: str) -> None:
        reply = self._ask(text)
        if reply != "OK" and not self.closed:
            raise Finding(f"QEMU's gdb stub answers {reply!r} to {text[:20]!r}; expected OK")

    # The transport.

    def wait(self, seconds: float) -> list[Request]:
        """The request of the CPU that stopped at a SEAMCALL, after waiting at most so long."""
        if self.closed:
            return []
        if not self._running:
            self._send("c")
            self._running = True
        packet = self._receive(seconds)
        if not packet:
            return []
        if packet[0] in "WX":
            self.closed = True
            return []
        if packet[0] not in "TS":
            return []
        self._running = False
        return self._stopped(packet)

    def _stopped(self, packet: str) -> list[Request]:
        fields = dict(part.partition(":")[::2] for part in packet[3:].split(";"))
        self._thread = fields.get("thread", "1").rpartition(".")[2]
        self._must(f"Hg{self._thread}")
        self._raw = bytes.fromhex(self._ask("g"))
        if self.closed:
            return []
        values = _REGISTERS.unpack_from(self._raw)
        self._values = dict(zip((*_NAMES, "eflags"), values, strict=True))
        found = self._places.get(self._values["rip"])
        if found is None:
            return []
        place, site = found
        if site >= 0:
            return [Request(int(self._thread, 16) - 1, site, dict(self._values))]
        if place.kind == RDMSR:
            self._go_on({"rax": MKTME_KEYIDS, "rdx": PRIVATE_KEYIDS}, place.size)
        else:
            self._return_0()
        return []

    def answer(self, request: Request, answer: Answer) -> None:
        """Let the stopped CPU go on behind its SEAMCALL; at a rendezvous, with the call itself."""
        place, site = self._places[self._values["rip"]]
        if site >= RENDEZVOUS_SITE:
            # QEMU steps over a breakpoint that it has reported when it goes on.
            return
        flags = self._values["eflags"] & ~_CARRY | (_CARRY if answer.carry else 0)
        names = [name for name in answer.registers if name in _NAMES]
        changed = {name: answer.registers[name] for name in names}
        self._go_on({**changed, "eflags": flags}, place.size)

    def _return_0(self) -> None:
        """As if the function had returned 0."""
        stack = self._values["rsp"]
        told = bytes.fromhex(self._ask(f"m{stack:x},8"))
        if self.closed:
            return
        back = struct.unpack("<Q", told)[0]
        self._write({"rax": 0, "rsp": stack + 8, "rip": back})

    def _go_on(self, changed: dict[str, int], size: int) -> None:
        self._write({**changed, "rip": self._values["rip"] + size})

    def _write(self, changed: dict[str, int]) -> None:
        values = {**self._values, **changed}
        packed = _REGISTERS.pack(*(values[name] for name in (*_NAMES, "eflags")))
        self._must("G" + (packed + self._raw[len(packed) :]).hex())
