"""pyelftools on a mapped file: debug sections are looked at where they lie, and not copied.

The debug information of a vmlinux takes most of a gigabyte, and a verdict needs the lines of a few
functions.
"""

import mmap
from io import BytesIO
from typing import IO, Any, cast

from elftools.dwarf.dwarfinfo import DebugSectionDescriptor
from elftools.elf.elffile import ELFFile


class Window:
    """A part of a mapped file, as a stream that can only be read."""

    def __init__(self, data: mmap.mmap, offset: int, size: int) -> None:
        self._data, self._offset, self._size = data, offset, size
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most ``size``."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        begin, self._at = self._at, max(self._at, end)
        return self._data[self._offset + begin : self._offset + end] if end > begin else b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the part."""
        base = (0, self._at, self._size)[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """The place in the part."""
        return self._at

    def close(self) -> None:
        """Nothing to do: the file is somebody else's."""


class MappedElf(ELFFile):
    """An ELF file whose debug sections are windows where nothing has to be done to them."""

    def __init__(self, data: mmap.mmap) -> None:
        self._mapped = data
        self.debug_bytes: dict[str, bytes] = {}
        """Debug sections of an object, relocated."""
        super().__init__(cast(IO[bytes], Window(data, 0, len(data))))

    def _read_dwarf_section(self, section: Any, relocate_dwarf_sections: bool) -> Any:
        relocated = self.debug_bytes.get(section.name)
        if section.compressed or section.name.startswith(".z"):
            return super()._read_dwarf_section(section, relocate_dwarf_sections)
        if relocated is not None:
            stream: Any = BytesIO(relocated)
        else:
            stream = Window(self._mapped, section["sh_offset"], section["sh_size"])
        return DebugSectionDescriptor(
            stream=stream,
            name=section.name,
            global_offset=section["sh_offset"],
            size=section["sh_size"],
            address=section["sh_addr"],
        )
