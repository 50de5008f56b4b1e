"""Bits 31:0 of a status in words."""

from collections.abc import Callable
from typing import Final

from dpamt.abi import status_details as kinds
from dpamt.abi.exits import EXIT_REASON_MASK, EXIT_REASON_NAMES
from dpamt.abi.msrs import msr_text
from dpamt.abi.operands import OPERAND_NAMES
from dpamt.abi.pages import LEVEL_NAMES
from dpamt.abi.states import OP_STATE_NAMES, VCPU_STATE_NAMES
from dpamt.abi.status import DETAILS_MASK, STATUS_MASK, TDX_OPERAND_INVALID
from dpamt.abi.status_details import DETAILS, OPERAND, SOFTWARE_ERROR
from dpamt.abi.td_metadata import VCPU_BY_KEY, VMCS_CLASS


def details_of(status: int) -> str:
    """What bits 31:0 tell, such as ``operand R8``; empty where they tell nothing.

    Operand 0 is RAX or no operand at all: it is shown for TDX_OPERAND_INVALID only.
    """
    details = status & DETAILS_MASK
    if status & SOFTWARE_ERROR == SOFTWARE_ERROR:
        return ""
    kind = DETAILS.get(status & STATUS_MASK, OPERAND)
    if not details and kind == kinds.EXIT_REASON:
        return ""
    if kind != OPERAND:
        return _IN_WORDS[kind](details)
    if not details and status != TDX_OPERAND_INVALID:
        return ""
    return f"operand {OPERAND_NAMES.get(details, f'id {details:#x}, not known')}"


def _exit_reason(details: int) -> str:
    reason = details & EXIT_REASON_MASK
    return f"exit reason {reason} {EXIT_REASON_NAMES.get(reason, '(not known)')}"


def _level(details: int) -> str:
    name = LEVEL_NAMES[details] if details < len(LEVEL_NAMES) else "not known"
    return f"level {details} ({name})"


def _vmcs_field(details: int) -> str:
    known = VCPU_BY_KEY.get((VMCS_CLASS, details))
    return f"VMCS field {details:#x}" + (f" ({known[0].name})" if known else "")


def _byte(details: int, index: int) -> int:
    return details >> 8 * index & 0xFF


_IN_WORDS: Final[dict[str, Callable[[int], str]]] = {
    kinds.OP_STATE: lambda d: f"OP_STATE {d} {OP_STATE_NAMES.get(d, '(not known)')}",
    kinds.VCPU_STATE: lambda d: f"VCPU state {d} {VCPU_STATE_NAMES.get(d, '(not known)')}",
    kinds.PAIR_PAGE: lambda d: f"page {d} of the pair",
    kinds.TDMR: lambda d: f"TDMR {_byte(d, 0)}",
    kinds.TDMR_LEVEL: lambda d: f"TDMR {_byte(d, 0)}, PAMT {_level(_byte(d, 1))}",
    kinds.TDMR_OVERLAP: lambda d: (
        f"TDMR {_byte(d, 0)}, PAMT {_level(_byte(d, 1))}, with TDMR {_byte(d, 2)}"
    ),
    kinds.TDMR_AREA: lambda d: f"TDMR {_byte(d, 0)}, reserved area {_byte(d, 1)}",
    kinds.L2_ENTRY: lambda d: f"VM {d >> 16}, {_level(d & 0xFFFF)}",
    kinds.LEVEL: _level,
    kinds.MSR: msr_text,
    kinds.X2APIC_ID: lambda d: f"x2APIC ID {d}",
    kinds.VMCS_FIELD: _vmcs_field,
    kinds.LIST_INDEX: lambda d: f"list entry {d}",
    kinds.EXIT_REASON: _exit_reason,
}
