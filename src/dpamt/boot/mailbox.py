"""The mailbox: each CPU's slot in guest memory, and a bell that rings when one of them asks.

CPUs wait for their answers inside their stubs, each for itself: others go on, and an answer can be
kept back as long as one likes.
"""

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
_TIMEVAL: Final = struct.Struct("@ll")
"""struct timeval, for SO_RCVTIMEO: one system call waits and reads."""
_SLOT_WORDS: Final = SLOT_BYTES // 4
_STATE: Final = SLOT_STATE // 4
_SITE: Final = SLOT_SITE // 4
_CARRY: Final = SLOT_CARRY // 4


class Mailbox:
    """One guest's slots."""

    def __init__(self, memory: GuestMemory, bell: socket.socket, cpus: int) -> None:
        count = min(cpus, MAX_CPUS)
        self._words = memory.words(SLOTS_PHYSICAL, SLOT_BYTES * count)
        self._bell = bell
        self._patience = 0.0
        self._taken = [False] * count
        """Requests handed out and not answered yet."""
        self.closed = False

    def wait(self, seconds: float) -> list[Request]:
        """The requests that came, after waiting for one at most so long; none is no error."""
        if seconds and seconds != self._patience:
            self._patience = seconds
            whole = int(seconds)
            patience = _TIMEVAL.pack(whole, int(1e6 * (seconds - whole)))
            self._bell.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        try:
            self.closed = not self._bell.recv(_BELLS, 0 if seconds else socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # nobody rang
        except OSError:
            self.closed = True
        # A slot is filled before its bell rings: after the bell, all that rang are seen.
        return self._scan()

    def _scan(self) -> list[Request]:
        found = []
        words = self._words
        for cpu, taken in enumerate(self._taken):
            slot = cpu * _SLOT_WORDS
            if words[slot + _STATE] != ASKED or taken:
                continue
            self._taken[cpu] = True
            values = _REGISTERS.unpack_from(words, 4 * slot + SLOT_REGISTERS)
            registers = dict(zip(SLOT_REGISTER_NAMES, values, strict=True))
            found.append(Request(cpu, words[slot + _SITE], registers))
        return found

    def answer(self, request: Request, answer: Answer) -> None:
        """Let the CPU of a request go on with these registers."""
        words = self._words
        slot = request.cpu * _SLOT_WORDS
        values = (request.registers | answer.registers).values()
        _REGISTERS.pack_into(words, 4 * slot + SLOT_REGISTERS, *values)
        words[slot + _CARRY] = answer.carry
        words[slot + _CARRY + 1] = 0
        self._taken[request.cpu] = False
        words[slot + _STATE] = ANSWERED
