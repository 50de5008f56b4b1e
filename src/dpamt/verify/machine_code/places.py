"""A function of machine code as an automaton: places, and what it is about to do at each.

A place is where a thread stands before a step: registers, the bytes that are its own, and the
store that the instruction before has yet to make (an instruction that reads and writes without a
lock is two steps).  Two histories that leave the same bytes are one place.  Too fine a place costs
states, never soundness: nothing is left out but what the ABI says is dead.

From a place, given what its step gave (the value of the word; what the answered function returned),
follows the next place.  That is learned once, in the emulator, and then looked up.
"""

from collections.abc import Hashable, Iterable
from typing import Any, Final, NamedTuple

from dpamt.errors import InputError
from dpamt.kernel_image.bug_table import bugs_of
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.instructions import ATOMIC, READ, WRITE, Instruction, Instructions
from dpamt.kernel_image.lines import SourceLine
from dpamt.kernel_image.linked import lines_of
from dpamt.verify.learn.shown import Fixed
from dpamt.verify.machine_code.answered import COUNT_AND_LOCK, RCU, SEAMCALLS, Answered
from dpamt.verify.machine_code.atomics import atomic_step, check_atomic
from dpamt.verify.machine_code.clobbers import Clobbers
from dpamt.verify.machine_code.emulator import (
    EFLAGS,
    FIRST_FLAGS,
    FLAGS,
    RAX,
    RDI,
    REGISTERS,
    RETURN_ADDRESS,
    RSP,
    Emulator,
    Own,
)
from dpamt.verify.machine_code.interrupts import INTERRUPTS, flags_after, sleepless
from dpamt.verify.machine_code.memory import (
    RCU_DEPTH,
    STACK_TOP,
    Cell,
    ImageMemory,
    is_nowhere,
    page_of,
    signed,
)
from dpamt.verify.machine_code.operations import (
    ATOMIC_STEP,
    BUG,
    CALL,
    CLEAR,
    FENCE,
    LOAD,
    OOPS,
    RETURN,
    STORE,
    WARN,
    Operation,
    Returned,
)
from dpamt.verify.machine_code.page_clear import clear_line, faults, line_of, preset_erratum

_ARGUMENTS: Final = (RDI, 4, 2, 1, 8, 9)
"""Registers of a function's arguments: RDI, RSI, RDX, RCX, R8, R9 (System V ABI, 3.2.3)."""
ARGUMENT_BYTES: Final = 64
"""Of struct tdx_module_args, as far as an answered SEAMCALL reads and writes them."""
_MASK: Final = (1 << 64) - 1
_GOES_ON: Final = -1
_NOT_CLEARED: Final = -2


class _Key(NamedTuple):
    at: int
    registers: tuple[int, ...]
    own: tuple[tuple[int, int], ...]
    own_pages: frozenset[int]
    pending: Operation | None


