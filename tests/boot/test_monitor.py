"""QEMU's monitor: lines of JSON that come in any pieces, answers among events, registers."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from dpamt.boot import monitor as under_test
from dpamt.boot.monitor import Monitor
from dpamt.errors import Finding

GREETING: dict[str, Any] = {"QMP": {"version": {}}}
REGISTERS = """
CPU#0
RAX=0000000000000001 RBX=ffffffff81001234 RCX=0000000000000000 RDX=0000000000000000
R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a R15=000000000000000f
RIP=ffffffff81005678 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
CPU#11
EAX=00000005 EBX=00000006
EIP=0000fff0 EFL=00000002 [-------] CPL=0
"""


class Qemu:
    """The other end: says what it was given, and keeps what it was asked."""

    def __init__(self, end: socket.socket, answers: list[bytes], stays: bool) -> None:
        self._stays = stays
        self.asked: list[Any] = []
        self._end = end
        self._answers = answers
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        with self._end, self._end.makefile("rb") as lines:
            self._end.sendall(json.dumps(GREETING).encode() + b"\r\n")
            for answer in self._answers:
                line = lines.readline()
                if not line:
                    return
                self.asked.append(json.loads(line))
                with suppress(OSError):
                    for at in range(0, len(answer), 7):
                        self._end.sendall(answer[at : at + 7])
            if self._stays:
                lines.readline()


def line(**value: Any) -> bytes:
    return json.dumps(value).encode() + b"\r\n"


READY = line(**{"return": {}})


@contextmanager
def connected(*answers: bytes, stays: bool = False) -> Iterator[tuple[Monitor, Qemu]]:
    ours, theirs = socket.socketpair()
    qemu = Qemu(theirs, [READY, *answers], stays)
    with ours:
        yield Monitor(ours), qemu


def test_a_command_has_its_answer_among_events() -> None:
    answer = line(event="STOP") + line(event="RESUME", data={}) + line(**{"return": {"a": 5}})
    with connected(answer, line(**{"return": {}})) as (monitor, qemu):
        assert monitor.run("query-it", name="x") == {"a": 5}
        assert monitor.run("cont") == {}
    assert qemu.asked == [
        {"execute": "qmp_capabilities", "arguments": {}},
        {"execute": "query-it", "arguments": {"name": "x"}},
        {"execute": "cont", "arguments": {}},
    ]


def test_what_qemu_refuses_is_told() -> None:
    answer = line(error={"class": "x", "desc": "no such thing"})
    with connected(answer) as (monitor, _), pytest.raises(Finding, match="stop: no such thing"):
        monitor.run("stop")


def test_a_monitor_that_is_closed() -> None:
    with connected() as (monitor, _), pytest.raises(Finding, match=r"QEMU: (the monitor|stop)"):
        monitor.run("stop")


def test_a_line_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_MOST_BYTES", 1000)
    with connected(b"x" * 5000) as (monitor, _), pytest.raises(Finding, match="is closed"):
        monitor.run("stop")


def test_a_silent_monitor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_SECONDS", 0.05)
    with (
        connected(b"", stays=True) as (monitor, _),
        pytest.raises(Finding, match="QEMU: the monitor: timed out"),
    ):
        monitor.run("stop")


def test_registers_of_every_vcpu() -> None:
    with connected(line(**{"return": REGISTERS})) as (monitor, qemu):
        first, second = monitor.registers()
    assert first["rax"] == 1
    assert first["rbx"] == 0xFFFFFFFF81001234
    assert (first["r8"], first["r9"], first["r10"], first["r15"]) == (8, 9, 10, 15)
    assert first["rip"] == 0xFFFFFFFF81005678
    assert (second["rax"], second["rip"]) == (5, 0xFFF0)
    asked = {"command-line": "info registers -a"}
    assert qemu.asked[1] == {"execute": "human-monitor-command", "arguments": asked}
