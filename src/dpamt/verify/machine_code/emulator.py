"""Unicorn as a thread's CPU: it runs from one place to the next step that others could notice.

The emulator has no idea of threads.  It is given registers and the thread's own memory, runs, and
stops *before* an instruction that reads or writes a shared word, at a call that is answered, at an
undefined instruction, and at the end.  What it leaves is the next place.

What is kept of memory is what the thread wrote, in cells of eight bytes; below the stack pointer
nothing is (code that reaches there is refused: the kernel is built with ``-mno-red-zone``).
"""

import struct
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.kernel_image.instructions import (
    ATOMIC,
    READ,
    TWO_STEPS,
    WRITE,
    Instruction,
    Instructions,
    Operand,
)
from dpamt.verify.machine_code.memory import (
    CONSTANT,
    NOWHERE,
    PRIVATE,
    STACK_BASE,
    STACK_BYTES,
    ImageMemory,
    is_nowhere,
    page_of,
    signed,
)

REGISTERS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    "eflags",
)
RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP = range(8)
EFLAGS: Final = 16
CALLER_SAVED: Final = (RCX, RDX, RSI, RDI, 8, 9, 10, 11)
"""What a call that was answered leaves as 0 (System V ABI for x86-64, 3.2.1)."""
FLAGS: Final = 0xED5
"""CF PF AF ZF SF, IF DF OF; what else there is belongs to no program."""
FIRST_FLAGS: Final = 0x202
DOWNWARDS: Final = 0x400
"""DF in RFLAGS."""
RETURN_ADDRESS: Final = 0xFFFF_FFFF_EFFF_F000
"""Where the outermost function returns to."""
_NO_END: Final = RETURN_ADDRESS + 0x800
"""Nothing ever runs there."""
MOST_INSTRUCTIONS: Final = 200_000
"""A thread that runs more of them without a step goes round."""
_PAGE: Final = 4096
_ARENA: Final = 64 << 20
_MASK: Final = (1 << 64) - 1
_BIT_STRINGS: Final = frozenset({"bt", "bts", "btr", "btc"})

Own = dict[int, int]
"""The thread's own memory that differs from the start: value by address, in cells of 8 bytes."""


