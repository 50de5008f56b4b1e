"""What a register means after a SEAMCALL that failed: its operand still, a zero, or an S-EPT entry.

Leaves that work on a TD's memory clear RCX and RDX first, and show an S-EPT entry there with some
statuses; a call that the dispatcher refuses leaves the operands as they were.
"""

from dataclasses import dataclass
from typing import Final

from dpamt.abi import leaf_table as formats
from dpamt.abi.leaf_table import LEAF_OPERANDS, LEAF_OUTPUTS
from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK, TDH_SYS_INIT, TDH_SYS_LP_INIT
from dpamt.abi.operands import OPERAND_RCX
from dpamt.abi.pages import HANDLE_FLAG, INFO_ADDRESS_MASK, LEVEL_NAMES, NULL_PA, PAGE_TYPE_NAMES
from dpamt.abi.sept import (
    DETAILS_LEVEL_MASK,
    DETAILS_STATE_SHIFT,
    DETAILS_VM_SHIFT,
    ENTRY_LEAF,
    ENTRY_RWX,
    ENTRY_SVE,
)
from dpamt.abi.states import SEPT_STATE_NAMES
from dpamt.abi.status import STATUS_MASK, STATUS_NAMES, TDX_OPERAND_BUSY
from dpamt.abi.status_details import SHOWS_SEPT_ENTRY
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT, SYS_CONFIG_HKID_MASK
from dpamt.trace.decode import Meaning, decode_field, decode_page_info, page_info_faults

_TYPE_MASK: Final = 0xF
_HALF_MASK: Final = 0xFFFF_FFFF
_PAGE_FORMATS: Final = (
    formats.PAGE,
    formats.HOST_PAGE,
    formats.TDR,
    formats.TDVPR,
    formats.GPA,
)


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A SEAMCALL that failed: RAX in (None when the log has no leaf), and RAX out."""

    rax: int | None
    status: int

    @property
    def operands(self) -> dict[str, str]:
        """Register to format; empty for a leaf that is not known."""
        return {} if self.rax is None else LEAF_OPERANDS.get(self.rax & RAX_LEAF_MASK, {})

    @property
    def outputs(self) -> dict[str, str]:
        """Register to what it holds after the call; empty where the operands are still there."""
        if self.rax is None:
            return {}
        leaf = self.rax & RAX_LEAF_MASK
        code = self.status & STATUS_MASK
        if "CPUID" in STATUS_NAMES.get(code, "") and leaf in (TDH_SYS_INIT, TDH_SYS_LP_INIT):
            return formats.CPUID_OUTPUTS
        return LEAF_OUTPUTS.get(leaf, {})

    @property
    def leaf_name(self) -> str:
        """The leaf's name, or its number."""
        if self.rax is None:
            return "the leaf"
        leaf = self.rax & RAX_LEAF_MASK
        return LEAF_NAMES.get(leaf, f"leaf {leaf}")


def register_meaning(call: FailedCall, name: str, value: int, registers: dict[str, int]) -> Meaning:
    """What ``name`` holds after the call; ``registers`` are all that came with it."""
    outputs = call.outputs
    if name in outputs:
        return _output(outputs[name], value)
    form = call.operands.get(name, "")
    if name in ("rcx", "rdx") and _shows_entry(call, registers):
        return _entry(value) if name == "rcx" else _entry_details(value)
    if not form:
        used = f"not an operand of {call.leaf_name}" if call.operands else "operand not known"
        return Meaning("register", used if value else "0")
    if not value and formats.GPA_LEVEL in call.operands.values() and name in ("rcx", "rdx"):
        return Meaning("register", f"cleared; {form} went in")
    return _operand(form, value)


def _output(form: str, value: int) -> Meaning:
    """A register that the leaf writes."""
    if form == formats.PAGE_TYPE:
        kind = value & _TYPE_MASK
        name = PAGE_TYPE_NAMES.get(kind, "not known")
        return Meaning("register", f"page type {kind} {name}", {"page_type": kind})
    if form == formats.LEVEL:
        size = LEVEL_NAMES[value] if value < len(LEVEL_NAMES) else "none"
        return Meaning("register", f"level {value} ({size})", {"level": value})
    if form == formats.OWNER:
        return Meaning("register", f"owner: TDR {value:#x}" if value else "owner: none, or cleared")
    if form == formats.CPUID_LEAF:
        leaf, subleaf = value & _HALF_MASK, value >> 32
        text = f"CPUID leaf {leaf:#x}" + ("" if subleaf == _HALF_MASK else f", subleaf {subleaf}")
        return Meaning("register", text, {"cpuid_leaf": leaf, "cpuid_subleaf": subleaf})
    if not value:
        return Meaning("register", "0")
    return Meaning("register", f"{form}: {value:#x}")


def _shows_entry(call: FailedCall, registers: dict[str, int]) -> bool:
    """Whether RCX and RDX hold an S-EPT entry."""
    code = call.status & STATUS_MASK
    if code in SHOWS_SEPT_ENTRY:
        return True
    if call.status != TDX_OPERAND_BUSY | OPERAND_RCX:
        return False
    entry = registers.get("rcx", 0)
    return call.operands.get("rcx") == formats.GPA_LEVEL and bool(page_info_faults(entry))


def _entry(value: int) -> Meaning:
    if not value & ~ENTRY_SVE:
        what = "free" if value else "not present"
    else:
        kind = "maps" if value & ENTRY_LEAF else "points to an S-EPT page"
        page = f" {value & INFO_ADDRESS_MASK:#x}" if value & ENTRY_LEAF else ""
        what = f"{kind}{page}, {'accessible' if value & ENTRY_RWX else 'not accessible'}"
    return Meaning("sept-entry", f"S-EPT entry met: {what}", {"entry": value})


def _entry_details(value: int) -> Meaning:
    level = value & DETAILS_LEVEL_MASK
    state = value >> DETAILS_STATE_SHIFT & 0xFF
    vm = value >> DETAILS_VM_SHIFT & 3
    size = LEVEL_NAMES[level] if level < len(LEVEL_NAMES) else "none"
    text = f"S-EPT entry met: level {level} ({size}), {SEPT_STATE_NAMES.get(state, hex(state))}"
    facts = {"level": level, "state": state, "vm": vm}
    return Meaning("sept-entry", text + (f", L2 VM {vm}" if vm else ""), facts)


def _operand(form: str, value: int) -> Meaning:
    """An operand by its format."""
    if form == formats.FIELD:
        return decode_field(value)
    if form in (formats.GPA_LEVEL, formats.HPA_LEVEL):
        info = decode_page_info(value)
        text = info.text.replace("page info: address", form.partition(" ")[0])
        return Meaning(info.kind, text, info.facts)
    if value == NULL_PA:
        return Meaning("register", f"{form}: none (NULL_PA)")
    if form == formats.TDR_FLAG:
        text = f"TDR {value & ~HANDLE_FLAG:#x}, flag {value & HANDLE_FLAG}"
    elif form == formats.KEYID_MODE:
        mode = "Dynamic PAMT" if value & SYS_CONFIG_DYNAMIC_PAMT else "static PAMT"
        text = f"KeyID {value & SYS_CONFIG_HKID_MASK}, {mode}"
    elif form in _PAGE_FORMATS:
        text = f"{form} {value:#x}"
    else:
        text = f"{form} {value}"
    return Meaning("register", text)
