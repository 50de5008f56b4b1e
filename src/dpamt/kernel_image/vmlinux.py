"""A vmlinux that is to be booted: what QEMU needs of it, a copy with some of its bytes changed."""

from pathlib import Path
from typing import Final, NamedTuple

from dpamt.errors import InputError
from dpamt.kernel_image.elf import ElfImage, Symbol

_PVH_NOTE: Final = 18
"""XEN_ELFNOTE_PHYS32_ENTRY: the entry that QEMU starts a vmlinux at (Linux
include/xen/interface/elfnote.h)."""


_FILLER: Final = (b"\0", b"\xcc", b"\x90")


class _Segment(NamedTuple):
    address: int
    offset: int
    file_bytes: int


class KernelImage(ElfImage):
    """A linked vmlinux for x86-64.

    Raises InputError for a file that is not one, or that has no symbols.
    """

    extra = "boot"
    expected = "expected a vmlinux for x86-64 (a bzImage goes to --kernel)"
    kinds = ("ET_EXEC",)

    def __init__(self, path: Path) -> None:
        self._segments: list[_Segment] = []
        self.has_pvh_entry = False
        super().__init__(path)

    def _read(self) -> None:
        for part in self.elf.iter_segments():
            if part["p_type"] == "PT_LOAD":
                self._segments.append(_Segment(part["p_vaddr"], part["p_offset"], part["p_filesz"]))
            elif part["p_type"] == "PT_NOTE":
                self.has_pvh_entry |= any(
                    note["n_type"] == _PVH_NOTE and note["n_name"] == "Xen"
                    for note in part.iter_notes()
                )
        super()._read()

    def symbol(self, name: str) -> Symbol | None:
        """The symbol of that name."""
        return self.symbols.get(name)

    def is_text(self, address: int) -> bool:
        """Whether an address lies in code."""
        # By section: the code of __init functions lies in a segment of data.
        section = self.section_at(address)
        return section is not None and section.executable

    def offset_of(self, address: int) -> int:
        """Where the byte of a virtual address lies in the file; InputError when it is in none."""
        for part in self._segments:
            if part.address <= address < part.address + part.file_bytes:
                return part.offset + address - part.address
        raise InputError(f"{self.path}: no byte for address {address:#x}; expected it in the file")

    def file_bytes(self, address: int, size: int) -> bytes:
        """``size`` bytes of the file from a virtual address on, those between sections too."""
        offset = self.offset_of(address)
        return self.data[offset : offset + size]

    def code_of(self, symbol: Symbol) -> bytes:
        """The bytes of a function."""
        return self.file_bytes(symbol.address, symbol.size)

    def slack_after_text(self) -> tuple[int, int]:
        """(address, bytes) of the unused rest of the last page of code, behind ``_etext``."""
        end = self.symbol("_etext")
        if end is None:
            raise InputError(f"{self.path}: no symbol '_etext'; expected a Linux kernel")
        start = end.address + (-end.address) % 16
        limit = end.address + (-end.address) % 4096
        size = 0
        while start + size < limit and self.file_bytes(start + size, 1) in _FILLER:
            size += 1
        return start, size

    def with_changes(self, changes: dict[int, bytes]) -> bytes:
        """The file with bytes at virtual addresses replaced; all else as it was."""
        data = bytearray(self.data)
        for address, new in changes.items():
            offset = self.offset_of(address)
            data[offset : offset + len(new)] = new
        return bytes(data)
