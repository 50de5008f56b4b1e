"""What a number of the SEAMCALL wall means, in one line: from the tables of abi/ and nothing else.

A bare number may be several things: :func:`meanings` gives them all, the likeliest first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dpamt.abi.exits import EXIT_REASON_MASK, EXIT_REASON_NAMES
from dpamt.abi.leaves import (
    LEAF_NAMES,
    RAX_LEAF_MASK,
    RAX_RESERVED_MASK,
    RAX_VERSION_MASK,
    RAX_VERSION_SHIFT,
)
from dpamt.abi.metadata import (
    FIELD_ARRAYS,
    FIELD_CODE_MASK,
    FIELD_LAST_MASK,
    FIELD_RESERVED_MASK,
    FIELDS,
    NO_FIELD,
    lookup_key,
)
from dpamt.abi.operands import OPERAND_NAMES
from dpamt.abi.pages import (
    INFO_ADDRESS_MASK,
    INFO_LEVEL_MASK,
    INFO_RESERVED_MASK,
    LEVEL_NAMES,
    LEVEL_SHIFTS,
    NULL_PA,
)
from dpamt.abi.status import (
    CLASS_NAMES,
    DETAILS_MASK,
    ERROR_BIT,
    STATUS_MASK,
    STATUS_NAMES,
    TDX_SUCCESS,
)
from dpamt.abi.status_details import SOFTWARE_ERROR, SOFTWARE_ERRORS
from dpamt.trace.decode_details import details_of

_NON_RECOVERABLE: Final = 1 << 62
_FATAL: Final = 1 << 61
_HOST_HINT: Final = 1 << 60
_HALF: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Meaning:
    """One thing that a number may be: ``kind`` is the word of ``--as``, ``facts`` its parts."""

    kind: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def decode_status(value: int) -> Meaning:
    """A 64-bit status: name, class, what bits 63:60 say, and bits 31:0."""
    code = value & STATUS_MASK
    details = details_of(value)
    facts: dict[str, Any] = {
        "name": STATUS_NAMES.get(code),
        "class": code >> 40 & 0xFF,
        "error": value & ERROR_BIT != 0,
        "non_recoverable": value & _NON_RECOVERABLE != 0,
        "fatal": value & _FATAL != 0,
        "host_recoverability_hint": value & _HOST_HINT != 0,
        "details": value & DETAILS_MASK,
        "details_text": details,
    }
    if value & SOFTWARE_ERROR == SOFTWARE_ERROR:
        what = SOFTWARE_ERRORS.get(value, f"bits 39:0 {value & 0xFF_FFFF_FFFF:#x}")
        return Meaning("status", f"no status of the module: the SEAMCALL failed, {what}", facts)
    name = facts["name"] or f"status {value >> 32:#010x} that the module does not define"
    about = f"class {facts['class']:#04x} {CLASS_NAMES.get(facts['class'], 'not known')}"
    says = "" if code == TDX_SUCCESS else f": {about}; {', '.join(_severity(value))}"
    return Meaning("status", f"{name}{', ' if details else ''}{details}{says}", facts)


def _severity(value: int) -> list[str]:
    if not value & ERROR_BIT:
        words = ["not an error"]
    elif value & _NON_RECOVERABLE:
        words = ["error, not recoverable"]
    else:
        words = ["error, the same call may succeed later"]
    if value & _FATAL:
        words.append("fatal")
    if value & _HOST_HINT:
        words.append("the host can recover")
    return words


def decode_leaf(value: int) -> Meaning:
    """RAX of a SEAMCALL: leaf number and version."""
    number = value & RAX_LEAF_MASK
    version = value >> RAX_VERSION_SHIFT & RAX_VERSION_MASK
    name = LEAF_NAMES.get(number)
    text = f"leaf {number}, {name}" if name else f"leaf {number}, not known"
    if version:
        text += f", version {version}"
    if value & RAX_RESERVED_MASK:
        text += ", reserved bits of RAX set: refused"
    return Meaning("leaf", text, {"leaf": number, "name": name, "version": version})


def decode_operand(value: int) -> Meaning:
    """An operand id, as in bits 31:0 of a status."""
    name = OPERAND_NAMES.get(value)
    text = f"operand id {value}, {name}" if name else f"operand id {value}, not known"
    return Meaning("operand", text, {"operand": value, "name": name})


def decode_page_info(value: int) -> Meaning:
    """Page info (GPA) or page size info (HPA): level 2:0, address 51:12."""
    if value == NULL_PA:
        return Meaning("page-info", "NULL_PA, no page", {"null": True})
    level = value & INFO_LEVEL_MASK
    address = value & INFO_ADDRESS_MASK
    facts = {"level": level, "address": address, "faults": page_info_faults(value)}
    size = LEVEL_NAMES[level] if level < len(LEVEL_NAMES) else "none"
    text = f"page info: address {address:#x}, level {level} ({size})"
    return Meaning("page-info", ", ".join([text, *page_info_faults(value)]), facts)


def page_info_faults(value: int) -> list[str]:
    """What makes a page info one that every leaf refuses; empty when it is well formed."""
    level = value & INFO_LEVEL_MASK
    faults = []
    if value & INFO_RESERVED_MASK:
        faults.append(f"reserved bits {value & INFO_RESERVED_MASK:#x} set")
    if level >= len(LEVEL_SHIFTS):
        faults.append("no such level")
    elif value & INFO_ADDRESS_MASK & (1 << LEVEL_SHIFTS[level]) - 1:
        faults.append(f"not aligned to {LEVEL_NAMES[level]}")
    return faults


def decode_field(value: int) -> Meaning:
    """A global metadata field id; only class and field code name the field."""
    if value == NO_FIELD:
        return Meaning("field", "no field: the first one is asked for, or there is none after")
    found = field_named(value)
    if found is None:
        kind, code = lookup_key(value)
        text = f"metadata field of class {kind:#x}, code {code:#x}, not known"
        return Meaning("field", text, {"name": None, "class": kind, "code": code})
    name, size = found
    facts = {"name": name, "bytes": size}
    return Meaning("field", f"metadata field {name}, {size} byte{'s'[: size > 1]}", facts)


def field_named(value: int) -> tuple[str, int] | None:
    """(name, bytes) of the global metadata field that a look-up of ``value`` finds."""
    kind, code = lookup_key(value)
    for name, known in FIELDS.items():
        first_kind, first = lookup_key(known.id)
        count = FIELD_ARRAYS.get(known, 1)
        if kind == first_kind and first <= code < first + count:
            return (name if count == 1 else f"{name}[{code - first}]"), known.size
    return None


def decode_exit(value: int) -> Meaning:
    """A VM exit reason, as the low half of what TDH.VP.ENTER returns."""
    reason = value & EXIT_REASON_MASK
    name = EXIT_REASON_NAMES.get(reason)
    text = f"exit reason {reason}, {name}" if name else f"exit reason {reason}, not known"
    if value >> 16:
        text += f", flags {value & ~EXIT_REASON_MASK:#x}"
    return Meaning("exit", text, {"reason": reason, "name": name})


DECODERS: Final[dict[str, Callable[[int], Meaning]]] = {
    "status": decode_status,
    "leaf": decode_leaf,
    "operand": decode_operand,
    "page-info": decode_page_info,
    "field": decode_field,
    "exit": decode_exit,
}
"""By the word of ``--as``."""


def meanings(value: int) -> list[Meaning]:
    """Everything that a bare 64-bit number may well be, the likeliest first; may be empty."""
    if value == NULL_PA:
        return [decode_page_info(value), decode_field(value)]
    kinds = []
    known = value >= _HALF and value & STATUS_MASK in STATUS_NAMES
    if known or value == TDX_SUCCESS or value & SOFTWARE_ERROR == SOFTWARE_ERROR:
        kinds.append("status")
    if not value & RAX_RESERVED_MASK and value & RAX_LEAF_MASK in LEAF_NAMES:
        kinds.append("leaf")
    if value in EXIT_REASON_NAMES:
        kinds.append("exit")
    if value in OPERAND_NAMES:
        kinds.append("operand")
    if value >= _HALF and is_field_id(value):
        kinds.append("field")
    if value & INFO_ADDRESS_MASK and not page_info_faults(value):
        kinds.append("page-info")
    if not kinds and value & ERROR_BIT:
        kinds.append("status")
    return [DECODERS[kind](value) for kind in kinds]


def is_field_id(value: int) -> bool:
    """Whether the number is written like a field id, and of a field that there is.

    Of class 0, whose ids look like addresses, only exactly as the tables have them.
    """
    found = field_named(value)
    if found is None or value & (FIELD_RESERVED_MASK | FIELD_LAST_MASK):
        return False
    kind, _ = lookup_key(value)
    first = FIELDS[found[0].partition("[")[0]]
    return kind != 0 or value & ~FIELD_CODE_MASK == first.id & ~FIELD_CODE_MASK


NAMES: Final[dict[str, tuple[str, int]]] = {
    **{name: ("exit", value) for value, name in EXIT_REASON_NAMES.items()},
    **{f"EXIT_REASON_{name}": ("exit", value) for value, name in EXIT_REASON_NAMES.items()},
    **{name: ("operand", value) for value, name in OPERAND_NAMES.items()},
    **{name: ("field", known.id) for name, known in FIELDS.items()},
    **{name.replace(".", "_"): ("leaf", value) for value, name in LEAF_NAMES.items()},
    **{name: ("status", value) for value, name in STATUS_NAMES.items()},
}
"""Name, in capitals and with underscores, to (kind, number)."""


def named(text: str) -> tuple[str, int] | None:
    """(kind, number) of a name: of a status, leaf, field, operand or exit reason.

    ``TDX_`` of a status and ``TDH.`` of a leaf may be left out; a name with dots is a leaf's.
    """
    name = text.upper().replace(".", "_")
    for prefix in ("", "TDH_", "TDX_") if "." in text else ("", "TDX_", "TDH_"):
        found = NAMES.get(prefix + name)
        if found is not None:
            return found
    return None