class Emulator:
    """One CPU.  ``stops_at`` says whether an address is that of an answered function."""

    def __init__(
        self,
        memory: ImageMemory,
        instructions: Instructions,
        stops_at: Callable[[int], bool],
        fences: bool,
    ) -> None:
        try:
            unicorn: Any = import_module("unicorn")
            x86_const: Any = import_module("unicorn.x86_const")
        except ImportError:
            raise InputError(
                "--vmlinux needs unicorn; expected: pip install 'dpamt[machine]'"
            ) from None
        self._unicorn = unicorn
        self.memory = memory
        self._instructions = instructions
        self._stops_at = stops_at
        self._fences = fences
        self._uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._uc.mem_map(0, _ARENA)
        self._ids = [getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in REGISTERS]
        self._id_of = {
            name[len("UC_X86_REG_") :].lower(): number
            for name, number in vars(x86_const).items()
            if name.startswith("UC_X86_REG_")
        }
        self._rip = x86_const.UC_X86_REG_RIP
        self._pages: dict[int, int] = {}
        self._virtual: dict[int, int] = {}
        self.own_pages: frozenset[int] = frozenset()
        """Page frame numbers of the pages that the thread has."""
        self._written: set[int] = set()
        self._skip = False
        self._left = 0
        self._reached: list[tuple[int, int]] = []
        """(begin, end) of all memory that the instruction may reach."""
        self._single = False
        self._stopped = -1
        self._failure: Exception | None = None
        self.ran: set[int] = set()
        """Addresses of all instructions that ran."""
        self.steps = 0
        self.last = 0
        """Address of the instruction that ran last."""
        self._uc.hook_add(unicorn.UC_HOOK_TLB_FILL, self._fill)
        self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_code)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE, self._on_memory)

    # Memory of the emulator.

    def _physical(self, address: int) -> int:
        page = address & -_PAGE
        known = self._pages.get(page)
        if known is None:
            known = _PAGE * (1 + len(self._pages))
            if known >= _ARENA:
                raise InputError(
                    f"{self.memory.image.path}: the code reaches more than {_ARENA >> 20} MiB of "
                    "memory; expected a get and a put"
                )
            self._pages[page] = known
            self._virtual[known] = page
            self._uc.mem_write(known, self.memory.first_bytes(page, _PAGE))
        return known + address - page

    def _fill(self, uc: Any, address: int, access: int, entry: Any, _: object) -> bool:
        try:
            entry.paddr = self._physical(address) & -_PAGE
        except InputError as error:
            self._failure = error
            return False
        entry.perms = self._unicorn.UC_PROT_ALL
        return True

    def read(self, address: int, size: int) -> int:
        """An unsigned number in the emulator's memory, which lies in one page."""
        content = self._uc.mem_read(self._physical(address), size)
        return int.from_bytes(content, "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Put a number there."""
        content = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self._uc.mem_write(self._physical(address), content)

    def _cell(self, address: int) -> int:
        return int.from_bytes(self._uc.mem_read(self._physical(address), 8), "little")

    def text(self, address: int, most: int = 200) -> str:
        """The string at an address."""
        content = self.memory.first_bytes(address, most)
        return content.split(b"\0")[0].decode("utf-8", "replace")

    # A thread's place, put in and taken out.

    def put(self, at: int, registers: tuple[int, ...], own: Own, own_pages: frozenset[int]) -> None:
        """Make the CPU stand at ``at``."""
        self.own_pages = own_pages
        for cell in self._written:
            if cell not in own:
                first = self.memory.first_bytes(cell, 8)
                self._uc.mem_write(self._physical(cell), first)
        for cell, value in own.items():
            self._uc.mem_write(self._physical(cell), struct.pack("<Q", value))
        self._written = set(own)
        self._uc.reg_write_batch(list(zip(self._ids, registers, strict=True)))
        self._uc.reg_write(self._rip, at)
        self.at = at

    def registers(self) -> tuple[int, ...]:
        """The registers now, flags masked."""
        found = list(self._uc.reg_read_batch(self._ids))
        found[EFLAGS] &= FLAGS
        return tuple(found)

    def own(self) -> Own:
        """The thread's own memory now, without what lies below the stack pointer."""
        stack = self._uc.reg_read(self._ids[RSP])
        found = {}
        for cell in self._written:
            if STACK_BASE <= cell <= min(stack, STACK_BASE + STACK_BYTES) - 8:
                continue
            found[cell] = self._cell(cell)
        return found

    def set_registers(self, values: dict[int, int]) -> None:
        """Give registers, by number, new values."""
        for number, value in values.items():
            self._uc.reg_write(self._ids[number], value & _MASK)

    def note_written(self, address: int, size: int) -> None:
        """The thread's own memory at an address was changed."""
        for cell in range(address & -8, address + size, 8):
            self._written.add(cell)

    # Running.

    def run(self, skip: bool) -> int:
        """Run to the next stop and return its address; ``skip``: past the first instruction."""
        self._skip = skip
        self._single = False
        self._left = MOST_INSTRUCTIONS
        self._stopped = -1
        self._start(0)
        if self._stopped < 0:
            raise InputError(f"{self._where(self.at)}: the code stops where nothing stops it")
        self.at = self._stopped
        return self.at

    def step(self) -> None:
        """Run the one instruction that the CPU stands at."""
        self._skip = True
        self._single, self._left = True, 1
        self._start(1)
        self._single = False
        self.at = self._uc.reg_read(self._rip)

    def _start(self, count: int) -> None:
        try:
            self._uc.emu_start(self.at, _NO_END, count=count)
        except self._unicorn.UcError as error:
            if self._failure is None:
                at = self._uc.reg_read(self._rip)
                self._failure = InputError(f"{self._where(at)}: the CPU stops: {error}")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _where(self, address: int) -> str:
        return f"{self.memory.image.path_at(address)}: {self.memory.image.name_of(address)}"

    def _on_code(self, uc: Any, address: int, size: int, _: object) -> None:
        if self._single and not self._skip:
            uc.emu_stop()  # the hook is called for the next instruction too, before it runs
            return
        try:
            if self._must_stop(address):
                self._stopped = address
                uc.emu_stop()
        except Exception as failure:  # through C nothing can be raised
            self._failure = failure
            uc.emu_stop()

    def _on_memory(self, uc: Any, kind: int, address: int, size: int, *_: object) -> None:
        """The CPU and the decoder are two programs: what one reaches the other has to know."""
        page = self._virtual[address & -_PAGE]  # the hook is given its place in the arena
        address = page + address % _PAGE
        if not any(begin <= address and address + size <= end for begin, end in self._reached):
            self._failure = self._failure or InputError(
                f"{self._where(self.last)}: {self._instructions.at(self.last).text} reaches {size} "
                f"bytes at {self.memory.image.name_of(address)} in the emulator, and none of its "
                "operands lies there; expected another instruction"
            )
            uc.emu_stop()

    def _must_stop(self, address: int) -> bool:
        skip, self._skip = self._skip, False
        if not skip and (address == RETURN_ADDRESS or self._stops_at(address)):
            return True
        if is_nowhere(address):
            return True
        instruction = self._instructions.at(address)
        if not skip:
            if instruction.is_undefined or (self._fences and instruction.empties_buffer):
                return True
            if instruction.clears_line:
                return True
            if instruction.refused:
                raise InputError(
                    f"{self._where(address)}: {instruction.text}: {instruction.refused}; no thread "
                    "may run it here (docs/machine-code.md)"
                )
        self._left -= 1
        if self._left < 0:
            raise InputError(
                f"{self._where(address)}: more than {MOST_INSTRUCTIONS:,} instructions without a "
                "step that another CPU could notice"
            )
        shared = self._accesses(instruction)
        if shared and not skip:
            return True
        self.ran.add(address)
        self.last = address
        self.steps += 1
        return False

    def _accesses(self, instruction: Instruction) -> bool:
        """Whether the instruction reaches a shared word; its own writes are noted."""
        self._reached = self._on_stack(instruction)
        if instruction.mnemonic.startswith("push") or instruction.is_call:
            self.note_written(self._reached[0][0], 8)
        if instruction.is_string and self._uc.reg_read(self._ids[EFLAGS]) & DOWNWARDS:
            raise InputError(
                f"{self._where(instruction.address)}: {instruction.text} goes downwards (DF is "
                "set); expected code that only ever goes upwards"
            )
        found = False
        for operand in instruction.memory:
            address, size = self.place_of(instruction, operand)
            self._reached.append((address, address + size))
            kind = self.kind_of(instruction, operand, address, size)
            if kind == PRIVATE and operand.access != READ:
                self.note_written(address, size)
            if kind == PRIVATE and operand.access != WRITE:
                self.memory.note_read(address, size, instruction.address)
            found |= kind not in (PRIVATE, CONSTANT)
        return found

    def _on_stack(self, instruction: Instruction) -> list[tuple[int, int]]:
        """(begin, end) of what the instruction reaches by RSP, or by RBP, without an operand."""
        name, top = instruction.mnemonic, self._uc.reg_read(self._ids[RSP])
        if name.startswith("push") or instruction.is_call:
            return [(top - 8, top)]
        if name == "leave":
            top = self._uc.reg_read(self._ids[RBP])
        is_popped = name in ("pop", "popf", "popfq", "leave") or instruction.is_return
        return [(top, top + 8)] if is_popped else []

    def kind_of(self, instruction: Instruction, operand: Operand, address: int, size: int) -> str:
        """Whose the memory of an operand is."""
        if operand.segment == "gs":
            if self.memory.is_current(address):
                raise InputError(
                    f"{self._where(instruction.address)}: {instruction.text} reads current, and "
                    "there is no task here"
                )
            if not self.memory.may_be_per_cpu(address):
                raise InputError(
                    f"{self._where(instruction.address)}: {instruction.text} reaches "
                    f"{self.memory.image.name_of(address)}, which is no per-CPU variable"
                )
            return PRIVATE
        if operand.segment == "fs":
            raise InputError(
                f"{self._where(instruction.address)}: {instruction.text} goes by FS, which is of "
                "user space"
            )
        if STACK_BASE <= address < min(self._uc.reg_read(self._ids[RSP]), STACK_BASE + STACK_BYTES):
            raise InputError(
                f"{self._where(instruction.address)}: {instruction.text} reaches below the stack "
                "pointer; expected code built with -mno-red-zone, as the kernel is"
            )
        kind = self.memory.kind_of(address, size, operand.access != READ, instruction.address)
        pfn = page_of(address)
        if kind == PRIVATE and pfn >= 0 and pfn not in self.own_pages:
            raise InputError(
                f"{self._where(instruction.address)}: {instruction.text} reaches the struct page "
                f"of page {pfn:#x}, which this thread does not have now; expected only those of "
                "pages that it was given, allocated or took back, and has not let go"
            )
        return kind

    def place_of(self, instruction: Instruction, operand: Operand) -> tuple[int, int]:
        """(address, bytes) of a memory operand now."""
        address = operand.displacement
        is_short = False
        for name, scale in ((operand.base, 1), (operand.index, operand.scale)):
            if name and name not in ("riz", "eiz"):
                address += self._uc.reg_read(self._id_of[name]) * scale
                is_short |= name not in REGISTERS
        if is_short:  # with the prefix for 32 bits
            address &= 0xFFFF_FFFF
        size = operand.size
        if instruction.mnemonic == "pop" and operand.base == "rsp":
            address += size  # RSP as it is after the pop (SDM volume 2, POP)
        if instruction.mnemonic in _BIT_STRINGS and instruction.operands[-1][0] == "reg":
            # The register is the number of a bit, and may lead beyond the operand.
            bit = signed(self.value_of(instruction.operands[-1]), size)
            address += bit // (8 * size) * size
        if instruction.is_repeated:
            size *= max(1, self._uc.reg_read(self._ids[RCX]))
        return address & _MASK, size

    def faults_at(self, instruction: Instruction) -> int:
        """The address at which an instruction would fault; -1: it does not."""
        for operand in instruction.memory:
            address, size = self.place_of(instruction, operand)
            if self.kind_of(instruction, operand, address, size) == NOWHERE:
                return address
        return -1

    def shared_operand(self, instruction: Instruction) -> tuple[Operand, int, int]:
        """The operand of an instruction that is a shared word, with its address and size."""
        found = []
        for operand in instruction.memory:
            address, size = self.place_of(instruction, operand)
            if self.kind_of(instruction, operand, address, size) not in (PRIVATE, CONSTANT):
                found.append((operand, address, size))
        if len(found) != 1 or instruction.is_repeated or found[0][2] not in (1, 2, 4, 8):
            raise InputError(
                f"{self._where(instruction.address)}: {instruction.text}: more than one shared "
                "word, or a part of one, in one instruction"
            )
        return found[0]

    def value_of(self, operand: tuple[str, Any]) -> int:
        """A register or immediate operand."""
        kind, value = operand
        return int(value) if kind == "imm" else int(self._uc.reg_read(self._id_of[value]))


__all__ = ["ATOMIC", "READ", "TWO_STEPS", "WRITE", "Emulator", "Own"]
