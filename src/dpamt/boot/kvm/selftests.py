"""Checks of KVM, each a file: TDs, steps, what is there after them, which exits have to come.

A file of ``checks/`` has TDs, steps in their order, and the exits that vCPUs have to see::

    [[td]]      name, vcpus (1), pages, image (measured pages of them), tells (true: its exits)
    [[step]]    build = TD | close = TD | kill = TD | go = true | start = true | pause = MS
                td = TD, vcpu (0), words = [WORD...]       for a guest; go or start begins them
                td = TD, order = ORDER                     what the VMM does itself
                stock = { tds, guest_pages, ... }          what there is then (:class:`PhaseStock`)
    [[exits]]   td, vcpu (0), saw = [EXIT...]              all of a vCPU's, but those for its words

    WORD   accept|touch|touch-shared|share|unshare GFN PAGES, halt, fatal N, triple-fault,
           churn GFN PAGES TIMES,
           call LEAF [r12=N ... r15=N] [gives=STATUS] [r11=N] [r12-is=N]    N may be shared+N
    ORDER  punch|private|shared GFN PAGES, slot-make GFN, slot-delete, plain-slot GFN PAGES,
           interrupt VCPU VECTOR, prefault GFN PAGES; each with error=ERRNO where one is due

A file that is wrong is an error of ours: they come with the package.
"""

import errno
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from dpamt.boot.kvm import guest
from dpamt.boot.kvm.guest import word
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.told import VmmTold, exit_name
from dpamt.errors import ModelError

NAMES: Final = ("life-and-death", "devices", "calls", "conversions", "slots", "crash")
_TELLS: Final = 2
"""The VMM tells each exit of such a TD."""
_MEMORY: Final = {
    "accept": guest.ACCEPT,
    "touch": guest.TOUCH,
    "touch-shared": guest.TOUCH_SHARED,
    "share": guest.SHARE,
    "unshare": guest.UNSHARE,
}
_STATUSES: Final = {
    "INVALID_OPERAND": (0, 1),
    "RETRY": (1, 0),
    "ALIGN_ERROR": (2, 1),
    "SUBFUNC_UNSUPPORTED": (3, 1),
}
"""TDVMCALL_STATUS_...: low bits, and bit 63 (Linux asm/shared/tdx.h)."""
_SHARED: Final = "shared+"
_TOP_OF_OPERAND: Final = 1 << 35
"""In a REGISTER word: the SHARED bit of an address."""
_ORDERS: Final = {
    "prefault": 1,
    "punch": 2,
    "private": 3,
    "shared": 3,
    "slot-delete": 4,
    "slot-make": 5,
    "interrupt": 7,
    "plain-slot": 10,
}
"""``enum order`` in ``guest/vmm/vmm.h``."""
_PRIVATE: Final = 8
"""KVM_MEMORY_EXIT_FLAG_PRIVATE."""
_ENCRYPTED: Final = 16
"""KVM_MAP_GPA_RANGE_ENCRYPTED."""


@dataclass(frozen=True, slots=True)
class Check:
    """One file: what has to be there at the end of its phases, and which exits have to come."""

    name: str
    title: str
    stocks: Mapping[int, Mapping[str, int]]
    """By index of the phase."""
    exits: Mapping[tuple[int, int], list[str]]
    """By (TD, vCPU)."""


@dataclass(frozen=True, slots=True)
class Checks:
    """All of a boot's, as one script."""

    script: Script
    checks: tuple[Check, ...]

    def wrong(self, told: VmmTold, phases: list[PhaseStock]) -> dict[str, list[str]]:
        """By check: sentences about what is wrong."""
        return {one.name: list(_wrong(one, self.script.tds, told, phases)) for one in self.checks}


def load_checks(names: tuple[str, ...] = NAMES) -> Checks:
    """The checks of these names, one after the other in one script."""
    lines, phases, tds = ["phase 1"], ["boot"], list[str]()
    checks = []
    for name in names:
        text = (files("dpamt.boot.kvm") / "checks" / f"{name}.toml").read_text()
        try:
            checks.append(_Reader(name, tomllib.loads(text), lines, phases, tds).check())
        except (KeyError, ValueError, AttributeError) as error:
            raise ModelError(f"checks/{name}.toml: {error!r}") from error
    return Checks(Script("\n".join(lines) + "\n", tuple(phases), tuple(tds)), tuple(checks))


