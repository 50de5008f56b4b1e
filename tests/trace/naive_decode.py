"""A second decoder: strings of binary digits cut by the recorded layouts, one template a sentence.

It shares no code with ``dpamt.trace``: the module's numbers are those of the recorded tables, the
names that these lack (classes, exit reasons, MSRs, operand formats) are read from ``abi``.
"""

import json
from pathlib import Path
from typing import Any

from dpamt.abi import leaf_table as formats
from dpamt.abi.exits import EXIT_REASON_NAMES
from dpamt.abi.metadata import FIELD_ARRAYS, FIELDS
from dpamt.abi.msrs import msr_text
from dpamt.abi.status import CLASS_NAMES
from dpamt.abi.status_details import DETAILS, SHOWS_SEPT_ENTRY
from dpamt.abi.td_metadata import VCPU_FIELDS

DATA = Path(__file__).parent.parent / "data"
TABLES: dict[str, Any] = json.loads((DATA / "tdx-module-tables.json").read_text())

LEAF_NAME: dict[int, str] = {
    **{number: name for name, number in TABLES["leaves"].items()},
    69: "TDH.SYS.DISABLE",  # of Linux 7.3.4; no open release has it
}
OPERAND_NAME: dict[int, str] = {number: name for name, number in TABLES["operand_ids"].items()}
OP_STATE_NAME: dict[int, str] = {number: name for name, number in TABLES["op_states"].items()}
SEPT_STATE_NAME: dict[int, str] = {number: name for name, number in TABLES["sept_states"].items()}
STATUS_NAME: dict[str, str] = {
    f"0x{int(text, 16):016x}": name for name, text in TABLES["status"].items()
}
PAGE_TYPE_NAME: dict[int, str] = {
    n: name.replace("PT_", "", 1) for name, n in TABLES["page_types"].items()
}
SIZES = {0: "4K", 1: "2M", 2: "1G", 3: "PML4E", 4: "PML5E"}
VCPU_STATES = {0: "UNINITIALIZED", 2: "READY"}


def bits(value: int, high: int, low: int) -> int:
    """Bits high:low of a 64-bit number."""
    digits = format(value, "064b")
    return int(digits[63 - high : 64 - low], 2)


def details(status: int) -> str:
    """Bits 31:0 in words."""
    text = format(status, "016x")
    code, low = int(text[:8] + "0" * 8, 16), text[8:]
    number = int(low, 16)
    byte = [int(low[at : at + 2], 16) for at in (6, 4, 2, 0)]
    kind = DETAILS.get(code, "operand")
    if kind == "operand":
        if number == 0 and STATUS_NAME.get("0x" + text) != "TDX_OPERAND_INVALID":
            return ""
        return "operand " + OPERAND_NAME.get(number, f"id 0x{number:x}, not known")
    if kind == "exit_reason":
        reason = int(low[4:], 16)
        name = EXIT_REASON_NAMES.get(reason, "(not known)")
        return f"exit reason {reason} {name}" if number else ""
    area = f"TDMR {byte[0]}"
    pamt = f"{area}, PAMT level {byte[1]} ({SIZES.get(byte[1], 'not known')})"
    vm, level = int(low[:4], 16), int(low[4:], 16)
    return {
        "op_state": f"OP_STATE {number} {OP_STATE_NAME.get(number, '(not known)')}",
        "vcpu_state": f"VCPU state {number} {VCPU_STATES.get(number, '(not known)')}",
        "pair_page": f"page {number} of the pair",
        "tdmr": area,
        "tdmr_level": pamt,
        "tdmr_overlap": f"{pamt}, with TDMR {byte[2]}",
        "tdmr_area": f"{area}, reserved area {byte[1]}",
        "l2_entry": f"VM {vm}, level {level} ({SIZES.get(level, 'not known')})",
        "level": f"level {number} ({SIZES.get(number, 'not known')})",
        "msr": msr_text(number),
        "x2apic_id": f"x2APIC ID {number}",
        "vmcs_field": _vmcs_field(number),
        "list_index": f"list entry {number}",
    }[kind]


