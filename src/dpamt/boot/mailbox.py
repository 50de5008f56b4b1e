"""The mailbox: each CPU's slot in guest memory, and a bell that rings when one of them asks.

CPUs wait for their answers inside their stubs, each for itself: others go on, and an answer can be
kept back as long as one likes.
"""

import select
import socket
import struct
from typing import Final

from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.request import Answer, Request
from dpamt.boot.stub import (
    ANSWERED,
    ASKED,
    MAX_CPUS,
    SLOT_BYTES,
    SLOT_CARRY,
    SLOT_REGISTER_NAMES,
    SLOT_REGISTERS,
    SLOT_SITE,
    SLOT_STATE,
    SLOTS_PHYSICAL,
)

_REGISTERS: Final = struct.Struct(f"<{len(SLOT_REGISTER_NAMES)}Q")
_BELLS: Final = 4096
"""Bytes read from the bell at once: one is enough, however many there are."""


class Mailbox:
    """One guest's slots."""

    def __init__(self, memory: GuestMemory, bell: socket.socket, cpus: int) -> None:
        self._memory = memory
        self._bell = bell
        self._slots = [SLOTS_PHYSICAL + SLOT_BYTES * cpu for cpu in range(min(cpus, MAX_CPUS))]
        self._taken = [False] * len(self._slots)
        """Requests handed out and not answered yet."""
        self.closed = False

    def wait(self, seconds: float) -> list[Request]:
        """The requests that came, after waiting for one at most so long; none is no error."""
        found = self._scan()
        if found or self.closed:
            return found
        ready, _, _ = select.select([self._bell], [], [], seconds)
        if ready:
            try:
                self.closed = not self._bell.recv(_BELLS)
            except OSError:
                self.closed = True
        return self._scan()

    def _scan(self) -> list[Request]:
        found = []
        for cpu, slot in enumerate(self._slots):
            if self._taken[cpu] or self._memory.read32(slot + SLOT_STATE) != ASKED:
                continue
            self._taken[cpu] = True
            values = _REGISTERS.unpack(self._memory.read(slot + SLOT_REGISTERS, _REGISTERS.size))
            registers = dict(zip(SLOT_REGISTER_NAMES, values, strict=True))
            found.append(Request(cpu, self._memory.read32(slot + SLOT_SITE), registers))
        return found

    def answer(self, request: Request, answer: Answer) -> None:
        """Let the CPU of a request go on with these registers."""
        slot = self._slots[request.cpu]
        values = [answer.registers.get(name, request.registers[name]) for name in _NAMES]
        self._memory.write(slot + SLOT_REGISTERS, _REGISTERS.pack(*values))
        self._memory.write64(slot + SLOT_CARRY, int(answer.carry))
        self._taken[request.cpu] = False
        self._memory.write32(slot + SLOT_STATE, ANSWERED)


_NAMES: Final = SLOT_REGISTER_NAMES
