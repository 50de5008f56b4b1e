"""What can be wrong with a call, in the order in which the reference says a leaf looks at it.

A fault changes registers, or what another CPU holds, or the state of the TD; ``status`` is what it
gives alone.  Faults that touch the same thing cannot be had together.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from dpamt.abi import operands as op
from dpamt.abi import status as s
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.module.td import HEADER_FATAL, HEADER_LIFECYCLE_MASK, HEADER_TDCX_MASK, Td
from tests.module.recipes import LONE
from tests.module.rig import FIRST, PAIRS, Rig

OUTSIDE = FIRST - SIZE_2M
"""Private memory in no TDMR."""
FREE = FIRST + 300 * PAGE_SIZE
"""A free page of the region that holds the control pages, and another."""
OTHER_FREE = FREE + PAGE_SIZE
HKID_BIT = 1 << 51
REGISTER_OPERANDS = {
    "rcx": op.OPERAND_RCX,
    "rdx": op.OPERAND_RDX,
    "r8": op.OPERAND_R8,
    "r9": op.OPERAND_R9,
    "r12": op.OPERAND_R12,
    "r13": op.OPERAND_R13,
}


@dataclass(frozen=True)
class Fault:
    """``touches`` are the registers and things it changes; ``shown``: RCX and RDX are not 0."""

    name: str
    status: int
    registers: dict[str, int] = field(default_factory=dict)
    prepare: Callable[[Rig], object] | None = None
    thing: str = ""
    shown: bool = False

    @property
    def touches(self) -> frozenset[str]:
        return frozenset(self.registers) | ({self.thing} if self.thing else frozenset())


def hold_4k(hpa: int, exclusive: bool = True) -> Callable[[Rig], object]:
    """Another CPU has the PAMT entry of a 4K page."""

    def prepare(rig: Rig) -> object:
        entries = rig.module.pamt.region(hpa >> 21).entries
        index = hpa >> PAGE_SHIFT & 511
        return entries.try_exclusive(index) if exclusive else entries.try_shared(index)

    return prepare


def hold_2m(hpa: int) -> Callable[[Rig], object]:
    """Another CPU reads the PAMT entry of a 2M region."""
    return lambda rig: rig.module.pamt.region(hpa >> 21).first.try_shared()


def of_td(change: Callable[[Td], object]) -> Callable[[Rig], object]:
    """Something about the TD at the beginning of the TDMR."""
    return lambda rig: change(rig.module.tds.at(FIRST >> PAGE_SHIFT))


def private_page(register: str, in_use: int, expected_free: bool, page: int = FREE) -> list[Fault]:
    """An explicit private 4K HPA; ``in_use`` is a page of another type than wanted."""
    operand = REGISTER_OPERANDS[register]
    faults = [
        Fault("unaligned", s.TDX_OPERAND_INVALID | operand, {register: page | 8}),
        Fault("keyid", s.TDX_OPERAND_INVALID | operand, {register: page | HKID_BIT}),
        Fault("beyond 2^52", s.TDX_OPERAND_INVALID | operand, {register: page | 1 << 52}),
        Fault("range", s.TDX_OPERAND_ADDR_RANGE_ERROR | operand, {register: OUTSIDE}),
        Fault("type", s.TDX_PAGE_METADATA_INCORRECT | operand, {register: in_use}),
    ]
    if expected_free:
        missing = s.TDX_MISSING_PAMT_PAGE_PAIR | operand
        busy = s.TDX_OPERAND_BUSY | operand
        faults += [
            Fault("busy", busy, {register: page}, hold_4k(page, False), f"pamt {page:#x}"),
            Fault("busy region", busy, {register: LONE}, hold_2m(LONE), f"pamt {LONE:#x}"),
            Fault("no pair", missing, {register: LONE}),
            Fault("pair page without a pair", missing, {register: PAIRS}),
        ]
    return [fault for fault in faults if -1 not in fault.registers.values()]


def tdr(register: str, exclusive: bool) -> list[Fault]:
    """TDR(register): the TD is at FIRST."""
    operand = REGISTER_OPERANDS[register]
    busy = s.TDX_OPERAND_BUSY | operand
    held = Fault("TDR busy", busy, {}, hold_4k(FIRST, not exclusive), "tdr lock")
    return [*private_page(register, OTHER_FREE, False, FIRST), held]


def implicit_tdr(exclusive: bool = False) -> Fault:
    """The TDR of a TDVPR."""
    busy = s.TDX_OPERAND_BUSY | op.OPERAND_TDR
    return Fault("TDR busy", busy, {}, hold_4k(FIRST, not exclusive), "tdr lock")


def fatal_td() -> Fault:
    return Fault(
        "FATAL", s.TDX_TD_FATAL, {}, of_td(lambda td: td.header.set_bits(HEADER_FATAL)), "fatal"
    )


def no_keys(status: int = s.TDX_TD_KEYS_NOT_CONFIGURED) -> Fault:
    """In teardown: life cycle 3."""
    lifecycle = of_td(lambda td: td.header.set_bits(HEADER_LIFECYCLE_MASK))
    return Fault("no keys", status, {}, lifecycle, "lifecycle")


def state(locked: bool, wrong: int = 0) -> list[Fault]:
    """STATE, with and without the lock of OP_STATE; ``wrong`` is an OP_STATE not allowed."""
    tdcx = of_td(lambda td: td.header.clear_bits(HEADER_TDCX_MASK))
    faults = [
        fatal_td(),
        no_keys(),
        Fault("no TDCS", s.TDX_TDCS_NOT_ALLOCATED, {}, tdcx, "tdcx"),
    ]
    if locked:
        busy = s.TDX_OPERAND_BUSY | op.OPERAND_OP_STATE
        held = of_td(lambda td: td.op_state.try_exclusive())
        faults.append(Fault("OP_STATE busy", busy, {}, held, "op_state lock"))
    stored = of_td(lambda td: td.op_state.store(wrong))
    faults.append(Fault("OP_STATE", s.TDX_OP_STATE_INCORRECT | wrong, {}, stored, "op_state"))
    return faults


def page_info(info: int, bad_level: int) -> list[Fault]:
    """PAGEINFO."""
    invalid = s.TDX_OPERAND_INVALID | op.OPERAND_RCX
    return [
        Fault("reserved bit", invalid, {"rcx": info | 8}),
        Fault("high bit", invalid, {"rcx": info | 1 << 52}),
        Fault("level", invalid, {"rcx": info & ~7 | bad_level}),
    ]


def walk(
    info: int, table: int, index: int, wrong: int, exclusive: bool, state_status: int = 0
) -> list[Fault]:
    """WALK; the entry is ``index`` of S-EPT page ``table``, ``wrong`` a word it may not have."""

    def hold_entry(rig: Rig) -> object:
        return rig.module.tds.sept.find(table >> PAGE_SHIFT).try_exclusive(index)

    def store(rig: Rig) -> None:
        rig.module.tds.sept.find(table >> PAGE_SHIFT).store(index, wrong)

    def hold_tree(td: Td) -> object:
        return td.tree.try_shared() if exclusive else td.tree.try_exclusive()

    rcx = op.OPERAND_RCX
    failed = s.TDX_EPT_WALK_FAILED | rcx
    busy = s.TDX_OPERAND_BUSY
    tree = busy | op.OPERAND_SEPT_TREE
    incorrect = state_status or s.TDX_EPT_ENTRY_STATE_INCORRECT | rcx
    return [
        Fault("shared GPA", s.TDX_OPERAND_INVALID | rcx, {"rcx": info | 1 << 47}),
        Fault("tree busy", tree, {}, of_td(hold_tree), "tree lock"),
        Fault("walk", failed, {"rcx": info | 1 << 45}, shown=True),
        Fault("entry busy", busy | rcx, {}, hold_entry, "entry lock", shown=True),
        Fault("entry state", incorrect, {}, store, "entry", shown=True),
    ]
