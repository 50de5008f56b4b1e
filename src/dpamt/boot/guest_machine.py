"""The machine that a guest is, as its own log tells: memory blocks, KeyIDs, and CMRs derived."""

from dataclasses import replace
from time import monotonic, sleep
from typing import Final

from dpamt.boot.console import Console
from dpamt.errors import DpamtError, Finding
from dpamt.platform.machine import Machine, Topology
from dpamt.platform.read_machine import machine_from_text

GUEST_PHYSICAL_BITS: Final = 40
"""What QEMU's TCG says in CPUID (TCG_PHYS_ADDR_BITS): KeyIDs begin above, as on a machine whose
firmware has taken their bits away."""
_MEMORY_MAP: Final = b"e820: "
_QUIET: Final = 0.05
"""Seconds without a word after which a console has said what it had to say."""
_PATIENCE: Final = 5.0


def machine_of(console: Console, cpus: int) -> Machine:
    """The guest as its own log describes it; raises Finding when that has no memory map."""
    deadline = monotonic() + _PATIENCE
    while monotonic() < deadline:
        # What was printed before the SEAMCALL is on its way; when nothing more comes, it is here.
        if console.says(_MEMORY_MAP) and monotonic() - console.last > _QUIET:
            break
        sleep(_QUIET / 10)
    text = console.text()
    # The last line may still be on its way.
    whole = text[: text.rfind("\n") + 1]
    try:
        machine = machine_from_text(whole, "the guest's log")
    except DpamtError as error:
        raise Finding(
            f"the guest calls the module before it says what memory it has: {error}"
        ) from error
    return replace(
        machine,
        topology=Topology(1, cpus),
        max_pa_bits=GUEST_PHYSICAL_BITS + machine.keyid_bits,
    )