def _vmcs_field(number: int) -> str:
    names = [
        field.name
        for field in VCPU_FIELDS
        if bits(field.id, 61, 56) == 0 and bits(field.id, 23, 0) == number
    ]
    return f"VMCS field 0x{number:x}" + (f" ({names[0]})" if names else "")


def status(value: int) -> tuple[str, dict[str, Any]]:
    """Text and facts of a status."""
    text = format(value, "016x")
    flags = format(value, "064b")[:4]
    name = STATUS_NAME.get("0x" + text[:8] + "0" * 8)
    kind = bits(value, *reversed(TABLES["status_layout"]["class"]))
    software = flags[0] == "1" and kind == 0xFF
    words = "" if software else details(value)
    facts = {
        "name": name,
        "class": kind,
        "error": flags[0] == "1",
        "non_recoverable": flags[1] == "1",
        "fatal": flags[2] == "1",
        "host_recoverability_hint": flags[3] == "1",
        "details": int(text[8:], 16),
        "details_text": words,
    }
    if software:
        known = {
            0x8000FF00FFFF0000: "VMFAILINVALID: no TDX module is loaded, or it has shut down",
            0x8000FF000000000D: "#GP: TDX is not enabled by the BIOS",
            0x8000FF0000000006: "#UD: the CPU is not in VMX operation",
        }
        what = known.get(value, f"bits 39:0 0x{int(text[6:], 16):x}")
        return f"no status of the module: the SEAMCALL failed, {what}", facts
    said = name or f"status 0x{text[:8]} that the module does not define"
    said += f", {words}" if words else ""
    if text[:8] == "0" * 8:
        return said, facts
    severity = {"0": "not an error", "1": "error, the same call may succeed later"}[flags[0]]
    if flags[:2] == "11":
        severity = "error, not recoverable"
    severity += ", fatal" if flags[2] == "1" else ""
    severity += ", the host can recover" if flags[3] == "1" else ""
    about = f"class 0x{kind:02x} {CLASS_NAMES.get(kind, 'not known')}"
    return f"{said}: {about}; {severity}", facts


def leaf(value: int) -> tuple[str, dict[str, Any]]:
    number, version = bits(value, 15, 0), bits(value, 23, 16)
    name = LEAF_NAME.get(number)
    text = f"leaf {number}, {name or 'not known'}"
    text += f", version {version}" if version else ""
    text += ", reserved bits of RAX set: refused" if bits(value, 63, 24) else ""
    return text, {"leaf": number, "name": name, "version": version}


def operand(value: int) -> tuple[str, dict[str, Any]]:
    name = OPERAND_NAME.get(value)
    return f"operand id {value}, {name or 'not known'}", {"operand": value, "name": name}


def exit_reason(value: int) -> tuple[str, dict[str, Any]]:
    reason = bits(value, 15, 0)
    name = EXIT_REASON_NAMES.get(reason)
    flags = f", flags 0x{value - reason:x}" if value != reason else ""
    return f"exit reason {reason}, {name or 'not known'}{flags}", {"reason": reason, "name": name}


def page_info(value: int) -> tuple[str, dict[str, Any]]:
    if value == (1 << 64) - 1:
        return "NULL_PA, no page", {"null": True}
    level, address = bits(value, 2, 0), bits(value, 51, 12) * 4096
    wrong = []
    if bits(value, 63, 52) or bits(value, 11, 3):
        high, low = bits(value, 63, 52), bits(value, 11, 3)
        wrong.append(f"reserved bits 0x{high * 2**52 + low * 8:x} set")
    if level not in SIZES:
        wrong.append("no such level")
    elif address % (4096 * 512**level):
        wrong.append(f"not aligned to {SIZES[level]}")
    text = f"page info: address 0x{address:x}, level {level} ({SIZES.get(level, 'none')})"
    facts = {"level": level, "address": address, "faults": wrong}
    return ", ".join([text, *wrong]), facts


