"""What the numbers of a log mean: each line's SEAMCALL, status and registers, in context.

The kernel tells a failed SEAMCALL in a few ways, all of them read here::

    virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000
    virt/tdx: RCX 0x0000000000000000 RDX 0x9100000100000008 R08 0x0000000000000000
    kvm_intel: SEAMCALL TDH_MEM_PAGE_AUG failed: 0xc0000b0000000001, rcx 0x..., rdx 0x...
    tdx: SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122.        (until 6.6)
    tdx: additional output: rcx 0x0, rdx 0x0, r8 0x0, ...
    kvm_intel: kvm [13696]: TD exit 0xe000060400000000, 0 hkid 0x41 hkid pa 0x8200000000000

Elsewhere in a log only a number that is a status, or a metadata field, beyond doubt, is shown; a
line that is nothing but numbers is read as if each were asked for.

Source: Linux arch/x86/virt/vmx/tdx/tdx.c (seamcall_err, seamcall_err_ret), its series of 2022 and
2023 (seamcall()), and arch/x86/kvm/vmx/tdx.c (pr_tdx_error, tdx_handle_exit).
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import RAX_LEAF_MASK
from dpamt.abi.metadata import FIELD_CLASS_SHIFT
from dpamt.abi.registers import REGISTER_NAMES, U64_MASK
from dpamt.abi.status import ERROR_BIT, STATUS_MASK, STATUS_NAMES
from dpamt.abi.status_details import SOFTWARE_ERROR
from dpamt.platform.lines import Line
from dpamt.trace.decode import (
    Meaning,
    decode_exit,
    decode_field,
    decode_leaf,
    decode_status,
    is_field_id,
    meanings,
    named,
)
from dpamt.trace.decode_registers import FailedCall, register_meaning

_SEAMCALL: Final = re.compile(
    r"SEAMCALL[\s:]*[(\[]?(0x[0-9a-f]{1,16}|\d{1,5}|TDH[._a-z0-9]{1,60})[)\]]?"
    r"\s+failed:?\s*(0x[0-9a-f]{1,16})",
    re.IGNORECASE,
)
_OLD_SEAMCALL: Final = re.compile(
    r"SEAMCALL\s+failed:\s*(?:CPU\s+\d+:\s*)?leaf\s+(0x[0-9a-f]{1,16}|\d{1,5}),\s*"
    r"error\s+(0x[0-9a-f]{1,16})",
    re.IGNORECASE,
)
_TD_EXIT: Final = re.compile(
    r"TD exit (0x[0-9a-f]{1,16}), (\d{1,5}) hkid (0x[0-9a-f]{1,8}) hkid pa (0x[0-9a-f]{1,16})",
    re.IGNORECASE,
)
_REGISTER: Final = re.compile(
    r"\b(RCX|RDX|R0?[89]|R1[0-3])\s*[:=]?\s*(0x[0-9a-f]{1,16})\b", re.IGNORECASE
)
_HEX: Final = re.compile(r"(?<![\w.])0x[0-9a-f]{1,16}\b", re.IGNORECASE)
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,16}|\d{1,20}", re.IGNORECASE)
_BETWEEN: Final = re.compile(r"[\s,;]+")

Reader = Callable[[int], list[Meaning]]
"""What a number that stands alone means."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A number of a line: ``name`` is what stands before it (RDX, SEAMCALL), or empty."""

    name: str
    value: int
    meanings: list[Meaning]


@dataclass(frozen=True, slots=True)
class ExplainedLine:
    """A line with numbers that mean something; ``number`` counts from 1."""

    number: int
    text: str
    found: list[Explained]