class Places(Fixed):
    """The places of one image's functions, numbered from 0 in the order they are met."""

    def __init__(
        self, image: ElfImage, counts: str, fences: bool, values: dict[str, str] | None = None
    ) -> None:
        self.image = image
        self.lines = lines_of(image)
        self.memory = ImageMemory(image, counts, self.lines, values or {})
        self.answered = Answered(image)
        self.bugs = bugs_of(image)
        self._instructions = Instructions(image)
        preset_erratum(self.memory, self._instructions)
        self._emulator = Emulator(self.memory, self._instructions, self.answered.stops_at, fences)
        self._clobbers = Clobbers(image, self._instructions)
        self._keys: list[_Key] = []
        self._numbers: dict[_Key, int] = {}
        self._operations: list[Operation] = []
        self._after: list[dict[Hashable, int]] = []
        self._entered: dict[Hashable, int] = {}
        self.called: dict[str, None] = {}
        """Functions that were answered, in the order they were met."""
        self.passed: dict[str, None] = {}
        """Functions that count as nothing, in the order they were met."""

    # Asking.

    def operation(self, place: int) -> Operation:
        """What is done at a place."""
        return self._operations[place]

    def enter(
        self,
        function: str,
        arguments: tuple[int, ...],
        own: tuple[tuple[int, int], ...] = (),
        pages: tuple[int, ...] = (),
    ) -> int:
        """The first place of a call of a function with these arguments and these own bytes.

        The thread has ``pages``, and those whose struct page is an argument or among its bytes.
        """
        key = function, arguments, own, pages
        known = self._entered.get(key)
        if known is None:
            found = {page_of(address) for address in (*arguments, *dict(own))}
            pages_now = frozenset({*pages, *found} - {-1})
            known = self._entered[key] = self._enter(function, arguments, dict(own), pages_now)
        return known

    def after(self, place: int, result: Hashable) -> int:
        """The place that follows when the step of ``place`` gave ``result``."""
        known = self._after[place].get(result)
        if known is None:
            known = self._after[place][result] = self._learn(place, result)
        return known

    def of_cpu(self, number: int) -> tuple[tuple[int, int], ...]:
        """The per-CPU variables of a CPU that differ from those of the first: its number."""
        address = self.image.address_of("cpu_number")
        if not number or address is None:
            return ()
        cell = address & -8
        content = bytearray(self.memory.first_bytes(cell, 8))
        content[address - cell : address - cell + 4] = number.to_bytes(4, "little")
        return ((cell, int.from_bytes(content, "little")),)

    def own_at(self, place: int, address: int) -> int:
        """64 bits of the thread's own memory at a place."""
        for cell, value in self._keys[place].own:
            if cell == address:
                return value
        return int.from_bytes(self.memory.first_bytes(address, 8), "little")

    def has_interrupts(self, place: int) -> bool:
        """Whether interrupts are on at a place that is no end."""
        if self._operations[place].kind == RETURN:
            return False
        return bool(self._keys[place].registers[EFLAGS] & INTERRUPTS)

    def text(self, address: int) -> str:
        """The string at an address of the image."""
        return self._emulator.text(address)

    def sites(self, place: int) -> tuple[SourceLine, ...]:
        """Where in C a place is, innermost last; without DWARF symbol, offset and instruction."""
        site = self._operations[place].site
        return self.lines_of(site)

    def lines_of(self, site: int) -> tuple[SourceLine, ...]:
        """The same of an address."""
        found = self.lines.at(site)
        if found:
            return found
        return (SourceLine(self.image.name_of(site), self._text_of(site), 0),)

    def _text_of(self, site: int) -> str:
        instruction = self._instructions.at(site)
        if instruction.target < 0:
            return instruction.text
        return f"{instruction.mnemonic} {self.image.name_of(instruction.target)}"

    @property
    def ran(self) -> set[int]:
        """Addresses of the instructions that ran, or before which a thread stood."""
        return self._emulator.ran | {operation.site for operation in self._operations}

    @property
    def clears(self) -> bool:
        """Whether a page was cleared by instructions, not by a call that is answered."""
        return any(operation.kind == CLEAR for operation in self._operations)

    def inlined_locks(self) -> list[str]:
        """The words, without the counters, that locked instructions change."""
        cells = (one.cell for one in self._operations if one.kind == ATOMIC_STEP)
        return sorted({cell.symbol for cell in cells if cell is not None and not cell.counter})

    def take_up(self, ran: Iterable[int], called: Iterable[str], passed: Iterable[str]) -> None:
        """Instructions that ran, functions that were answered, and functions that count as nothing
        before a search was taken up."""
        self._emulator.ran.update(ran)
        self.called = dict.fromkeys([*called, *self.called])
        self.passed = dict.fromkeys([*passed, *self.passed])

    @property
    def instructions(self) -> Instructions:
        """The instructions of the image."""
        return self._instructions

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def instructions_run(self) -> int:
        """Instructions that the emulator has run in all."""
        return self._emulator.steps

    # Learning.

    def _enter(
        self, function: str, arguments: tuple[int, ...], own: Own, pages: frozenset[int]
    ) -> int:
        symbol = self.image.symbols[function]
        registers = [0] * len(REGISTERS)
        for register, value in zip(_ARGUMENTS, arguments, strict=False):
            registers[register] = value & _MASK
        registers[RSP] = STACK_TOP - 8
        registers[EFLAGS] = FIRST_FLAGS & FLAGS
        own = {**own, STACK_TOP - 8: RETURN_ADDRESS}
        self._emulator.put(symbol.address, tuple(registers), own, pages)
        return self._go_on(False)

    def _learn(self, place: int, result: Any) -> int:
        emulator = self._emulator
        key, operation = self._keys[place], self._operations[place]
        emulator.put(key.at, key.registers, dict(key.own), key.own_pages)
        if operation.kind in (STORE, WARN, FENCE, CLEAR):
            if operation.kind != STORE:
                emulator.at += self._instructions.at(key.at).size
            return self._go_on(False)
        if operation.kind == CALL:
            self._answer(operation, result)
            return self._go_on(False)
        assert operation.cell is not None
        cell = operation.cell
        emulator.write(cell.address, cell.size, result)
        if operation.kind == ATOMIC_STEP:
            emulator.step()
            now = signed(emulator.read(cell.address, cell.size), cell.size)
            check_atomic(self.image, operation, cell, result, now)
            return self._go_on(False)
        instruction = self._instructions.at(key.at)
        operand, _, _ = emulator.shared_operand(instruction)
        if operand.access == READ:
            return self._go_on(True)
        emulator.step()
        return self._stored(cell, key.at)

    def _go_on(self, skip: bool) -> int:
        """Run to the next step, and make its place."""
        emulator = self._emulator
        at = emulator.run(skip)
        cleared = -1
        while self._passed(at) or (cleared := self._cleared(at)) == _GOES_ON:
            at = emulator.run(False)
        if cleared >= 0:
            operation = Operation(CLEAR, at, arguments=(cleared,))
            return self._place(operation, at, emulator.registers(), emulator.own())
        if at == RETURN_ADDRESS:
            for address, value in sorted(emulator.own().items()):
                self.memory.note_left(address, value)
            emulator.own_pages = frozenset()
            value = emulator.registers()[RAX]  # all that the caller looks at
            odd = self._left_odd()
            operation = Operation(RETURN, emulator.last, None, odd, (value,))
            registers = (value, *[0] * (len(REGISTERS) - 2), len(odd))
            return self._place(operation, at, registers, emulator.own())
        refused = self.answered.refuses(at)
        if refused:
            raise InputError(
                f"{self.image.path_at(emulator.last)}: {self.image.name_of(emulator.last)} calls "
                f"{refused}(), which is neither in the file nor answered (docs/machine-code.md has "
                "the table)"
            )
        name = self.answered.name_at(at)
        if name:
            registers = emulator.registers()
            self.called[name] = None
            arguments = tuple(registers[n] for n in _ARGUMENTS)
            if self.answered.is_lock(at):
                self._name_lock(arguments[0])
            elif name in COUNT_AND_LOCK:
                self._check_shared(arguments[0], "count")
                self._name_lock(arguments[1])
            elif name in SEAMCALLS:
                self._check_own(arguments[1])
            depth = emulator.read(RCU_DEPTH, 8)
            atomic = sleepless(registers[EFLAGS], self._preempt_count(), depth)
            operation = Operation(CALL, emulator.last, None, name, arguments, atomic)
            return self._place(operation, at, registers, emulator.own())
        if is_nowhere(at):  # a call or a jump through NULL
            operation = Operation(OOPS, emulator.last, arguments=(at,))
            return self._place(operation, at, emulator.registers(), emulator.own())
        instruction = self._instructions.at(at)
        if instruction.is_undefined:
            bug = self.bugs.get(at)
            kind = WARN if bug is not None and bug.is_warning else BUG
            return self._place(Operation(kind, at), at, emulator.registers(), emulator.own())
        if instruction.empties_buffer:
            return self._place(Operation(FENCE, at), at, emulator.registers(), emulator.own())
        return self._access(at, instruction)

    def _left_odd(self) -> str:
        """What a function that returns has not put back; empty: nothing."""
        emulator = self._emulator
        if not emulator.registers()[EFLAGS] & INTERRUPTS:
            return "interrupts are off"
        more = self._preempt_count()
        if more:
            return f"preempt_count is {abs(more)} too {'high' if more > 0 else 'low'}"
        if emulator.read(RCU_DEPTH, 8):
            return "RCU read sections that are not closed, or closed twice,"
        return ""

    def _preempt_count(self) -> int:
        """By how much preempt_count is higher now than when the thread began."""
        count = self.image.address_of("__preempt_count")
        if count is None:
            return 0
        now, first = self._emulator.read(count, 4), self.memory.first_bytes(count, 4)
        return signed(now - int.from_bytes(first, "little"), 4)

    # What may not be.

    def _refuse(self, why: str) -> None:
        at = self._emulator.last
        raise InputError(f"{self.image.path_at(at)}: {self.image.name_of(at)}: {why}")

    def _check_shared(self, address: int, what: str) -> None:
        if self.memory.is_for_itself(address):
            self._refuse(
                f"the {what} at {self.image.name_of(address)} is another one for each thread or "
                "CPU; expected one that all share"
            )

    def _name_lock(self, address: int) -> None:
        self._check_shared(address, "lock")
        self.memory.name_lock(address, self._emulator.last)

    def _check_own(self, arguments: int) -> None:
        """The arguments of a SEAMCALL are read and written as the thread's own memory."""
        if not is_nowhere(arguments) and not self.memory.is_own(arguments, ARGUMENT_BYTES):
            self._refuse(
                f"the arguments of the SEAMCALL lie at {self.image.name_of(arguments)}, where "
                "other CPUs may write; expected them on the stack"
            )

    def _check_public(self, cell: Cell, value: int) -> None:
        """No other thread may get at what is a thread's own."""
        if cell.size == 8 and self.memory.is_for_itself(value & _MASK):
            self._refuse(
                f"{cell.symbol} gets the address of memory that is another one for each thread or "
                f"CPU ({self.image.name_of(value & _MASK)}); expected no pointer to the stack or "
                "to a per-CPU variable in shared memory"
            )

    def _passed(self, at: int) -> bool:
        """Do what stands in the table as nothing, or as a jump; True when the CPU goes on."""
        emulator = self._emulator
        where = self.answered.passes(at)
        if where is None:
            return False
        registers = emulator.registers()
        name = self.answered.passed_name(at)
        self.passed[name] = None
        if name in RCU:
            emulator.write(RCU_DEPTH, 8, emulator.read(RCU_DEPTH, 8) + RCU[name])
            emulator.note_written(RCU_DEPTH, 8)
        if where:  # a thunk: jmp *register
            emulator.at = registers[REGISTERS.index(where)]
            return True
        emulator.at = emulator.read(registers[RSP], 8)
        emulator.set_registers({RSP: registers[RSP] + 8})
        return True

    def _cleared(self, at: int) -> int:
        """Clear a line of a page, if a MOVDIR64B stands there; the page's number after the last.

        _GOES_ON after any other line; _NOT_CLEARED at another instruction and where it faults.
        """
        if at == RETURN_ADDRESS or is_nowhere(at) or self.answered.stops_at(at):
            return _NOT_CLEARED
        instruction = self._instructions.at(at)
        emulator = self._emulator
        if not instruction.clears_line or faults(emulator, instruction):
            return _NOT_CLEARED
        emulator.ran.add(at)
        emulator.last = at
        page = clear_line(emulator, instruction)
        if page < 0:
            emulator.at = at + instruction.size
            return _GOES_ON
        return page

    def _access(self, at: int, instruction: Instruction) -> int:
        emulator, image = self._emulator, self.image
        clears = instruction.clears_line  # only one that faults comes here
        fault = line_of(emulator, instruction) if clears else emulator.faults_at(instruction)
        if fault >= 0:
            operation = Operation(OOPS, at, arguments=(fault,))
            return self._place(operation, at, emulator.registers(), emulator.own())
        operand, address, size = emulator.shared_operand(instruction)
        cell = self.memory.cell(address, size, image.name_of(at), at)
        if operand.access == WRITE:
            emulator.step()
            return self._stored(cell, at)
        if operand.access == ATOMIC:
            method, arguments = atomic_step(self.image, emulator, instruction, size)
            self._check_public(cell, arguments[-1])
            operation = Operation(ATOMIC_STEP, at, cell, method, arguments)
        else:
            operation = Operation(LOAD, at, cell)
        return self._place(operation, at, emulator.registers(), emulator.own())

    def _stored(self, cell: Cell, site: int) -> int:
        """The instruction has run; its store to the word is still to be made."""
        emulator = self._emulator
        value = signed(emulator.read(cell.address, cell.size), cell.size)
        self._check_public(cell, value)
        operation = Operation(STORE, site, cell, arguments=(value,))
        return self._place(operation, emulator.at, emulator.registers(), emulator.own(), operation)

    def _place(
        self,
        operation: Operation,
        at: int,
        registers: tuple[int, ...],
        own: Own,
        pending: Operation | None = None,
    ) -> int:
        first = self.memory.first_bytes
        kept = tuple(
            sorted(
                (cell, value)
                for cell, value in own.items()
                if value != int.from_bytes(first(cell, 8), "little")
            )
        )
        key = _Key(at, registers, kept, self._emulator.own_pages, pending)
        number = self._numbers.setdefault(key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
            self._operations.append(operation)
            self._after.append({})
        return number

    def _answer(self, operation: Operation, result: Returned) -> None:
        """The call has been answered: back behind it, as the ABI leaves the registers."""
        emulator = self._emulator
        emulator.own_pages = (emulator.own_pages | {*result.taken}) - {*result.let_go}
        registers = emulator.registers()
        for address, value in result.written:
            emulator.write(address, 8, value)
            emulator.note_written(address, 8)
        at, emulator.at = emulator.at, emulator.read(registers[RSP], 8)
        value, flags = flags_after(operation, registers[EFLAGS], result.value)
        emulator.set_registers(
            {
                **dict.fromkeys(self._clobbers.of(at), 0),
                RAX: value,
                RSP: registers[RSP] + 8,
                EFLAGS: flags,
            }
        )