def field_ids() -> dict[tuple[int, int], tuple[str, int]]:
    """(class, code) of each field, of each element of an array too, to its name and bytes."""
    found: dict[tuple[int, int], tuple[str, int]] = {}
    for name, known in TABLES["metadata_fields"].items():
        number = int(known["id"], 16)
        count = FIELD_ARRAYS.get(FIELDS[name], 1)
        for index in range(count):
            shown = name if count == 1 else f"{name}[{index}]"
            at = bits(number, 61, 56), bits(number, 23, 0) + index
            found.setdefault(at, (shown, known["bytes"]))
    return found


FIELD_IDS = field_ids()


def field(value: int) -> tuple[str, dict[str, Any]]:
    if value == (1 << 64) - 1:
        return "no field: the first one is asked for, or there is none after", {}
    at = bits(value, 61, 56), bits(value, 23, 0)
    if at not in FIELD_IDS:
        text = f"metadata field of class 0x{at[0]:x}, code 0x{at[1]:x}, not known"
        return text, {"name": None, "class": at[0], "code": at[1]}
    name, size = FIELD_IDS[at]
    unit = "byte" if size == 1 else "bytes"
    return f"metadata field {name}, {size} {unit}", {"name": name, "bytes": size}


def is_field_id(value: int) -> bool:
    """Of a field that there is, all bits but 63 and the size's as a field id has them."""
    found = FIELD_IDS.get((bits(value, 61, 56), bits(value, 23, 0)))
    zero = (bits(value, 31, 24), bits(value, 49, 47), bits(value, 55, 55), bits(value, 62, 62))
    if found is None or any(zero) or bits(value, 46, 34):
        return False
    known = int(TABLES["metadata_fields"][found[0].split("[")[0]]["id"], 16)
    return bits(value, 61, 56) != 0 or bits(value, 63, 24) == bits(known, 63, 24)


def kinds(value: int) -> list[str]:
    """What a bare number may be, the likeliest first."""
    text = format(value, "016x")
    if text == "f" * 16:
        return ["page-info", "field"]
    software = text[0] in "89abcdef" and text[4:6] == "ff"
    named = text[:8] != "0" * 8 and "0x" + text[:8] + "0" * 8 in STATUS_NAME
    tests = {
        "status": named or value == 0 or software,
        "leaf": bits(value, 63, 24) == 0 and bits(value, 15, 0) in LEAF_NAME,
        "exit": value in EXIT_REASON_NAMES,
        "operand": value in OPERAND_NAME,
        "field": text[:8] != "0" * 8 and is_field_id(value),
        "page-info": bits(value, 51, 12) > 0 and not page_info(value)[1]["faults"],
    }
    found = [kind for kind, holds in tests.items() if holds]
    return found or (["status"] if text[0] in "89abcdef" else [])


def named(text: str) -> tuple[str, int] | None:
    """(kind, number) of a name as people write it: prefixes may be missing, dots are a leaf's."""
    places: list[tuple[str, dict[str, int]]] = [
        ("status", {name: int(number, 16) for number, name in STATUS_NAME.items()}),
        ("leaf", {name.replace(".", "_"): number for number, name in LEAF_NAME.items()}),
        ("field", {name: known.id for name, known in FIELDS.items()}),
        ("operand", {name: number for number, name in OPERAND_NAME.items()}),
        ("exit", {name: number for number, name in EXIT_REASON_NAMES.items()}),
        ("exit", {"EXIT_REASON_" + name: n for n, name in EXIT_REASON_NAMES.items()}),
    ]
    name = text.upper().replace(".", "_")
    second, third = ("TDH_", "TDX_") if "." in text else ("TDX_", "TDH_")
    for wanted in (name, second + name, third + name):
        for kind, numbers in places:
            if wanted in numbers:
                return kind, numbers[wanted]
    return None


BY_KIND = {
    "status": status,
    "leaf": leaf,
    "operand": operand,
    "page-info": page_info,
    "field": field,
    "exit": exit_reason,
}


