"""What physical memory contains, byte by byte; nothing about who owns a page."""

import struct
from typing import Final, Protocol

from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SHIFT, PAGE_SIZE
from dpamt.errors import ModelError

_QUADWORD: Final = struct.Struct("<Q")
_OFFSET_MASK: Final = PAGE_SIZE - 1
_LAST_QUADWORD: Final = PAGE_SIZE - 8
_ZERO_PAGE: Final = bytes(PAGE_SIZE)


class Memory(Protocol):
    """Physical memory as the module sees it: byte addresses without KeyID bits.

    :class:`PhysicalMemory` is the model's own; the memory of a real guest can stand in its place.
    """

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address``."""

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` from ``address`` on."""

    def read64(self, address: int) -> int:
        """The little-endian quadword at ``address``."""

    def write64(self, address: int, value: int) -> None:
        """Store a little-endian quadword at ``address``."""

    def clear_page(self, pfn: int) -> None:
        """Fill the 4 KiB page with zeros."""

    def clear_pages(self, first: int, pages: int) -> None:
        """Fill as many 4 KiB pages with zeros."""


class PhysicalMemory:
    """Sparse memory of 2^52 bytes: a page costs nothing until it is written, and reads zero.

    Every method raises ModelError for an address beyond 2^52: whoever passes one has missed a
    check that hardware makes.
    """

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    @property
    def resident_pages(self) -> int:
        """4 KiB pages that have been written and not cleared since."""
        return len(self._pages)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address``; may cross pages."""
        self._check(address, size)
        offset = address & _OFFSET_MASK
        if offset + size <= PAGE_SIZE:
            page = self._pages.get(address >> PAGE_SHIFT, _ZERO_PAGE)
            return bytes(page[offset : offset + size])
        parts = []
        end = address + size
        while address < end:
            stop = min(end, (address | _OFFSET_MASK) + 1)
            parts.append(self.read(address, stop - address))
            address = stop
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` from ``address`` on; may cross pages."""
        self._check(address, len(data))
        done = 0
        while done < len(data):
            offset = (address + done) & _OFFSET_MASK
            size = min(PAGE_SIZE - offset, len(data) - done)
            page = self._page(address + done >> PAGE_SHIFT)
            page[offset : offset + size] = data[done : done + size]
            done += size

    def read64(self, address: int) -> int:
        """The little-endian quadword at ``address``, which need not be aligned."""
        offset = address & _OFFSET_MASK
        page = self._pages.get(address >> PAGE_SHIFT)
        if page is not None and offset <= _LAST_QUADWORD:
            value: int = _QUADWORD.unpack_from(page, offset)[0]
            return value
        return int.from_bytes(self.read(address, 8), "little")

    def write64(self, address: int, value: int) -> None:
        """Store a little-endian quadword at ``address``; ModelError beyond 64 bits."""
        if not 0 <= value < 1 << 64:
            raise ModelError(f"write of {value:#x} at {address:#x}: not an unsigned 64-bit value")
        self.write(address, _QUADWORD.pack(value))

    def clear_page(self, pfn: int) -> None:
        """Fill the 4 KiB page with zeros, giving up its storage."""
        self._check(pfn << PAGE_SHIFT, PAGE_SIZE)
        self._pages.pop(pfn, None)

    def clear_pages(self, first: int, pages: int) -> None:
        """Fill as many 4 KiB pages with zeros, giving up their storage."""
        self._check(first << PAGE_SHIFT, pages * PAGE_SIZE)
        if len(self._pages) < pages:
            for pfn in [pfn for pfn in self._pages if first <= pfn < first + pages]:
                del self._pages[pfn]
        else:
            for pfn in range(first, first + pages):
                self._pages.pop(pfn, None)

    def _page(self, pfn: int) -> bytearray:
        page = self._pages.get(pfn)
        if page is None:
            page = self._pages[pfn] = bytearray(PAGE_SIZE)
        return page

    @staticmethod
    def _check(address: int, size: int) -> None:
        if address < 0 or size < 0 or address + size > MAX_PA_LIMIT:
            raise ModelError(f"access to {size} bytes at {address:#x}: outside 52-bit memory")
