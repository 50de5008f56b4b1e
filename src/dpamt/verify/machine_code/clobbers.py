"""Which registers a function of the image may change, besides what the ABI lets every one change.

A call that is answered leaves the caller-saved registers as nothing.  But a compiler that sees the
body of a function keeps values in those that it does not touch (gcc's -fipa-ra): so where the body
is in the image, they stay.  A body that calls what nobody sees may change them all.
"""

from typing import Final

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.instructions import Instructions
from dpamt.verify.machine_code.emulator import CALLER_SAVED, REGISTERS

_ALL: Final = frozenset(CALLER_SAVED)
_LONGEST: Final = 4096
"""Bytes of a function that is looked at."""


class Clobbers:
    """By address of a function: the caller-saved registers that it may change."""

    def __init__(self, image: ElfImage, instructions: Instructions) -> None:
        self._image = image
        self._instructions = instructions
        self._known: dict[int, frozenset[int]] = {}

    def of(self, address: int) -> frozenset[int]:
        """Their numbers; all of them where the function is not seen whole."""
        known = self._known.get(address)
        if known is None:
            self._known[address] = _ALL  # of one that calls itself
            known = self._known[address] = self._look(address)
        return known

    def _look(self, address: int) -> frozenset[int]:
        symbol, offset = self._image.symbol_at(address)
        section = self._image.section_at(address)
        is_seen = symbol is not None and not offset and 0 < symbol.size <= _LONGEST
        if symbol is None or not is_seen or section is None or not section.executable:
            return _ALL
        changed: set[int] = set()
        targets: dict[int, None] = {}
        at, end = address, address + symbol.size
        while at < end:
            try:
                instruction = self._instructions.at(at)
            except InputError:
                return _ALL
            leaves = instruction.is_jump and not address <= instruction.target < end
            if leaves or instruction.is_call:
                if instruction.target < 0:
                    return _ALL
                targets[instruction.target] = None
            changed |= {REGISTERS.index(name) for name in instruction.changed}
            at += instruction.size
        for target in targets:
            if changed >= _ALL:  # most functions: it spares decoding what they call
                break
            changed |= self.of(target)
        return frozenset(changed) & _ALL