def decode_log(lines: Iterable[str | Line], alone: Reader = meanings) -> Iterator[ExplainedLine]:
    """The lines of a log that hold a number that means something, with what it means.

    Lines that are only texts are numbered from 1.
    """
    call: FailedCall | None = None
    for index, line in enumerate(lines, 1):
        number, text = (line.number, line.text) if isinstance(line, Line) else (index, line)
        text = text.rstrip()
        failed = _SEAMCALL.search(text) or _OLD_SEAMCALL.search(text)
        registers = _registers(text[failed.end() :] if failed else text)
        exited = _TD_EXIT.search(text)
        if failed:
            call = _failed_call(failed)
            found = _of_call(failed, call) + _of_registers(registers, call)
        elif exited:
            call = None
            found = _of_exit(exited)
        elif registers:
            found = _of_registers(registers, call)
        elif numbers := _only_numbers(text):
            call = None
            found = [Explained("", value, alone(value)) for value in numbers]
        else:
            call = None
            found = [Explained("", value, told) for value, told in _beyond_doubt(text)]
        if found:
            yield ExplainedLine(number, text, found)


def _of_exit(exited: re.Match[str]) -> list[Explained]:
    """KVM's line on a TD that it ends: RAX of TDH.VP.ENTER, exit reason, the TD's KeyID."""
    status, reason, keyid, address = (int(exited[at], 10 if at == 2 else 16) for at in range(1, 5))
    times = address // keyid if keyid else 0
    shift = times.bit_length() - 1
    if times and address == keyid << shift:
        where = f"address bits of KeyID {keyid}: KeyIDs begin at bit {shift}"
    else:
        where = "not the KeyID in address bits"
    return [
        Explained("RAX", status, [decode_status(status)]),
        Explained("exit", reason, [decode_exit(reason)]),
        Explained("hkid", keyid, [Meaning("keyid", f"KeyID {keyid} of the TD", {"keyid": keyid})]),
        Explained("hkid pa", address, [Meaning("keyid", where, {"shift": shift})]),
    ]


def _failed_call(failed: re.Match[str]) -> FailedCall:
    leaf = failed[1]
    if leaf[0] in "tT":
        known = named(leaf)
        number = known[1] if known and known[0] == "leaf" else None
    else:
        number = int(leaf, 0) if leaf[1:2] in "xX" else int(leaf)
    return FailedCall(number, int(failed[2], 16))


def _of_call(failed: re.Match[str], call: FailedCall) -> list[Explained]:
    found = []
    if call.rax is not None:
        found.append(Explained("SEAMCALL", call.rax, [decode_leaf(call.rax)]))
    return [*found, Explained("RAX", call.status, [decode_status(call.status)])]


def _registers(text: str) -> dict[str, int]:
    """Register to value, named as the SEAMCALL's operands are (R08 is r8)."""
    found = {}
    for name, value in _REGISTER.findall(text):
        register = name.lower().replace("r0", "r")
        if register in REGISTER_NAMES:
            found[register] = int(value, 16)
    return found


def _of_registers(registers: dict[str, int], call: FailedCall | None) -> list[Explained]:
    """Each register in the context of the call; without one, those that mean something."""
    found = []
    for name, value in registers.items():
        if call is not None:
            told = [register_meaning(call, name, value, registers)]
        else:
            told = meanings(value) if value > RAX_LEAF_MASK else []
        if told:
            found.append(Explained(name.upper(), value, told))
    return found


def _only_numbers(text: str) -> list[int]:
    """The numbers of a line that has nothing else; else none."""
    words = _BETWEEN.split(text.strip())
    if not all(_NUMBER.fullmatch(word) for word in words):
        return []
    values = [int(word, 16 if word[1:2] in ("x", "X") else 10) for word in words]
    return values if max(values) <= U64_MASK else []


def _beyond_doubt(text: str) -> Iterator[tuple[int, list[Meaning]]]:
    """Numbers of free text: an error status that there is, a field id with a class."""
    for number in _HEX.findall(text):
        value = int(number, 16)
        if value & ERROR_BIT and (
            value & STATUS_MASK in STATUS_NAMES or value & SOFTWARE_ERROR == SOFTWARE_ERROR
        ):
            if value != U64_MASK:
                yield value, [decode_status(value)]
        elif value >> FIELD_CLASS_SHIFT and is_field_id(value):
            yield value, [decode_field(value)]