def register(rax: int | None, failed: int, name: str, value: int, registers: dict[str, int]) -> str:
    """What a register means after that status of that leaf."""
    number = None if rax is None else bits(rax, 15, 0)
    row = formats.LEAF_ROWS.get(number) if number is not None else None
    operands = row.operands if row else {}
    code = format(failed, "016x")[:8] + "0" * 8
    outputs = formats.LEAF_OUTPUTS.get(number, {}) if number is not None else {}
    if "CPUID" in STATUS_NAME.get("0x" + code, "") and LEAF_NAME.get(number or 0) in (
        "TDH.SYS.INIT",
        "TDH.SYS.LP.INIT",
    ):
        outputs = formats.CPUID_OUTPUTS
    if name in outputs:
        return _output(outputs[name], value)
    busy = failed == int(TABLES["status"]["TDX_OPERAND_BUSY"], 16) + TABLES["operand_ids"]["RCX"]
    met = busy and operands.get("rcx") == formats.GPA_LEVEL
    met = met and bool(page_info(registers.get("rcx", 0))[1].get("faults", True))
    if name in ("rcx", "rdx") and (int(code, 16) in SHOWS_SEPT_ENTRY or met):
        return "S-EPT entry met: " + (_entry(value) if name == "rcx" else _entry_details(value))
    if name not in operands:
        if value == 0:
            return "0"
        leaf_name = LEAF_NAME.get(number, "") if number is not None else ""
        return f"not an operand of {leaf_name}" if operands else "operand not known"
    if value == 0 and name in ("rcx", "rdx") and formats.GPA_LEVEL in operands.values():
        return f"cleared; {operands[name]} went in"
    return _operand(operands[name], value)


def register_kind(text: str) -> str:
    """The kind of what :func:`register` says."""
    if text.startswith("S-EPT entry met"):
        return "sept-entry"
    if text.startswith(("metadata field ", "no field: ")):
        return "field"
    return "page-info" if ", level " in text or text == "NULL_PA, no page" else "register"


def _output(form: str, value: int) -> str:
    if form == formats.PAGE_TYPE:
        kind = bits(value, 3, 0)
        return f"page type {kind} {PAGE_TYPE_NAME.get(kind, 'not known')}"
    if form == formats.LEVEL:
        return f"level {value} ({SIZES.get(value, 'none')})"
    if form == formats.OWNER:
        return f"owner: TDR 0x{value:x}" if value else "owner: none, or cleared"
    if form == formats.CPUID_LEAF:
        sub = bits(value, 63, 32)
        tail = "" if sub == 0xFFFFFFFF else f", subleaf {sub}"
        return f"CPUID leaf 0x{bits(value, 31, 0):x}{tail}"
    return f"{form}: 0x{value:x}" if value else "0"


def _entry(value: int) -> str:
    if bits(value, 62, 0) == 0:
        return "free" if value else "not present"
    access = "accessible" if bits(value, 2, 0) else "not accessible"
    if bits(value, 7, 4):
        return f"maps 0x{bits(value, 51, 12) * 4096:x}, {access}"
    return f"points to an S-EPT page, {access}"


def _entry_details(value: int) -> str:
    level, state, vm = bits(value, 2, 0), bits(value, 15, 8), bits(value, 17, 16)
    text = f"level {level} ({SIZES.get(level, 'none')}), {SEPT_STATE_NAME.get(state, hex(state))}"
    return text + (f", L2 VM {vm}" if vm else "")


def _operand(form: str, value: int) -> str:
    if form == formats.FIELD:
        return field(value)[0]
    if form in (formats.GPA_LEVEL, formats.HPA_LEVEL):
        return page_info(value)[0].replace("page info: address", form.split()[0])
    if value == (1 << 64) - 1:
        return f"{form}: none (NULL_PA)"
    if form == formats.TDR_FLAG:
        return f"TDR 0x{bits(value, 63, 1) * 2:x}, flag {bits(value, 0, 0)}"
    if form == formats.KEYID_MODE:
        mode = "Dynamic" if bits(value, 16, 16) else "static"
        return f"KeyID {bits(value, 15, 0)}, {mode} PAMT"
    page = form in (formats.PAGE, formats.HOST_PAGE, formats.TDR, formats.TDVPR, formats.GPA)
    return f"{form} 0x{value:x}" if page else f"{form} {value}"
