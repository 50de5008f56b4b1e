"""A page cleared by MOVDIR64B: tdx_quirk_reset_paddr() where a compiler has inlined it.

The kernel gives a page back only after it was cleared, on a CPU with the partial-write erratum.  A
call of the function is answered.  gcc leaves a call; clang inlines the function, and then its
instructions run: a test of the erratum's bit in boot_cpu_data, and a loop of MOVDIR64B, each of
which writes one line of 64 bytes.

- The machine has the erratum, as Sapphire Rapids and Emerald Rapids have it.  Which bit says so
  differs between kernels.  It is looked up in the image's own tdx_quirk_reset_paddr: the bit with
  which that function comes to a MOVDIR64B.
- The lines that were cleared are bits in memory of the thread's own, so they are part of its
  place.  The last of 64 lines clears the page, as the answered call does.  A page of which a line
  is left out is not cleared.
- MOVDIR64B is not ordered with other stores.  Nobody else has the page, so nobody sees in which
  order its lines are written; that a fence stands behind the loop is assumed, and said.

Source: Linux 7.3.4 arch/x86/virt/vmx/tdx/tdx.c (tdx_quirk_reset_paddr),
arch/x86/include/asm/special_insns.h (movdir64b); Intel SDM volume 2, MOVDIR64B.
"""

from typing import Final

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.errors import InputError
from dpamt.kernel_image.elf import EXTERN_BYTES
from dpamt.kernel_image.instructions import Instruction, Instructions
from dpamt.verify.machine_code.emulator import EFLAGS, FIRST_FLAGS, REGISTERS, RSP, Emulator
from dpamt.verify.machine_code.memory import (
    CLEARED_LINES,
    MEMORY_PAGES,
    PAGE_OFFSET,
    STACK_TOP,
    ZERO_PFN,
    ImageMemory,
    is_nowhere,
)

FENCE_ASSUMED: Final = "a fence stands behind the MOVDIR64Bs that clear a page"
_LINE: Final = 64
"""Bytes that a MOVDIR64B writes."""
_LINES: Final = (1 << PAGE_SHIFT) // _LINE
_ALL: Final = (1 << _LINES) - 1
_DIRECT_MAP_END: Final = PAGE_OFFSET + (64 << 40)
"""64 TiB (Linux Documentation/arch/x86/x86_64/mm.rst)."""
_RESET: Final = "tdx_quirk_reset_paddr"
_CPU: Final = "boot_cpu_data"
_ZEROS: Final = "empty_zero_page"
_MOST: Final = 64
"""Instructions of tdx_quirk_reset_paddr that are looked at."""
_RDI, _RSI = REGISTERS.index("rdi"), REGISTERS.index("rsi")


def clear_line(emulator: Emulator, instruction: Instruction) -> int:
    """Clear the line that a MOVDIR64B is about; the page frame number where that was the last one.

    -1: lines of the page are left.  The CPU is to go on behind the instruction.
    Raises InputError where it writes no line of a page of this machine, or what is not zero.
    """
    memory = emulator.memory
    at = instruction.address
    where = f"{memory.image.path_at(at)}: {memory.image.name_of(at)}: {instruction.text}"
    line = line_of(emulator, instruction)
    if line % _LINE or not PAGE_OFFSET <= line < PAGE_OFFSET + (MEMORY_PAGES << PAGE_SHIFT):
        raise InputError(
            f"{where} writes to {memory.image.name_of(line)}; expected 64 aligned bytes of a page "
            "in the direct map"
        )
    (operand,) = instruction.memory
    source, _ = emulator.place_of(instruction, operand)
    if not _is_zeros(memory, source):
        raise InputError(
            f"{where} copies what lies at {memory.image.name_of(source)}; expected the zero page"
        )
    pfn, offset = divmod(line - PAGE_OFFSET, 1 << PAGE_SHIFT)
    cell = CLEARED_LINES + 8 * pfn
    lines = emulator.read(cell, 8) | 1 << offset // _LINE
    is_whole = lines == _ALL
    emulator.write(cell, 8, 0 if is_whole else lines)
    emulator.note_written(cell, 8)
    return pfn if is_whole else -1


def line_of(emulator: Emulator, instruction: Instruction) -> int:
    """The address that a MOVDIR64B writes to."""
    return emulator.value_of(instruction.operands[0])


def faults(emulator: Emulator, instruction: Instruction) -> bool:
    """Whether no memory can be at the address that a MOVDIR64B writes to."""
    line = line_of(emulator, instruction)
    return is_nowhere(line) or PAGE_OFFSET + (MEMORY_PAGES << PAGE_SHIFT) <= line < _DIRECT_MAP_END


def _is_zeros(memory: ImageMemory, source: int) -> bool:
    """Whether 64 bytes of a page that holds zeros and nothing else lie there."""
    zero_page = PAGE_OFFSET + (ZERO_PFN << PAGE_SHIFT)
    begin = memory.image.address_of(_ZEROS)
    places = [zero_page, *([] if begin is None else [begin])]
    return any(place <= source <= place + (1 << PAGE_SHIFT) - _LINE for place in places)


def preset_erratum(memory: ImageMemory, instructions: Instructions) -> None:
    """Set the bit of boot_cpu_data that tells of the partial-write erratum, if the image has both.

    An image in which no bit makes tdx_quirk_reset_paddr clear a page keeps what it holds.
    """
    image = memory.image
    symbol, cpu = image.symbols.get(_RESET), image.address_of(_CPU)
    if symbol is None or image.section_at(symbol.address) is None or cpu is None:
        return
    size = image.symbols[_CPU].size if _CPU in image.symbols else EXTERN_BYTES
    emulator = Emulator(memory, instructions, lambda _: False, fences=False)
    for word in _words_of_cpu(emulator, instructions, symbol.address, range(cpu, cpu + size)):
        before = int.from_bytes(memory.first_bytes(word, 8), "little")
        memory.preset(_CPU, word - cpu, before)
        for bit in range(64):
            if _comes_to_clear(emulator, instructions, symbol.address, word, before | 1 << bit):
                memory.preset(_CPU, word - cpu, before | 1 << bit)
                return
        memory.unset(_CPU)


def _words_of_cpu(
    emulator: Emulator, instructions: Instructions, begin: int, cpu: range
) -> list[int]:
    """Addresses of the 64-bit words of boot_cpu_data that the function names."""
    found: dict[int, None] = {}
    at = begin
    for _ in range(_MOST):
        instruction = instructions.at(at)
        for operand in instruction.memory:
            if not operand.base and not operand.index and not operand.segment:
                address, _ = emulator.place_of(instruction, operand)
                if address in cpu:
                    found[cpu.start + (address - cpu.start & -8)] = None
        if instruction.is_return or instruction.clears_line:
            break
        at += instruction.size
    return list(found)


def _comes_to_clear(
    emulator: Emulator, instructions: Instructions, begin: int, word: int, value: int
) -> bool:
    """Whether the function clears its page when a word of boot_cpu_data has this value."""
    registers = [0] * len(REGISTERS)
    registers[_RSI] = 1 << PAGE_SHIFT
    registers[RSP] = STACK_TOP - 8
    registers[EFLAGS] = FIRST_FLAGS
    emulator.put(begin, tuple(registers), {STACK_TOP - 8: 0}, frozenset())
    emulator.write(word, 8, value)
    try:
        at = emulator.run(False)
    except InputError:  # it does what no thread may do
        return False
    return not is_nowhere(at) and instructions.at(at).clears_line
