"""Addresses as function names, by what /proc/kallsyms says: perf and trace-cmd write a caller as an
address.

    ffffffff8105e8f3 t tdx_alloc_control_page [module]
"""

import re
from bisect import bisect_right
from typing import Final

from dpamt.errors import InputError
from dpamt.inputs import opened

_LINE: Final = re.compile(rb"([0-9a-f]{8,16}) [A-Za-z] (\S{1,300})(?:\t\[\S{1,100}\])?$")
_RAW: Final = re.compile(rb"[0-9a-f]{8,16}$")
_CODE: Final = b"tTwW"
_MOST_KEPT: Final = 1 << 14
_FARTHEST: Final = 1 << 20
"""Bytes behind a function's beginning that still count as its own."""


class Symbols:
    """Functions of a kernel by address.

    Raises InputError for a file that is not /proc/kallsyms, or whose addresses were hidden.
    """

    def __init__(self, path: str) -> None:
        expected = "expected a copy of /proc/kallsyms, read as root"
        found: list[tuple[int, bytes]] = []
        with opened(path, expected) as file:
            for number, line in enumerate(file, 1):
                match = _LINE.match(line.rstrip(b"\n"))
                if match is None:
                    raise InputError(f"{path}:{number}: no symbol; {expected}")
                if line[match.end(1) + 1] in _CODE:
                    found.append((int(match[1], 16), match[2]))
        found.sort()
        if not found or not found[-1][0]:
            raise InputError(f"{path}: no function with an address; {expected}")
        self._starts = [start for start, _name in found]
        self._names = [name for _start, name in found]
        self._known: dict[bytes, bytes] = {}

    def named(self, caller: bytes) -> bytes:
        """An address as function and offset; every other text as it is."""
        known = self._known.get(caller)
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[caller] = self._look_up(caller)
        return known

    def _look_up(self, caller: bytes) -> bytes:
        if _RAW.match(caller) is None:
            return caller
        address = int(caller, 16)
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address - self._starts[at] >= _FARTHEST:
            return caller
        return b"%s+%#x" % (self._names[at], address - self._starts[at])
