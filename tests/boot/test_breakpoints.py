"""Single vCPUs that stop at breakpoints, against a stub that is played here.

With QEMU's own it runs in tests/boot/kernel.
"""

import socket
import struct
from collections.abc import Iterator
from threading import Thread
from time import sleep

import pytest

from dpamt.boot.breakpoints import BreakpointMailbox
from dpamt.boot.gdb_stub import NAMES, REGISTERS
from dpamt.boot.mailbox import Mailbox
from dpamt.boot.request import BREAKPOINT_SITE, Answer, Request
from dpamt.errors import Finding

CPUS = 3
PLACE, OTHER = 0x1000, 0x2000


class FewSlots(Mailbox):
    """A mailbox that nobody writes to."""

    def __init__(self) -> None:
        self.closed = False
        self.answered: list[Request] = []

    def wait(self, seconds: float) -> list[Request]:
        return []

    def answer(self, request: Request, answer: Answer) -> None:
        self.answered.append(request)


class Cpus(Thread):
    """vCPUs as QEMU's gdb stub lets them go: each has its way, and goes one place at a time."""

    def __init__(self, end: socket.socket, ways: list[list[int]]) -> None:
        super().__init__(daemon=True)
        self.end = end
        self.ways = ways
        self.at = [0x10] * len(ways)
        self.breakpoints: set[int] = set()
        self.running: set[int] = set(range(len(ways)))
        self.told: list[str] = []
        self.thread = 0
        self.refuses = ""
        self.bell: socket.socket

    def run(self) -> None:
        received = b""
        while True:
            try:
                data = self.end.recv(4096)
            except OSError:
                return
            if not data:
                return
            received += data
            while received:
                if received[:1] == b"\x03":
                    received = received[1:]
                    if self.running:
                        self.running = set()
                        self.send("T02thread:01;")
                elif received[:1] == b"+":
                    received = received[1:]
                elif b"#" in received and len(received) >= received.index(b"#") + 3:
                    packet, _, received = received.partition(b"#")
                    received = received[2:]
                    self.take(packet[1:].decode())
                else:
                    break

    def send(self, text: str) -> None:
        data = text.encode()
        self.end.sendall(b"+$" + data + b"#%02x" % (sum(data) & 0xFF))

    def take(self, text: str) -> None:
        assert not self.running, f"{text} while vCPUs run"
        self.told.append(text)
        if self.refuses and text.startswith(self.refuses):
            self.send("E22")
        elif text[0] in "Zz":
            place = int(text.split(",")[1], 16)
            (self.breakpoints.add if text[0] == "Z" else self.breakpoints.remove)(place)
            self.send("OK")
        elif text[0] == "H":
            self.thread = int(text[2:], 16) - 1
            self.send("OK")
        elif text == "g":
            values = dict.fromkeys(NAMES, 0) | {"rip": self.at[self.thread]}
            self.send((REGISTERS.pack(*values.values(), 2) + bytes(8)).hex())
        elif text == "c":
            self.running = set(range(len(self.at)))
        elif text.startswith("vCont;s:"):
            self.go(int(text[8:], 16) - 1)
            self.send("T05thread:01;")
        elif text.startswith("vCont;"):
            self.running = {int(part[2:], 16) - 1 for part in text[6:].split(";")}
            for cpu in sorted(self.running):
                while self.ways[cpu] and self.at[cpu] not in self.breakpoints:
                    self.go(cpu)
                if self.at[cpu] in self.breakpoints:
                    self.running = set()
                    self.send(f"T05thread:{cpu + 1:02x};")
                    return
        else:
            self.send("")

    def go(self, cpu: int) -> None:
        if self.ways[cpu]:
            self.at[cpu] = self.ways[cpu].pop(0)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def made(
    ends: tuple[socket.socket, socket.socket], ways: list[list[int]]
) -> tuple[BreakpointMailbox, Cpus]:
    cpus = Cpus(ends[1], ways)
    cpus.start()
    bell, cpus.bell = socket.socketpair()
    return BreakpointMailbox(FewSlots(), bell, ends[0], len(ways)), cpus


def runs(cpus: Cpus, who: set[int]) -> bool:
    """Whether these vCPUs, and no others, come to run: the stub is a thread of its own."""
    for _ in range(500):
        if cpus.running == who:
            return True
        sleep(0.01)
    return False


def arrived(transport: BreakpointMailbox, count: int) -> list[Request]:
    found: list[Request] = []
    for _ in range(10):
        found += transport.wait(0.5)
        if len(found) >= count:
            return found
    raise AssertionError(f"{len(found)} requests")


def test_each_vcpu_stops_for_itself(ends: tuple[socket.socket, socket.socket]) -> None:
    transport, cpus = made(ends, [[PLACE, 0x1003, OTHER], [], [OTHER, 0x2004]])
    assert transport.wait(0.0) == []
    transport.arm([OTHER, PLACE, PLACE])
    found = {request.cpu: request for request in arrived(transport, 2)}
    assert {cpu: one.registers["rip"] for cpu, one in found.items()} == {0: PLACE, 2: OTHER}
    assert all(one.site == BREAKPOINT_SITE for one in found.values())
    assert runs(cpus, {1}), "only who is not held runs"
    transport.answer(found[0], Answer())
    (again,) = arrived(transport, 1)
    assert (again.cpu, again.registers["rip"]) == (0, OTHER)
    assert cpus.at == [OTHER, 0x10, OTHER]
    transport.answer(found[2], Answer())
    assert runs(cpus, {1, 2})
    assert transport.wait(0.01) == []
    assert cpus.at[2] == 0x2004
    transport.disarm()
    assert not cpus.breakpoints
    assert transport.wait(0.01) == []
    transport.answer(again, Answer())  # it runs already
    assert runs(cpus, {0, 1, 2})


def test_two_that_stop_at_once_are_both_seen(ends: tuple[socket.socket, socket.socket]) -> None:
    """A vCPU that another one's breakpoint stops may stand at its own by then."""
    transport, cpus = made(ends, [[PLACE], [PLACE]])
    cpus.at = [PLACE, PLACE]
    transport.arm([PLACE])
    assert sorted(request.cpu for request in arrived(transport, 2)) == [0, 1]
    assert not cpus.running


def test_seamcalls_go_through_the_mailbox(ends: tuple[socket.socket, socket.socket]) -> None:
    transport, cpus = made(ends, [[], []])
    request = Request(1, 0, {"rax": 58})
    transport.answer(request, Answer({"rax": 0}))
    assert transport._mailbox.answered == [request]  # type: ignore[attr-defined]
    assert cpus.told == []


def test_a_stub_that_refuses(ends: tuple[socket.socket, socket.socket]) -> None:
    transport, cpus = made(ends, [[], []])
    cpus.refuses = "Z0"
    with pytest.raises(Finding, match="'E22'"):
        transport.arm([PLACE])


def test_a_guest_that_is_gone(ends: tuple[socket.socket, socket.socket]) -> None:
    transport, _ = made(ends, [[], []])
    transport.arm([PLACE])
    ends[1].shutdown(socket.SHUT_RDWR)
    assert transport.wait(0.5) == []
    assert transport.closed


def test_registers_are_those_of_the_packet() -> None:
    assert REGISTERS.size == 17 * struct.calcsize("<Q") + 4
