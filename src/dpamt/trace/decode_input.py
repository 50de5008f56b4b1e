"""A number or a name that somebody wants explained, as they wrote it."""

import re
from typing import Final

from dpamt.abi.registers import U64_MASK
from dpamt.errors import InputError
from dpamt.trace.decode import named

_HEX: Final = re.compile(r"0x[0-9a-f_]+", re.IGNORECASE)
_BARE_HEX: Final = re.compile(r"(?=.*[a-f])[0-9a-f]{9,16}", re.IGNORECASE)
_SHOWN: Final = 60


def read_value(text: str) -> tuple[str | None, int]:
    """(kind, number): the kind is known of a name only.

    Numbers are hexadecimal with 0x, or decimal; hexadecimal without 0x where it can be nothing
    else.  Raises InputError for what is neither a number of 64 bits nor a name.
    """
    kind = None
    digits = text.strip()
    if _HEX.fullmatch(digits) and digits[2:].strip("_"):
        value = int(digits[2:].replace("_", ""), 16)
    elif digits.isascii() and digits.isdigit() and len(digits) <= _SHOWN:
        value = int(digits)
    elif _BARE_HEX.fullmatch(digits):
        value = int(digits, 16)
    else:
        found = named(digits)
        if found is None:
            raise InputError(
                f"decode: {text[:_SHOWN]!r}; expected a number (0x22, 34) or the name of a "
                "status, leaf, operand, field or exit reason"
            )
        kind, value = found
    if value > U64_MASK:
        raise InputError(f"decode: {text[:_SHOWN]!r}; expected a number of at most 64 bits")
    return kind, value
