"""What the VMM does, as the lines of its script (``guest/vmm/vmm.c`` tells what each means)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """The VMM's script, and the names of its phases: phase K ends where it says ``phase K+1``."""

    text: str
    phases: tuple[str, ...]
    tds: tuple[str, ...] = ()
    """Names of the TDs, by number."""
