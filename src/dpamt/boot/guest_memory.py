"""The memory of a guest, as the module sees physical memory: a file that QEMU has mapped too.

The machine q35 puts what does not fit below its PCI hole from 4 GiB on.
"""

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.errors import Finding

FOUR_GIB: Final = 1 << 32
_HOLE_IF_LARGE: Final = 0x8000_0000
_HOLE_IF_SMALL: Final = 0xB000_0000
"""Where RAM below 4 GiB ends on q35 (QEMU hw/i386/pc_q35.c, pc_q35_init)."""
_QUADWORD: Final = struct.Struct("<Q")
_ZERO_PAGE: Final = bytes(PAGE_SIZE)
_DWORD: Final = struct.Struct("<I")
MOST_MISSED: Final = 16


def low_memory(size: int) -> int:
    """Bytes of a guest's memory of ``size`` bytes that lie below 4 GiB."""
    return min(size, _HOLE_IF_LARGE if size >= _HOLE_IF_SMALL else _HOLE_IF_SMALL)


class NoSuchMemory(Finding):
    """The kernel handed the module an address where the guest has no memory."""


class _Piece(NamedTuple):
    """``length`` bytes of guest memory from ``start`` on: ``mapped`` from ``offset`` on."""

    start: int
    length: int
    mapped: mmap.mmap
    offset: int


class GuestMemory:
    """Guest-physical memory; implements ``Memory``.  ``files``: (path, bytes) by NUMA node.

    An address without memory behind it raises NoSuchMemory: a real machine would read ones there
    and lose writes, a kernel never means to.
    """

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        size = sum(file_bytes for _, file_bytes in files)
        low = low_memory(size)
        self._pieces: list[_Piece] = []
        self._files: dict[mmap.mmap, int] = {}
        position = 0
        for path, file_bytes in files:
            with path.open("r+b") as file:
                mapped = mmap.mmap(file.fileno(), file_bytes)
                self._files[mapped] = os.dup(file.fileno())
            # A node's memory may lie on both sides of the hole.
            below = min(max(low - position, 0), file_bytes)
            if below:
                self._pieces.append(_Piece(position, below, mapped, 0))
            if below < file_bytes:
                start = FOUR_GIB + position + below - low
                self._pieces.append(_Piece(start, file_bytes - below, mapped, below))
            position += file_bytes
        self._maps = {piece.mapped for piece in self._pieces}
        self._windows: list[memoryview] = []

    def words(self, address: int, size: int) -> memoryview:
        """The 32-bit words of a stretch of memory, until :meth:`close`; each is read and written at
        once, as another CPU has to see it."""
        mapped, offset = self._find(address, size)
        window = memoryview(mapped)[offset : offset + size].cast("I")
        self._windows.append(window)
        return window

    def stored(self, gap: int) -> list[tuple[int, int]]:
        """(address, bytes) of what was ever touched, ascending; less than ``gap`` untouched bytes
        between belong to it.  The rest is zero."""
        found: list[tuple[int, int]] = []
        for start, length, mapped, offset in self._pieces:
            at, end = offset, offset + length
            while at < end:
                try:
                    first = min(os.lseek(self._files[mapped], at, os.SEEK_DATA), end)
                except OSError:  # ENXIO: nothing more
                    break
                if first == end:
                    break
                at = min(os.lseek(self._files[mapped], first, os.SEEK_HOLE), end)
                address, size = start + first - offset, at - first
                if found and found[-1][0] >= start and address - sum(found[-1]) < gap:
                    before = found.pop()[0]
                    address, size = before, address + size - before
                found.append((address, size))
        return found

    def close(self) -> None:
        """Give the mappings back."""
        for window in self._windows:
            window.release()
        for mapped in self._maps:
            mapped.close()
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _find(self, address: int, size: int) -> tuple[mmap.mmap, int]:
        for start, length, mapped, offset in self._pieces:
            if start <= address and address + size <= start + length:
                return mapped, address - start + offset
        raise NoSuchMemory(f"no memory at {address:#x} ({size} bytes) in the guest")

    def has(self, address: int, size: int) -> bool:
        """Whether all of these bytes are memory."""
        try:
            self._find(address, size)
        except NoSuchMemory:
            return False
        return True

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address``."""
        mapped, offset = self._find(address, size)
        return mapped[offset : offset + size]

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` from ``address`` on."""
        mapped, offset = self._find(address, len(data))
        mapped[offset : offset + len(data)] = data

    def read64(self, address: int) -> int:
        """The little-endian quadword at ``address``."""
        value: int = _QUADWORD.unpack_from(*self._find(address, 8))[0]
        return value

    def write64(self, address: int, value: int) -> None:
        """Store a little-endian quadword at ``address``."""
        _QUADWORD.pack_into(*self._find(address, 8), value)

    def read32(self, address: int) -> int:
        """The little-endian doubleword at ``address``, read at once."""
        value: int = _DWORD.unpack_from(*self._find(address, 4))[0]
        return value

    def write32(self, address: int, value: int) -> None:
        """Store a little-endian doubleword at ``address`` at once."""
        _DWORD.pack_into(*self._find(address, 4), value)

    def clear_page(self, pfn: int) -> None:
        """Fill the 4 KiB page with zeros."""
        self.clear_pages(pfn, 1)

    def clear_pages(self, first: int, pages: int) -> None:
        """Fill as many 4 KiB pages with zeros."""
        for pfn in range(first, first + pages):
            mapped, offset = self._find(pfn << PAGE_SHIFT, PAGE_SIZE)
            if mapped[offset : offset + PAGE_SIZE] != _ZERO_PAGE:  # keeps untouched memory sparse
                mapped[offset : offset + PAGE_SIZE] = _ZERO_PAGE


class Bus:
    """:class:`GuestMemory` as a processor reaches it; implements ``Memory``.

    Where there is no memory, reads give ones and writes are lost, and ``missed`` says where that
    was: the module has to go on and give its locks back, whatever pointer a guest hands it.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self.missed: list[int] = []
        """Addresses without memory since somebody emptied it; at most :data:`MOST_MISSED`."""

    def _miss(self, address: int) -> None:
        if len(self.missed) < MOST_MISSED:
            self.missed.append(address)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address``."""
        try:
            return self._memory.read(address, size)
        except NoSuchMemory:
            self._miss(address)
            return b"\xff" * size

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` from ``address`` on."""
        try:
            self._memory.write(address, data)
        except NoSuchMemory:
            self._miss(address)

    def read64(self, address: int) -> int:
        """The little-endian quadword at ``address``."""
        return int.from_bytes(self.read(address, 8), "little")

    def write64(self, address: int, value: int) -> None:
        """Store a little-endian quadword at ``address``."""
        self.write(address, _QUADWORD.pack(value))

    def clear_page(self, pfn: int) -> None:
        """Fill the 4 KiB page with zeros."""
        self.write(pfn << PAGE_SHIFT, _ZERO_PAGE)

    def clear_pages(self, first: int, pages: int) -> None:
        """Fill as many 4 KiB pages with zeros."""
        try:
            self._memory.clear_pages(first, pages)
        except NoSuchMemory:
            self._miss(first << PAGE_SHIFT)
