"""Locked instructions as methods of a word, and the check that both do the same."""

from dpamt.errors import InputError, ModelError
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.instructions import Instruction
from dpamt.sync import Word
from dpamt.verify.machine_code.emulator import RAX, Emulator
from dpamt.verify.machine_code.memory import Cell, signed
from dpamt.verify.machine_code.operations import Operation


def atomic_step(
    image: ElfImage, emulator: Emulator, instruction: Instruction, size: int
) -> tuple[str, tuple[int, ...]]:
    """The method of a word that a locked instruction is, and its arguments."""
    mnemonic = instruction.mnemonic
    values = [
        None if kind == "mem" else signed(emulator.value_of((kind, value)), size)
        for kind, value in instruction.operands
    ]
    given = next((value for value in reversed(values) if value is not None), 0)
    if mnemonic == "inc":
        return "fetch_add", (1,)
    if mnemonic == "dec":
        return "fetch_add", (-1,)
    if mnemonic in ("add", "xadd"):
        return "fetch_add", (given,)
    if mnemonic == "sub":
        return "fetch_add", (-given,)
    if mnemonic == "xchg":
        return "xchg", (given,)
    if mnemonic == "cmpxchg":
        return "cmpxchg", (signed(emulator.registers()[RAX], size), given)
    if mnemonic == "or":
        return "set_bits", (given,)
    if mnemonic == "and":
        return "clear_bits", (~given,)
    if mnemonic in ("bts", "btr"):
        method = "set_bits" if mnemonic == "bts" else "clear_bits"
        return method, (signed(1 << given % (8 * size), size),)
    raise InputError(
        f"{image.path}: {image.name_of(instruction.address)}: {instruction.text}: "
        "this atomic instruction is in no table (docs/machine-code.md)"
    )


def check_atomic(image: ElfImage, operation: Operation, cell: Cell, before: int, now: int) -> None:
    """The instruction has done to the word what the word's method does."""
    word = Word()
    word.store(before)
    getattr(word, operation.method)(*operation.arguments)
    if now != signed(word.load(), cell.size):
        raise ModelError(
            f"{image.name_of(operation.site)}: {operation.method}{operation.arguments} of "
            f"{before} is {now} on the CPU and {word.load()} here"
        )
    if word.load() != now:
        raise InputError(
            f"{image.path}: {image.name_of(operation.site)}: {cell.symbol} passes what "
            f"{cell.size} bytes hold"
        )
