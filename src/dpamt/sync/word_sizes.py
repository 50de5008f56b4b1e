"""How many bits a word has in C: what a word of Python holds and C does not is refused.

A word here is an integer without bounds, and never wraps round.
"""

from typing import Final

FEWEST_BITS: Final = 32
"""What is shorter than this, without its sign, every word holds."""
_BITS: Final = dict.fromkeys(("host.pamt_refcounts", "host.dpamt_refcounts"), FEWEST_BITS)
"""Where it is not 64: ``atomic_t *pamt_refcounts`` (merged 5386c5288001 "x86/virt/tdx: Allocate
refcounts for Dynamic PAMT memory", 2026-09-04)."""
_WORD: Final = 64
"""An unsigned long, or an atomic64_t."""
_OF_THE_MODULE: Final = "module."
"""Begins the names of Intel's side, where a word may stand for a bitmap of any length."""


def bits_of(array: str) -> int:
    """The bits of a word of the array of that name."""
    return _BITS.get(array, _WORD)


def holds(array: str, value: int) -> bool:
    """Whether a word of the array can have that value in C: an int, or 64 bits, signed or not.

    What is the module's may have any.
    """
    if array.startswith(_OF_THE_MODULE):
        return True
    bits = bits_of(array)
    return -(1 << bits - 1) <= value < 1 << (bits if bits == _WORD else bits - 1)