class _Reader:
    def __init__(
        self, name: str, read: dict[str, Any], lines: list[str], phases: list[str], tds: list[str]
    ) -> None:
        self._name = name
        self._read = read
        self._lines = lines
        self._phases = phases
        self._numbers: dict[str, int] = {}
        for one in read["td"]:
            number = self._numbers[one["name"]] = len(tds)
            tds.append(f"{name}: {one['name']}")
            tells = _TELLS if one.get("tells", True) else 0
            words = number, one.get("vcpus", 1), one["pages"], one["image"], tells
            lines.append("td " + " ".join(map(str, words)))

    def check(self) -> Check:
        stocks = {}
        for step in self._read["step"]:
            if "stock" in step:
                self._lines.append(f"phase {len(self._phases) + 1}")
                stocks[len(self._phases)] = step["stock"]
                self._phases.append(f"{self._name} {len(stocks)}")
            else:
                self._lines += self._step(step)
        exits = {
            (self._numbers[one["td"]], one.get("vcpu", 0)): one["saw"]
            for one in self._read.get("exits", ())
        }
        return Check(self._name, self._read["title"], stocks, exits)

    def _step(self, step: dict[str, Any]) -> list[str]:
        for name in ("build", "close", "kill"):
            if name in step:
                return [f"{name} {self._numbers[step[name]]}"]
        for name in ("go", "start"):
            if name in step:
                return [name]
        if "pause" in step:
            return [f"pause {step['pause']}"]
        td = self._numbers[step["td"]]
        if "order" in step:
            return [f"order {td} {_order(step['order'])}"]
        words = [number for text in step["words"] for number in _words(text)]
        return [f"words {td} {step.get('vcpu', 0)} {' '.join(map(str, words))}"]


def _order(text: str) -> str:
    name, *rest = text.split()
    due = 0
    if rest and rest[-1].startswith("error="):
        due = getattr(errno, rest.pop().removeprefix("error="))
    numbers = [int(one, 0) for one in rest]
    if name == "prefault":
        numbers.insert(0, 0)  # the vCPU
    numbers += [0] * (3 - len(numbers))
    if name == "private":
        numbers[2] = 1
    return " ".join(map(str, (_ORDERS[name], *numbers, due)))


def _words(text: str) -> list[int]:
    name, *rest = text.split()
    if name in _MEMORY:
        gfn, pages = (int(one, 0) for one in rest)
        return [word(_MEMORY[name], gfn, pages)]
    if name == "churn":
        gfn, pages, times = (int(one, 0) for one in rest)
        return [word(guest.SEED, times), word(guest.CHURN, gfn, pages)]
    if name == "halt":
        return [word(guest.HALT)]
    if name == "triple-fault":
        return [word(guest.TRIPLE_FAULT)]
    if name == "fatal":
        return [word(guest.FATAL, int(rest[0], 0))]
    if name != "call":
        raise ValueError(text)
    found = []
    for key, _, value in (one.partition("=") for one in rest[1:]):
        if key == "gives":
            low, error = _STATUSES[value]
            found.append(word(guest.EXPECT, low, error))
        elif key in ("r11", "r12-is"):
            found.append(word(guest.RETURNS, int(value, 0), key != "r11"))
        else:
            plain = value.removeprefix(_SHARED)
            number = int(plain, 0) | (_TOP_OF_OPERAND if plain != value else 0)
            found.append(word(guest.REGISTER, number, int(key.removeprefix("r"))))
    return [*found, word(guest.CALL, int(rest[0], 0))]


def _wrong(
    check: Check, tds: tuple[str, ...], told: VmmTold, phases: list[PhaseStock]
) -> Iterator[str]:
    for index, due in check.stocks.items():
        if index >= len(phases):
            yield f"{check.name}: the run did not come to its end"
            return
        for what, count in due.items():
            if (there := getattr(phases[index], what)) != count:
                yield (
                    f"{phases[index].name}: {there} {what.replace('_', ' ')}, where {count} are due"
                )
    for (td, vcpu), wanted in check.exits.items():
        saw = [_sentence(one) for one in told.saw.get((td, vcpu), [])]
        if saw != wanted:
            pairs = zip(saw, wanted, strict=False)
            alike = min(len(saw), len(wanted))
            at = next((i for i, (one, due) in enumerate(pairs) if one != due), alike)
            got = saw[at] if at < len(saw) else "no exit"
            want = wanted[at] if at < len(wanted) else "no exit"
            yield f"{tds[td]}, vCPU {vcpu}: exit {at + 1}: {got}, where {want} is due"


def _sentence(saw: tuple[int, ...]) -> str:
    kind, *rest = saw
    name = exit_name(kind).removeprefix("KVM_EXIT_")
    if name in ("IO", "MMIO"):
        is_write, where, size, value = rest
        ways = ("in", "out") if name == "IO" else ("read", "write")
        carried = f" value {value:#x}" if is_write else ""
        return f"{name} {ways[is_write]} {where:#x} size {size}{carried}"
    if name == "HYPERCALL":
        gpa, pages, attributes = rest
        return f"MAP_GPA {gpa:#x} pages {pages} {_side(attributes & _ENCRYPTED)}"
    if name == "SYSTEM_EVENT":
        return f"SYSTEM_EVENT {rest[0]} {rest[2]:#x}"
    if name == "MEMORY_FAULT":
        return f"MEMORY_FAULT {rest[1]:#x} {_side(rest[0] & _PRIVATE)}"
    return name


def _side(private: int) -> str:
    return "private" if private else "shared"
