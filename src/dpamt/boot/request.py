"""What a guest's CPU asks, and the answer that it gets: the same through every transport."""

from dataclasses import dataclass, field
from typing import Final, Protocol

BREAKPOINT_SITE: Final = 1 << 16
"""The site of every breakpoint; RIP says which."""


@dataclass(frozen=True, slots=True)
class Request:
    """A CPU stands at a site (a SEAMCALL by its number, or a rendezvous) with these registers."""

    cpu: int
    site: int
    registers: dict[str, int]

    @property
    def is_breakpoint(self) -> bool:
        """Whether the CPU stands before an instruction of the kernel's own."""
        return self.site == BREAKPOINT_SITE


@dataclass(frozen=True, slots=True)
class Answer:
    """Registers that change, and whether the carry flag is set (VMfailInvalid)."""

    registers: dict[str, int] = field(default_factory=dict)
    carry: bool = False


class Transport(Protocol):
    """The way between a guest and its module."""

    @property
    def closed(self) -> bool:
        """The guest is gone."""

    def wait(self, seconds: float) -> list[Request]:
        """The requests that came, after waiting for one at most so long."""

    def answer(self, request: Request, answer: Answer) -> None:
        """Let the CPU of a request go on."""
