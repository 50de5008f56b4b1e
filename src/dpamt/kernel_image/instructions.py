"""What an instruction does to memory: decoded once, by capstone.

It gives what a step of a thread can be: which memory it reads and writes, in one atomic
access or in two, and whether it orders stores.  What may not run on a thread at all (an instruction
that leaves the CPU, or that capstone does not know) is reported too.

Source: Intel SDM volume 2; volume 3, 9.2 "Memory Ordering", 9.1.2.2 "Software Controlled Bus
Locking" (LOCK prefix; XCHG with memory is locked without it).
"""

from dataclasses import dataclass
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.refused import WHOLE, why_refused

READ: Final = "read"
WRITE: Final = "write"
ATOMIC: Final = "read and write, one step"
TWO_STEPS: Final = "read, then write"
_FENCES: Final = frozenset({"mfence", "serialize"})
_NO_ACCESS: Final = frozenset({"lea", "nop", "endbr64", "endbr32", "prefetch", "prefetchw"})
_NO_ACCESS_BEGINS: Final = ("prefetch", "nop", "lea")
_ONLY_WRITE: Final = ("mov", "set", "stos", "pop", "fnst", "fst", "stmxcsr")
_ONLY_READ: Final = frozenset(
    {
        *("cmp", "test", "bt", "call", "jmp", "push", "mul", "imul", "div", "idiv", "ldmxcsr"),
        *("cmpsb", "cmpsw", "cmpsd", "cmpsq", "fldcw", "verr", "verw"),
    }
)
"""Of those whose first operand is memory."""
_STRINGS: Final = frozenset(
    f"{what}{size}" for what in ("movs", "stos", "lods", "cmps", "scas") for size in "bwdq"
)
_MASK: Final = (1 << 64) - 1
_ATOMIC_ALWAYS: Final = frozenset({"xchg"})


@dataclass(frozen=True, slots=True)
class Operand:
    """A memory operand: base + index * scale + displacement, in bytes; registers by number."""

    base: str
    index: str
    scale: int
    displacement: int
    segment: str
    size: int
    access: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction at its address."""

    address: int
    size: int
    text: str
    """As people read it, addresses as numbers."""
    mnemonic: str
    """Without prefixes."""
    memory: tuple[Operand, ...]
    is_locked: bool
    empties_buffer: bool
    """A fence that waits until all earlier stores are seen; LFENCE and SFENCE do not."""
    clears_line: bool
    """MOVDIR64B: it writes 64 bytes to an address in a register."""
    is_undefined: bool
    """ud1, ud2: a WARN or a BUG."""
    is_filler: bool
    """nop, endbr64, int3: of no interest where nobody came."""
    is_return: bool
    is_call: bool
    is_jump: bool
    target: int
    """Of a direct call or jump; else -1."""
    is_repeated: bool
    is_string: bool
    """It goes through memory in the direction that DF says."""
    refused: str
    """Why it may not run; empty: it may."""
    operands: tuple[tuple[str, Any], ...]
    """(``reg``, name), (``imm``, number) or (``mem``, None), in Intel's order."""
    changed: frozenset[str] = frozenset()
    """The general registers that it writes, or a part of, by their whole names."""
    computed: int = -1
    """Of LEA without registers but RIP: the address; else -1."""

    def names(self, address: int) -> bool:
        """Whether it loads that address as a number."""
        numbers = [value & _MASK for kind, value in self.operands if kind == "imm"]
        return address in (*numbers, self.computed)


