"""What every answer of the module obeys, whatever the call: told from the reference's tables."""

import json
from pathlib import Path

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.operands import OPERAND_RAX, OPERAND_RCX
from dpamt.abi.pages import NULL_PA, REMOVAL_HINT
from dpamt.abi.registers import REGISTER_NAMES

_TABLES = json.loads((Path(__file__).parent.parent / "data" / "tdx-module-tables.json").read_text())
_LEAVES: dict[str, int] = _TABLES["leaves"]
_OPERANDS: dict[str, int] = _TABLES["operand_ids"]

MISSING_OPERANDS: dict[int, tuple[str, ...]] = {
    _LEAVES[name]: tuple(register.lower() for register in registers)
    for name, registers in _TABLES["missing_pair_operands"].items()
}
"""Leaf to the registers that may name a page of a region without a pair."""
HINT_REGISTERS: dict[int, tuple[str, ...]] = {
    _LEAVES[name]: tuple(register.lower() for register in registers)
    for name, registers in _TABLES["hint_registers"].items()
}
OPERAND_OF: dict[str, int] = {name: _OPERANDS[name.upper()] for name in REGISTER_NAMES}

_NAMED = frozenset({"rcx", "rdx"})
_L2 = frozenset({"r9", "r10", "r11"})
_READ = frozenset({"rcx", "rdx", "r8", *_L2})
OUTPUTS: dict[int, frozenset[str]] = {
    leaf.TDH_VP_ENTER: frozenset(REGISTER_NAMES),
    leaf.TDH_MNG_INIT: frozenset({"rcx"}),
    leaf.TDH_MEM_SEPT_ADD: _NAMED,
    leaf.TDH_MEM_SEPT_REMOVE: _NAMED,
    leaf.TDH_MEM_SEPT_RD: _NAMED | {"r8"},
    leaf.TDH_MEM_PAGE_ADD: _NAMED,
    leaf.TDH_MEM_PAGE_AUG: _NAMED,
    leaf.TDH_MEM_PAGE_REMOVE: _NAMED,
    leaf.TDH_MEM_PAGE_RELOCATE: _NAMED,
    leaf.TDH_MEM_PAGE_DEMOTE: _NAMED | _L2,
    leaf.TDH_MEM_PAGE_PROMOTE: _NAMED | {"r12", "r13"},
    leaf.TDH_MEM_RANGE_BLOCK: _NAMED,
    leaf.TDH_MEM_RANGE_UNBLOCK: _NAMED,
    leaf.TDH_MR_EXTEND: _NAMED,
    leaf.TDH_PHYMEM_PAGE_RDMD: _READ,
    leaf.TDH_PHYMEM_PAGE_RECLAIM: _READ,
    leaf.TDH_PHYMEM_PAMT_REMOVE: frozenset({"rdx", "r8"}),
    leaf.TDH_SYS_INIT: _READ - {"r11"},
    leaf.TDH_SYS_LP_INIT: frozenset({"rcx", "rdx", "r8"}),
    leaf.TDH_SYS_TDMR_INIT: frozenset({"rdx"}),
    leaf.TDH_SYS_RD: frozenset({"rdx", "r8"}),
    leaf.TDH_MNG_RD: frozenset({"r8"}),
    leaf.TDH_VP_RD: frozenset({"r8"}),
    leaf.TDH_VP_WR: frozenset({"r8"}),
}
"""Registers that version 0 of a leaf may write; of a leaf that is not listed, none."""
OUTPUTS_OF_VERSION_1: dict[int, frozenset[str]] = {
    leaf.TDH_MEM_SEPT_ADD: _READ,
    leaf.TDH_MEM_SEPT_REMOVE: _NAMED | _L2,
    leaf.TDH_MEM_PAGE_PROMOTE: _NAMED | _L2 | {"r12", "r13"},
    leaf.TDH_MNG_RD: frozenset({"rdx", "r8"}),
    leaf.TDH_VP_RD: frozenset({"rdx", "r8"}),
}
READS_FIELDS = frozenset({leaf.TDH_SYS_RD, leaf.TDH_MNG_RD, leaf.TDH_VP_RD, leaf.TDH_VP_WR})
"""Leaves whose outputs are field ids and values of fields: any bit may be set in them."""
ZEROED: frozenset[int] = frozenset(
    {
        leaf.TDH_MEM_SEPT_ADD,
        leaf.TDH_MEM_SEPT_REMOVE,
        leaf.TDH_MEM_PAGE_ADD,
        leaf.TDH_MEM_PAGE_AUG,
        leaf.TDH_MEM_PAGE_REMOVE,
        leaf.TDH_MEM_PAGE_RELOCATE,
        leaf.TDH_MEM_PAGE_DEMOTE,
        leaf.TDH_MEM_PAGE_PROMOTE,
        leaf.TDH_MEM_RANGE_BLOCK,
        leaf.TDH_MEM_RANGE_UNBLOCK,
        leaf.TDH_MR_EXTEND,
    }
)
"""Leaves whose RCX and RDX are 0 after a failure, but for S-EPT details and interrupted calls."""
_SHOWS_ENTRY = frozenset(
    {
        s.TDX_EPT_WALK_FAILED | OPERAND_RCX,
        s.TDX_OPERAND_BUSY | OPERAND_RCX,
        s.TDX_EPT_ENTRY_STATE_INCORRECT | OPERAND_RCX,
        s.TDX_GPA_RANGE_NOT_BLOCKED | OPERAND_RCX,
        s.TDX_GPA_RANGE_ALREADY_BLOCKED | OPERAND_RCX,
        s.TDX_EPT_PAGE_NOT_FREE | OPERAND_RCX,
        s.TDX_EPT_INVALID_PROMOTE_CONDITIONS | OPERAND_RCX,
        s.TDX_EPT_ENTRY_NOT_PRESENT | OPERAND_RCX,
    }
)
_SHOWS_L2_ENTRY = frozenset({s.TDX_L2_SEPT_WALK_FAILED, s.TDX_L2_SEPT_ENTRY_NOT_FREE})
_RESTORES = frozenset(
    {s.TDX_INTERRUPTED_RESTARTABLE, s.TDX_INTERRUPTED_RESUMABLE, s.TDX_INTERRUPTED_BUSY}
)
_BY_DISPATCHER = frozenset({s.TDX_SYS_NOT_READY, s.TDX_SYS_SHUTDOWN})
_MAX_WORD = (1 << 64) - 1

