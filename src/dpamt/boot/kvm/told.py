"""What the VMM said on the console: which TDs it could not build, what ended their vCPUs."""

import errno
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

EXIT_NAMES: Final = {
    2: "IO",
    3: "HYPERCALL",
    6: "MMIO",
    8: "SHUTDOWN",
    9: "FAIL_ENTRY",
    17: "INTERNAL_ERROR",
    24: "SYSTEM_EVENT",
    39: "MEMORY_FAULT",
    40: "TDX",
}
"""KVM_EXIT_... by number (Linux include/uapi/linux/kvm.h)."""
_ASKED_FOR: Final = (8, 24)
"""Exits by which a guest ends of its own accord: a triple fault, ReportFatalError."""

_LINE: Final = re.compile(r"^dpamt: (?P<rest>.*)$")
_AT: Final = re.compile(r"^at (.+)$")
_ERROR: Final = re.compile(r"^td (\d+) error (-?\d+) hw (0x[0-9a-f]+)$")
_ORDER: Final = re.compile(r"^td (\d+) order (\d+) error (-?\d+)$")
_ENDED: Final = re.compile(
    r"^td (\d+) vcpu (\d+) ended exit (\d+) error (-?\d+) detail (0x[0-9a-f]+)$"
)
_EXITS: Final = re.compile(r"^td (\d+) vcpu (\d+) exit (\d+) times (\d+)$")
_DIED: Final = re.compile(r"^td (\d+) died status (0x[0-9a-f]+)$")
_TOUR: Final = re.compile(r"^td (\d+) tour wanted (-?\d+) got (-?\d+) in:")
_BUGGED: Final = re.compile(r"^td (\d+) bugged$")
_STUCK: Final = re.compile(r"^td (\d+) stuck$")
_WANTED: Final = re.compile(r"^td (\d+) order (\d+) wanted (\d+) got (-?\d+)$")
_SAW: Final = re.compile(r"^td (\d+) vcpu (\d+) saw (\d+)((?: 0x[0-9a-f]+)*)$")
_END: Final = re.compile(r"^end passed (\d+) failed (\d+)$")
_NOT_LOADED: Final = "not loaded:"


@dataclass(slots=True)
class VmmTold:
    """``troubles`` are sentences about what did not go as the script says."""

    troubles: list[str] = field(default_factory=list)
    exits: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(TD, exit reason) to how often KVM_RUN came back with it."""
    loaded: bool = False
    ended: bool = False
    passed_over: int = 0
    """Commands for TDs that were not there."""
    errors: list[str] = field(default_factory=list)
    """The errnos of the VMM's ioctls that failed, by name."""
    ended_by: list[int] = field(default_factory=list)
    """Exits that ended vCPUs, of those that no guest asked for."""
    saw: dict[tuple[int, int], list[tuple[int, ...]]] = field(default_factory=dict)
    """By (TD, vCPU): its exits in their order, each by its reason and what it carried, of TDs that
    tell them."""
    bugged: bool = False
    """Whether KVM has given up a VM whose VMM asked it."""
    stuck: bool = False
    """Whether a call into KVM came back by a signal only."""


def errno_name(number: int) -> str:
    """``EIO`` for 5."""
    return errno.errorcode.get(number, f"errno {number}")


def exit_name(number: int) -> str:
    """``KVM_EXIT_MMIO`` for 6."""
    return f"KVM_EXIT_{EXIT_NAMES.get(number, number)}"


def read_vmm(lines: list[str], tds: tuple[str, ...]) -> VmmTold:
    """The VMM's lines among all of the console's; ``tds`` are the names of the script's TDs."""
    told = VmmTold()
    at = ""
    missing, toured = False, ""
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        rest = match["rest"]
        if rest == "kvm loaded":
            told.loaded = True
        elif rest == _NOT_LOADED:
            missing = True
        elif missing and rest.startswith("error "):
            told.troubles.append(f"a module of KVM's was not loaded: {_errno_of(rest)}")
            missing = False
        elif found := _AT.match(rest):
            at = found[1]
            if toured:
                told.troubles.append(f"{toured} {at}")
            toured = ""
        elif found := _TOUR.match(rest):
            wanted, got = (errno_name(int(found[n])) if int(found[n]) else "0" for n in (2, 3))
            toured = f"{_name(tds, found[1])}: {got}, where {wanted} is due, for"
        elif found := _ERROR.match(rest):
            told.errors.append(errno_name(int(found[2])))
            hardware = f", TDX status {found[3]}" if int(found[3], 16) else ""
            told.troubles.append(
                f"{_name(tds, found[1])} was not built: {at}: {errno_name(int(found[2]))}{hardware}"
            )
        elif found := _SAW.match(rest):
            carried = [int(one, 16) for one in found[4].split()]
            exits = told.saw.setdefault((int(found[1]), int(found[2])), [])
            exits.append((int(found[3]), *carried))
        elif found := _WANTED.match(rest):
            answer = errno_name(int(found[4])) if int(found[4]) else "no error"
            told.troubles.append(
                f"{_name(tds, found[1])}: the VMM's order {found[2]}: {answer}, where "
                f"{errno_name(int(found[3]))} is due"
            )
        elif found := _BUGGED.match(rest):
            told.bugged = True
        elif found := _STUCK.match(rest):
            told.stuck = True
            told.troubles.append(f"{_name(tds, found[1])}: KVM did not return until a signal came")
        elif found := _ORDER.match(rest):
            told.errors.append(errno_name(int(found[3])))
            told.troubles.append(
                f"{_name(tds, found[1])}: the VMM's order {found[2]} failed: "
                f"{errno_name(int(found[3]))}"
            )
        elif found := _ENDED.match(rest):
            _see_end(told, tds, found)
        elif found := _EXITS.match(rest):
            told.exits[int(found[1]), int(found[3])] += int(found[4])
        elif found := _DIED.match(rest):
            told.troubles.append(f"{_name(tds, found[1])}: its VMM died, wait status {found[2]}")
        elif found := _END.match(rest):
            told.ended, told.passed_over = True, int(found[1])
    if not told.ended and not told.troubles:
        told.troubles.append("the VMM did not come to its end")
    return told


def _see_end(told: VmmTold, tds: tuple[str, ...], found: re.Match[str]) -> None:
    reason, error = int(found[3]), int(found[4])
    who = f"{_name(tds, found[1])}, vCPU {found[2]}"
    if error:
        told.errors.append(errno_name(error))
        told.troubles.append(f"{who}: KVM_RUN failed: {errno_name(error)}")
    elif reason not in _ASKED_FOR:
        told.ended_by.append(reason)
        told.troubles.append(f"{who}: KVM_RUN ended by {exit_name(reason)}, {found[5]}")


def _name(tds: tuple[str, ...], number: str) -> str:
    return tds[int(number)] if int(number) < len(tds) else f"TD {number}"


def _errno_of(rest: str) -> str:
    return errno_name(int(rest.removeprefix("error ")))
