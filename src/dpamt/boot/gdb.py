"""The gdb stub of QEMU as a transport: stop at each place, read and write registers, go on.

Nothing in the guest is changed, but all its CPUs stand still while one is answered.
"""

import socket
import struct
from collections.abc import Iterable
from typing import Final

from dpamt.boot.gdb_stub import NAMES, REGISTERS, GdbStub
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

_CARRY: Final = 1


class GdbTransport:
    """Answers at breakpoints; ``places`` are those of the kernel."""

    def __init__(self, end: socket.socket, places: Iterable[Place]) -> None:
        self._stub = GdbStub(end)
        self._running = False
        self._thread = ""
        self._raw = b""
        self._values: dict[str, int] = {}
        self._places: dict[int, tuple[Place, int]] = {}
        sites = calls = 0
        self._stub.describe()
        for place in places:
            site = -1
            if place.kind == SEAMCALL:
                site, sites = sites, sites + 1
            elif place.kind == RENDEZVOUS:
                site, calls = RENDEZVOUS_SITE + calls, calls + 1
            self._places[place.address] = place, site
            self._stub.must(f"Z0,{place.address:x},1")

    @property
    def closed(self) -> bool:
        """The guest is gone."""
        return self._stub.closed

    def wait(self, seconds: float) -> list[Request]:
        """The request of the CPU that stopped at a SEAMCALL, after waiting at most so long."""
        if self.closed:
            return []
        if not self._running:
            self._stub.send("c")
            self._running = True
        packet = self._stub.receive(seconds)
        if not packet:
            return []
        if packet[0] in "WX":
            self._stub.closed = True
            return []
        if packet[0] not in "TS":
            return []
        self._running = False
        return self._stopped(packet)

    def _stopped(self, packet: str) -> list[Request]:
        fields = dict(part.partition(":")[::2] for part in packet[3:].split(";"))
        self._thread = fields.get("thread", "1").rpartition(".")[2]
        self._stub.must(f"Hg{self._thread}")
        self._raw = bytes.fromhex(self._stub.ask("g"))
        if self.closed:
            return []
        values = REGISTERS.unpack_from(self._raw)
        self._values = dict(zip((*NAMES, "eflags"), values, strict=True))
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
        names = [name for name in answer.registers if name in NAMES]
        changed = {name: answer.registers[name] for name in names}
        self._go_on({**changed, "eflags": flags}, place.size)

    def _return_0(self) -> None:
        """As if the function had returned 0."""
        stack = self._values["rsp"]
        told = bytes.fromhex(self._stub.ask(f"m{stack:x},8"))
        if self.closed:
            return
        back = struct.unpack("<Q", told)[0]
        self._write({"rax": 0, "rsp": stack + 8, "rip": back})

    def _go_on(self, changed: dict[str, int], size: int) -> None:
        self._write({**changed, "rip": self._values["rip"] + size})

    def _write(self, changed: dict[str, int]) -> None:
        values = {**self._values, **changed}
        packed = REGISTERS.pack(*(values[name] for name in (*NAMES, "eflags")))
        self._stub.must("G" + (packed + self._raw[len(packed) :]).hex())
