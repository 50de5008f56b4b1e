"""The mailbox against a guest that is played here: slots in a file, a bell on a socket."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.mailbox import Mailbox
from dpamt.boot.request import Answer
from dpamt.boot.stub import (
    ANSWERED,
    ASKED,
    IDLE,
    SLOT_BYTES,
    SLOT_CARRY,
    SLOT_REGISTER_NAMES,
    SLOT_REGISTERS,
    SLOT_SITE,
    SLOT_STATE,
    SLOTS_PHYSICAL,
)


class Played:
    """Four CPUs that ask."""

    def __init__(self, folder: Path) -> None:
        path = folder / "memory"
        path.write_bytes(bytes(1 << 20))
        self.memory = GuestMemory([(path, 1 << 20)])
        self.bell, end = socket.socketpair()
        self.mailbox = Mailbox(self.memory, end, 4)
        self.end = end

    def ask(self, cpu: int, site: int, registers: dict[str, int]) -> None:
        slot = SLOTS_PHYSICAL + SLOT_BYTES * cpu
        values = [registers.get(name, 0) for name in SLOT_REGISTER_NAMES]
        self.memory.write(slot + SLOT_REGISTERS, struct.pack("<16Q", *values))
        self.memory.write32(slot + SLOT_SITE, site)
        self.memory.write32(slot + SLOT_STATE, ASKED)
        self.bell.send(b"x")

    def answer(self, cpu: int) -> tuple[int, bool, dict[str, int]]:
        slot = SLOTS_PHYSICAL + SLOT_BYTES * cpu
        values = struct.unpack("<16Q", self.memory.read(slot + SLOT_REGISTERS, 128))
        carry = self.memory.read64(slot + SLOT_CARRY)
        registers = dict(zip(SLOT_REGISTER_NAMES, values, strict=True))
        return self.memory.read32(slot + SLOT_STATE), carry == 1, registers

    def close(self) -> None:
        self.bell.close()
        self.end.close()
        self.memory.close()


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    guest = Played(tmp_path)
    yield guest
    guest.close()


def test_a_question_and_its_answer(played: Played) -> None:
    assert played.mailbox.wait(0) == []
    played.ask(2, 1, {"rax": 58, "rcx": 0x100200001, "rsp": 7})
    (request,) = played.mailbox.wait(1)
    assert (request.cpu, request.site) == (2, 1)
    assert (request.registers["rax"], request.registers["rcx"]) == (58, 0x100200001)
    assert played.mailbox.wait(0) == []  # handed out once
    played.mailbox.answer(request, Answer({"rax": 5, "rdx": 6}, carry=True))
    state, carry, registers = played.answer(2)
    assert (state, carry) == (ANSWERED, True)
    assert (registers["rax"], registers["rdx"], registers["rcx"]) == (5, 6, 0x100200001)


def test_answers_in_any_order(played: Played) -> None:
    for cpu in range(4):
        played.ask(cpu, 0, {"rax": cpu})
    requests = played.mailbox.wait(1)
    assert [request.cpu for request in requests] == [0, 1, 2, 3]
    Random(1).shuffle(requests)
    for request in requests:
        assert played.answer(request.cpu)[0] == ASKED
        played.mailbox.answer(request, Answer({"rax": 100 + request.cpu}))
        assert played.answer(request.cpu)[2]["rax"] == 100 + request.cpu


def test_a_guest_that_is_gone(played: Played) -> None:
    played.bell.close()
    assert played.mailbox.wait(1) == []
    assert played.mailbox.closed


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=4 * SLOT_BYTES, max_size=4 * SLOT_BYTES), st.binary(max_size=9000))
def test_a_corrupted_mailbox_is_only_odd_requests(garbage: bytes, bells: bytes) -> None:
    """Whatever a guest writes there, and however often it rings."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        guest = Played(Path(name))
        guest.memory.write(SLOTS_PHYSICAL, garbage)
        guest.bell.setblocking(False)
        guest.bell.send(bells)
        for request in guest.mailbox.wait(0):
            assert 0 <= request.cpu < 4
            assert all(0 <= value < 1 << 64 for value in request.registers.values())
            guest.mailbox.answer(request, Answer({"rax": 1}))
            assert guest.answer(request.cpu)[0] == ANSWERED
        guest.memory.write(SLOTS_PHYSICAL, bytes(4 * SLOT_BYTES))
        assert guest.answer(0)[0] == IDLE
        guest.close()