Registers = tuple[int, ...]


def broken_laws(
    number: int,
    version: int,
    before: Registers,
    status: int,
    after: Registers,
    dynamic: bool = True,
) -> list[str]:
    """A sentence for every law that the answer breaks; registers in their usual order."""
    if number == leaf.TDH_VP_ENTER:
        return []
    code = status & s.STATUS_MASK
    found = [] if code in s.STATUS_NAMES else [f"status {status:#x} is none of the module's"]
    outputs = OUTPUTS_OF_VERSION_1 if version == 1 else OUTPUTS
    may_write = outputs.get(number, OUTPUTS.get(number, frozenset()))
    hints = HINT_REGISTERS.get(number, ()) if dynamic and status == s.TDX_SUCCESS else ()
    for name, old, new in zip(REGISTER_NAMES, before, after, strict=True):
        if old == new:
            continue
        if not 0 <= new <= _MAX_WORD:
            found.append(f"{name} is {new:#x}, not a 64-bit value")
        if name not in may_write and version <= 1:
            found.append(f"{name} is no output of the leaf and was written")
        if (
            number not in READS_FIELDS
            and new & ~old & REMOVAL_HINT
            and new != NULL_PA
            and name not in hints
        ):
            found.append(f"{name} has the removal hint")
    found += _missing_pair(number, version, status, dynamic)
    if number in ZEROED and status != s.TDX_OPERAND_INVALID | OPERAND_RAX:
        found += _details(code, status, before, after)
    return found


def _missing_pair(number: int, version: int, status: int, dynamic: bool) -> list[str]:
    if status & s.STATUS_MASK != s.TDX_MISSING_PAMT_PAGE_PAIR:
        return []
    registers = MISSING_OPERANDS.get(number, ())
    if number == leaf.TDH_MEM_SEPT_ADD and not version:
        registers = registers[:1]
    if dynamic and status & ~s.STATUS_MASK in {OPERAND_OF[name] for name in registers}:
        return []
    return ["a missing pair is told where none can be missing"]


def _details(code: int, status: int, before: Registers, after: Registers) -> list[str]:
    """RCX and RDX of a failed call that zeroes them first."""
    if (
        code == s.TDX_SUCCESS
        or code in _BY_DISPATCHER
        or status in _SHOWS_ENTRY
        or code in _SHOWS_L2_ENTRY
    ):
        return []
    wanted = before[:2] if code in _RESTORES else (0, 0)
    return [] if after[:2] == wanted else [f"RCX and RDX are not {wanted}"]
