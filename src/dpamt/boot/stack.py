"""Kernel stacks read from guest memory: return addresses, by the code that they point behind.

The kernel is built without frame pointers, so a stack is scanned: a word counts as a return address
when it points into code right behind a call.  Leftovers of earlier calls can be among them.
"""

import struct
from collections.abc import Callable
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE
from dpamt.boot.guest_memory import GuestMemory, NoSuchMemory
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage

_KERNEL_MAP: Final = 0xFFFF_FFFF_8000_0000
"""Where the image is mapped: __START_KERNEL_map (Linux arch/x86/include/asm/page_64_types.h)."""
_TOP_TABLE: Final = "init_top_pgt"
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_PRESENT: Final = 1
_LARGE: Final = 1 << 7
_SCANNED: Final = 2048
_NEAR_CALL: Final = 0xE8
_INDIRECT_CALL: Final = 0xFF
_BEFORE: Final = 7
"""Bytes of the longest call that is looked for."""


class KernelMemory:
    """Reads kernel-virtual addresses of a guest, by the kernel's own page table (4 levels)."""

    def __init__(self, memory: GuestMemory, image: KernelImage) -> None:
        self._memory = memory
        top = image.symbol(_TOP_TABLE)
        self._top = top.address - _KERNEL_MAP if top is not None else -1
        self._known: dict[int, int] = {}

    def physical(self, address: int) -> int | None:
        """The guest-physical address; None where nothing is mapped."""
        page = address >> PAGE_SHIFT
        found = self._known.get(page)
        if found is None:
            found = self._walk(address)
            if found is None:
                return None
            self._known[page] = found
        return found | address & PAGE_SIZE - 1

    def _walk(self, address: int) -> int | None:
        table = self._top
        if table < 0:
            return None
        for shift in (39, 30, 21, 12):
            try:
                entry = self._memory.read64(table + (address >> shift & 511) * 8)
            except NoSuchMemory:
                return None
            if not entry & _PRESENT:
                return None
            table = entry & _ADDRESS
            if shift == PAGE_SHIFT or entry & _LARGE:
                inside = address & (1 << shift) - 1
                return (table >> shift << shift | inside) & -PAGE_SIZE
        return None

    def read64(self, address: int) -> int | None:
        """The quadword there; None where nothing is mapped."""
        place = self.physical(address)
        if place is None:
            return None
        try:
            return self._memory.read64(place)
        except NoSuchMemory:
            return None


def callers(
    kernel: KernelMemory,
    image: KernelImage,
    stack: int,
    most: int,
    is_module: Callable[[int], bool] = lambda _: False,
) -> list[int]:
    """Return addresses from ``stack`` (a value of RSP) on, innermost first.

    ``is_module`` says of an address whether it lies in the code of a module.
    """
    found: list[int] = []
    for offset in range(0, _SCANNED, 8):
        word = kernel.read64(stack + offset)
        if word is None:
            break
        if (image.is_text(word) and _is_behind_call(image, word)) or (
            is_module(word) and _is_behind_call_there(kernel, word)
        ):
            found.append(word)
            if len(found) == most:
                break
    return found


def _is_behind_call(image: KernelImage, address: int) -> bool:
    try:
        before = image.file_bytes(address - _BEFORE, _BEFORE)
    except InputError:
        return False
    if before[2] == _NEAR_CALL:
        target = address + struct.unpack_from("<i", before, 3)[0]
        return image.is_text(target)
    return _is_indirect(before)


def _is_behind_call_there(kernel: KernelMemory, address: int) -> bool:
    """As the guest has its code: a module's file is not relocated."""
    words = [kernel.read64(address - _BEFORE & -8), kernel.read64((address - _BEFORE & -8) + 8)]
    if None in words:
        return False
    data = b"".join(word.to_bytes(8, "little") for word in words if word is not None)
    before = data[(address - _BEFORE) % 8 :][:_BEFORE]
    return before[2] == _NEAR_CALL or _is_indirect(before)


def _is_indirect(before: bytes) -> bool:
    return _INDIRECT_CALL in (before[5], before[4], before[1])
