"""One SEAMCALL of a guest as it is recorded, and the file of them: JSON lines, one call a line.

The fields are those of docs/boot.md; numbers are hexadecimal texts, so that no reader loses bits.
"""

import json
from dataclasses import dataclass
from typing import IO, Any, Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.status import status_name
from dpamt.own_files import STAMP

FORMAT: Final = 1
"""Version of the schema; the first line of a file says it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A SEAMCALL: when it was asked and answered (seconds since the guest was started), by which
    CPU, from where in the kernel, RAX and the operand registers before and after."""

    number: int
    cpu: int
    asked: float
    answered: float
    site: str
    caller: str
    rax: int
    before: tuple[int, ...]
    status: int
    after: tuple[int, ...]

    @property
    def leaf(self) -> int:
        """The leaf number."""
        return self.rax & RAX_LEAF_MASK

    @property
    def name(self) -> str:
        """The leaf's name, or its number."""
        return LEAF_NAMES.get(self.leaf, f"leaf {self.leaf}")

    def as_json(self) -> dict[str, Any]:
        """The call as a line of a recording has it; registers that are 0 are left out, of those
        afterwards the ones that did not change."""
        changed = zip(REGISTER_NAMES, self.before, self.after, strict=True)
        return {
            "number": self.number,
            "cpu": self.cpu,
            "asked": round(self.asked, 6),
            "answered": round(self.answered, 6),
            "leaf": self.name,
            "rax": f"{self.rax:#x}",
            "site": self.site,
            "caller": self.caller,
            "before": _registers(zip(REGISTER_NAMES, self.before, strict=True)),
            "status": f"{self.status:#x}",
            "status_name": status_name(self.status),
            "after": {name: f"{new:#x}" for name, old, new in changed if old != new},
        }

    def same_as(self, other: "Call") -> bool:
        """Whether two calls ask and answer the same, whenever that was."""
        return (self.cpu, self.site, self.rax, self.before, self.status, self.after) == (
            other.cpu,
            other.site,
            other.rax,
            other.before,
            other.status,
            other.after,
        )


def _registers(pairs: Any) -> dict[str, str]:
    return {name: f"{value:#x}" for name, value in pairs if value}


class Recording:
    """Writes calls to an open text file as they come."""

    def __init__(self, file: IO[str], **about: Any) -> None:
        self._file = file
        self._write({"format": FORMAT, **STAMP, **about})

    def add(self, call: Call) -> None:
        """One more line."""
        self._write(call.as_json())

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
