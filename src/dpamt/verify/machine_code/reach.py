"""Which code of an image may run, ran, and never did."""

from collections.abc import Iterable
from typing import Final

from dpamt.kernel_image.elf import Symbol, plain_name
from dpamt.kernel_image.patch_sites import patch_sites_of
from dpamt.verify.machine_code.places import Places

_NEAR: Final = 8
"""Instructions between the address of a lock and the call that takes it, at most."""
Code = list[tuple[str, bytes]]
"""Names and bytes."""


def executed(places: Places) -> Code:
    """Each instruction that ran, named by the symbol and offset where it lies."""
    image, instructions = places.image, places.instructions
    return [
        (image.name_of(at), image.read(at, instructions.at(at).size)) for at in sorted(places.ran)
    ]


def may_run(places: Places, roots: Iterable[str]) -> Code:
    """Functions, and all that they call or jump to by name and that is not answered."""
    image = places.image
    return sorted(
        (symbol.name, image.read(symbol.address, symbol.size))
        for symbol in _functions(places, roots)
    )


def is_taken_by_call(places: Places, roots: Iterable[str], lock: str) -> bool:
    """Whether functions, and what they call, take a lock of that name by a call that is answered.

    So it is seen: its address is loaded, and not far behind it stands the call.
    """
    address = places.image.address_of(lock)
    if address is None:
        return False
    for symbol in _functions(places, roots):
        near = 0
        at = symbol.address
        while at < symbol.address + symbol.size:
            instruction = places.instructions.at(at)
            at += instruction.size
            if instruction.target >= 0:
                if near and places.answered.is_lock(instruction.target):
                    return True
            elif instruction.names(address):
                near = _NEAR
            near = max(0, near - 1)
    return False


def _functions(places: Places, roots: Iterable[str]) -> Iterable[Symbol]:
    """Functions, and all that they call or jump to by name and that is not answered."""
    image, instructions = places.image, places.instructions
    found: dict[int, Symbol] = {}
    pending = [image.symbols[name] for name in roots if name in image.symbols]
    while pending:
        symbol = pending.pop()
        section = image.section_at(symbol.address)
        if section is None or not section.executable or symbol.address in found:
            continue
        if places.answered.stops_at(symbol.address):
            continue
        found[symbol.address] = symbol
        at = symbol.address
        while at < symbol.address + symbol.size:
            instruction = instructions.at(at)
            target, offset = image.symbol_at(instruction.target)
            if instruction.target >= 0 and target is not None and not offset:
                pending.append(target)
            at += instruction.size
    return found.values()


def never_ran(places: Places) -> list[list[int]]:
    """Runs of instructions that no thread came to, in functions of which some ran."""
    ran, instructions = places.ran, places.instructions
    functions: dict[int, Symbol] = {}
    for address in ran:
        symbol, _ = places.image.symbol_at(address)
        if symbol is not None and symbol.is_function:
            functions[symbol.address] = symbol
    left: list[list[int]] = []
    for begin, symbol in sorted(functions.items()):
        at, goes_on = begin, False
        while at < begin + symbol.size:
            instruction = instructions.at(at)
            if at in ran:
                goes_on = False
            elif not instruction.is_filler:
                if not goes_on:
                    left.append([])
                left[-1].append(at)
                goes_on = True
            at += instruction.size
    return left


def patched(places: Places) -> list[str]:
    """Places that ran and that a boot may patch: ALTERNATIVEs, static keys, static calls."""
    calls = [
        f"static call {symbol.name}"
        for symbol in places.image.symbols.values()
        if plain_name(symbol.name).startswith("__SCT__") and symbol.address in places.ran
    ]
    return calls + [
        f"{what} at {places.image.name_of(address)}"
        for address, what in sorted(patch_sites_of(places.image).items())
        if address in places.ran
    ]
