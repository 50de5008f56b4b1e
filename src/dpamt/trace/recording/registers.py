"""The eight operand registers as a line has them, taken apart when they are asked for.

A recording of ten million events has 160 million register values, and a judge looks at three of a
call's sixteen.  So a reader that has seen that a text is eight registers in their order, each a
number of 64 bits (:func:`run`), leaves it as it is.
"""

import re
from itertools import repeat
from typing import Final

from dpamt.abi.registers import REGISTER_NAMES

Registers = tuple[int, ...] | bytes
"""Eight values, or the text of a run of them."""

OUT: Final = "out_"
"""What stands before the name of a register after the call, in a line that has both."""
HEX: Final = rb"0x[0-9a-fA-F]{1,16}"
_OFTEN: Final = 3
"""RCX, RDX and R8: those that differ from call to call."""
_MOST_KEPT: Final = 1 << 12


def run(prefix: str = "") -> bytes:
    """The pattern of all registers in their order, without groups."""
    return rb" ".join(prefix.encode() + name.encode() + b"=" + HEX for name in REGISTER_NAMES)


_SPLIT: Final = re.compile(
    rb" ".join(rb"[a-z_]{0,4}" + name.encode() + rb"=(\S+)" for name in REGISTER_NAMES[:_OFTEN])
    + rb" (.*)"
).match
_VALUE: Final = re.compile(rb"=(\S+)").findall
_rest: dict[bytes, tuple[int, ...]] = {}
"""The other five, by their text: mostly the same ones again."""


def registers_in(text: bytes) -> tuple[int, ...]:
    """The values of a text that :func:`run` matches."""
    match = _SPLIT(text)
    assert match is not None
    rcx, rdx, r8, others = match.groups()
    rest = _rest.get(others)
    if rest is None:
        if len(_rest) >= _MOST_KEPT:
            _rest.clear()
        rest = _rest[others] = tuple(map(int, _VALUE(others), repeat(16)))
    return int(rcx, 16), int(rdx, 16), int(r8, 16), *rest
