"""QEMU's monitor (QMP): start the guest, stop it, and read the registers of every vCPU.

Source: QEMU docs/interop/qmp-spec.rst; registers as target/i386/cpu-dump.c prints them.
"""

import json
import re
import socket
from typing import Any, Final

from dpamt.errors import Finding

_REGISTER: Final = re.compile(r"\b[RE]([A-Z0-9]{1,2}) ?=([0-9a-f]{8,16})\b")
_CPU: Final = re.compile(r"^CPU#(\d+)", re.MULTILINE)
_SECONDS: Final = 20.0
_MOST_BYTES: Final = 1 << 22


class Monitor:
    """One connection to the monitor."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(_SECONDS)
        self._buffer = b""
        self._read()
        self.run("qmp_capabilities")

    def run(self, command: str, **arguments: Any) -> Any:
        """The value that a command returns; Finding when QEMU refuses or does not answer."""
        message = {"execute": command, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
            while True:
                answer = self._read()
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise Finding(f"QEMU: {command}: {answer['error'].get('desc')}")
        except OSError as error:
            raise Finding(f"QEMU: {command}: {error}") from None

    def registers(self) -> list[dict[str, int]]:
        """The general registers and RIP of each vCPU, by their 64-bit names (EIP is ``rip``)."""
        text = self.run("human-monitor-command", **{"command-line": "info registers -a"})
        parts = _CPU.split(text)[1:]
        return [
            {f"r{name.lower()}": int(value, 16) for name, value in _REGISTER.findall(part)}
            for part in parts[1::2]
        ]

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise Finding(f"QEMU: the monitor: {error}") from None
            if not data or len(self._buffer) > _MOST_BYTES:
                raise Finding("QEMU: the monitor is closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
