"""The gdb transport against a stub that is played here, for what QEMU's does not do on demand.

With QEMU's own it runs in tests/boot/kernel.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

import pytest

from dpamt.boot.gdb import GdbTransport
from dpamt.boot.interventions import (
    MKTME_KEYIDS,
    PRIVATE_KEYIDS,
    RDMSR,
    RENDEZVOUS,
    RENDEZVOUS_SITE,
    RETURN_0,
    SEAMCALL,
    Place,
)
from dpamt.boot.request import Answer, Request
from dpamt.errors import Finding

CALL, READ, ENABLE, HELD = 0x1000, 0x2000, 0x3000, 0x4000
PLACES = [
    Place(SEAMCALL, "__seamcall", CALL, 4, ""),
    Place(RDMSR, "tdx_init", READ, 2, ""),
    Place(RETURN_0, "x86_vmx_enable_virtualization_cpu", ENABLE, 3, ""),
    Place(RENDEZVOUS, "f:g", HELD, 5, ""),
]
NAMES = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip"),
)
STACK, BACK = 0x7000, 0x8123


class Stub(Thread):
    """Stops the guest at each of ``stops`` in turn: (thread, RIP); then the guest is gone."""

    def __init__(self, end: socket.socket, stops: list[tuple[str, int]]) -> None:
        super().__init__(daemon=True)
        self.end = end
        self.stops = stops
        self.breakpoints: list[int] = []
        self.registers = dict.fromkeys(NAMES, 0) | {"rsp": STACK, "rax": 34, "rdx": 7}
        self.flags = 0x247
        self.tail = bytes(range(100))
        self.seen: list[dict[str, int]] = []
        """The registers each time the guest goes on."""
        self.refuses = ""
        self.thread = ""

    def run(self) -> None:
        received = b""
        while True:
            while b"#" not in received or len(received) < received.index(b"#") + 3:
                try:
                    data = self.end.recv(4096)
                except OSError:
                    return
                if not data:
                    return
                received += data.lstrip(b"+") if not received else data
            packet, _, received = received.partition(b"#")
            check, received = received[:2], received[2:].lstrip(b"+")
            text = packet.partition(b"$")[2]
            assert int(check, 16) == sum(text) & 0xFF
            reply = self.answer(text.decode())
            if reply is not None:
                self.send(reply)

    def send(self, text: str) -> None:
        data = text.encode()
        self.end.sendall(b"+$" + data + b"#%02x" % (sum(data) & 0xFF))

    def answer(self, text: str) -> str | None:
        if self.refuses and text.startswith(self.refuses):
            return "E22"
        kind, rest = text[0], text[1:]
        if kind == "Z":
            self.breakpoints.append(int(rest.split(",")[1], 16))
        elif kind == "H":
            self.thread = rest[1:]
        elif kind == "g":
            values = [self.registers[name] for name in NAMES]
            return (struct.pack("<17QI", *values, self.flags) + self.tail).hex()
        elif kind == "G":
            data = bytes.fromhex(rest)
            *values, self.flags = struct.unpack_from("<17QI", data)
            self.registers = dict(zip(NAMES, values, strict=True))
            assert data[17 * 8 + 4 :] == self.tail
        elif kind == "m":
            assert rest == f"{STACK:x},8"
            return struct.pack("<Q", BACK).hex()
        elif kind == "c":
            self.seen.append(dict(self.registers))
            if not self.stops:
                return "W00"
            thread, self.registers["rip"] = self.stops.pop(0)
            return f"T05thread:{thread};"
        return "OK" if kind in "ZHG" else ""


Play = Callable[..., tuple[GdbTransport, Stub]]


@pytest.fixture
def play() -> Iterator[Play]:
    ends: list[socket.socket] = []
    stubs: list[Stub] = []

    def play(*stops: tuple[str, int], refuses: str = "") -> tuple[GdbTransport, Stub]:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        stub = Stub(theirs, list(stops))
        stub.refuses = refuses
        stubs.append(stub)
        stub.start()
        return GdbTransport(ours, PLACES), stub

    yield play
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for stub in stubs:
        stub.join(5.0)
    for end in ends:
        end.close()


def next_request(transport: GdbTransport) -> Request:
    for _ in range(10):
        for request in transport.wait(5.0):
            return request
    raise AssertionError("no request")


def test_a_breakpoint_at_each_place(play: Play) -> None:
    _, stub = play()
    assert stub.breakpoints == [place.address for place in PLACES]


@pytest.mark.parametrize("carry", [False, True])
def test_a_seamcall_is_stepped_over_with_its_answer(carry: bool, play: Play) -> None:
    transport, stub = play(("p01.02", CALL))
    request = next_request(transport)
    assert (request.cpu, request.site, request.registers["rax"]) == (1, 0, 34)
    assert stub.thread.endswith("02")
    transport.answer(request, Answer({"rax": 5, "r13": 1 << 63}, carry))
    assert transport.wait(5.0) == []
    assert transport.closed
    registers = stub.seen[-1]
    assert (registers["rax"], registers["r13"], registers["rdx"]) == (5, 1 << 63, 7)
    assert registers["rip"] == CALL + 4
    assert stub.flags == 0x246 | carry


def test_the_keyid_msr_and_vmxon_need_no_module(play: Play) -> None:
    transport, stub = play(("01", READ), ("01", ENABLE), ("01", CALL))
    request = next_request(transport)
    assert request.site == 0
    read, enable = stub.seen[1], stub.seen[2]
    assert (read["rax"], read["rdx"], read["rip"]) == (MKTME_KEYIDS, PRIVATE_KEYIDS, READ + 2)
    assert (enable["rax"], enable["rsp"], enable["rip"]) == (0, STACK + 8, BACK)


def test_a_rendezvous_goes_on_with_its_call(play: Play) -> None:
    transport, stub = play(("01", HELD))
    request = next_request(transport)
    assert request.site == RENDEZVOUS_SITE
    transport.answer(request, Answer())
    transport.wait(5.0)
    assert stub.seen[-1]["rip"] == HELD


def test_a_stop_elsewhere_is_let_go(play: Play) -> None:
    transport, _ = play(("01", 0x9999), ("01", CALL))
    assert next_request(transport).registers["rip"] == CALL


@pytest.mark.parametrize("command", ["Z0", "Hg", "G"])
def test_a_stub_that_refuses(command: str, play: Play) -> None:
    """Each answer is looked at: a write that is lost would have the guest stop here for ever."""

    def drive() -> None:
        transport, _ = play(("01", CALL), refuses=command)
        transport.answer(next_request(transport), Answer({"rax": 0}))

    with pytest.raises(Finding, match="'E22'"):
        drive()


def test_a_stub_that_is_gone(play: Play) -> None:
    transport, stub = play(("01", CALL))
    stub.end.shutdown(socket.SHUT_RDWR)
    assert transport.wait(5.0) == []
    assert transport.closed