class Instructions:
    """The instructions of one image, by address."""

    def __init__(self, image: ElfImage) -> None:
        try:
            import capstone
            from capstone import x86
        except ImportError:
            raise InputError(
                "--vmlinux needs capstone and unicorn; expected: pip install 'dpamt[machine]'"
            ) from None
        self._image = image
        self._x86 = x86
        self._capstone = capstone
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.detail = True
        self._known: dict[int, Instruction] = {}

    def at(self, address: int) -> Instruction:
        """The instruction at an address.  Raises InputError where there is none."""
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = self._decode(address)
        return known

    def all(self) -> list[Instruction]:
        """Every instruction that was asked for, by address."""
        return [self._known[address] for address in sorted(self._known)]

    def _decode(self, address: int) -> Instruction:
        section = self._image.section_at(address)
        if section is None or not section.executable:
            name = self._image.name_of(address)
            raise InputError(
                f"{self._image.path_at(address)}: code goes to {name}, where no code lies"
            )
        found = next(self._decoder.disasm(self._image.read(address, 15), address, 1), None)
        if found is None:
            code = self._image.read(address, 8).hex(" ")
            raise InputError(
                f"{self._image.path_at(address)}: {self._image.name_of(address)}: no known "
                f"instruction ({code} ...)"
            )
        return self._told(found)

    def _told(self, found: Any) -> Instruction:
        x86 = self._x86
        words = found.mnemonic.split()
        mnemonic = words[-1]
        is_locked = "lock" in words
        operands: list[tuple[str, Any]] = []
        memory: list[Operand] = []
        target = -1
        registers: list[str] = []
        for place, operand in enumerate(found.operands):
            if operand.type == x86.X86_OP_REG:
                name = found.reg_name(operand.reg)
                registers.append(name)
                operands.append(("reg", name))
            elif operand.type == x86.X86_OP_IMM:
                operands.append(("imm", operand.imm))
                target = operand.imm & (1 << 64) - 1
            elif mnemonic not in _NO_ACCESS and not mnemonic.startswith(_NO_ACCESS_BEGINS):
                operands.append(("mem", None))
                memory.append(self._operand(found, operand, place == 0, mnemonic, is_locked))
            else:
                operands.append(("mem", None))
        groups = set(found.groups)
        is_call = x86.X86_GRP_CALL in groups
        is_jump = x86.X86_GRP_JUMP in groups
        return Instruction(
            found.address,
            found.size,
            f"{found.mnemonic} {found.op_str}".strip(),
            mnemonic,
            tuple(memory),
            is_locked or (mnemonic in _ATOMIC_ALWAYS and bool(memory)),
            mnemonic in _FENCES,
            mnemonic == "movdir64b",
            mnemonic in ("ud0", "ud1", "ud2"),
            mnemonic in ("nop", "endbr64", "int3"),
            x86.X86_GRP_RET in groups,
            is_call,
            is_jump,
            target if (is_call or is_jump) else -1,
            any(word.startswith("rep") for word in words[:-1]),
            mnemonic in _STRINGS,
            why_refused(mnemonic, registers),
            tuple(operands),
            self._changed(found),
            self._computed(found) if mnemonic == "lea" else -1,
        )

    def _changed(self, found: Any) -> frozenset[str]:
        _, written = found.regs_access()
        return frozenset(WHOLE[name] for name in map(found.reg_name, written) if name in WHOLE)

    def _computed(self, found: Any) -> int:
        place = next(o.mem for o in found.operands if o.type == self._x86.X86_OP_MEM)
        if place.index or found.reg_name(place.base) != "rip":
            return -1
        return int(place.disp + found.address + found.size) & _MASK

    def _operand(
        self, found: Any, operand: Any, first: bool, mnemonic: str, is_locked: bool
    ) -> Operand:
        # Intel's order puts what is written first. capstone's own flags leave out what CMPXCHG,
        # ROL, SETcc and others write, so they may only add to this.
        writes = first and mnemonic not in _ONLY_READ
        reads = not (writes and mnemonic.startswith(_ONLY_WRITE))
        if not first:
            writes = bool(operand.access & self._capstone.CS_AC_WRITE)
        if is_locked or mnemonic in _ATOMIC_ALWAYS:
            access = ATOMIC
        elif reads and writes:
            access = TWO_STEPS
        else:
            access = WRITE if writes else READ
        place = operand.mem

        def name(register: int) -> str:
            return str(found.reg_name(register)) if register else ""

        displacement = place.disp
        base = name(place.base)
        if base == "rip":
            displacement += found.address + found.size
            base = ""
        return Operand(
            base,
            name(place.index),
            place.scale,
            displacement,
            name(place.segment),
            operand.size,
            access,
        )
