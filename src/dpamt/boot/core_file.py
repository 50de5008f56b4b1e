"""The memory of a guest as a vmcore, for `drgn -c`.

An ELF core file as kdump writes it: the guest's physical memory in PT_LOAD segments, and a note
VMCOREINFO, by which a reader finds the kernel's page table.  Linux makes that note itself where it
is built for dumps (CONFIG_CRASH_DUMP); for another kernel it is made here from the symbols.  What
the guest never touched is left out.

Source: Linux Documentation/admin-guide/kdump/vmcoreinfo.rst, kernel/vmcore_info.c.
"""

import os
import re
import struct
from typing import IO, Final

from dpamt import __version__
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.stack import KernelMemory
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_NOTE: Final = struct.Struct("<III")
_ET_CORE: Final = 4
_X86_64: Final = 62
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_RWX: Final = 7
_PAGE: Final = 4096
_GAP: Final = 1 << 20
"""Untouched memory of less than this does not end a segment."""
_PIECE: Final = 1 << 20
_MOST_VMCOREINFO: Final = 1 << 16
_BANNER: Final = re.compile(rb"Linux version (\S{1,64}) ")
_SYMBOLS: Final = (
    *("init_uts_ns", "_stext", "swapper_pg_dir", "kallsyms_names", "kallsyms_num_syms"),
    *("kallsyms_token_table", "kallsyms_token_index", "kallsyms_offsets"),
    *("kallsyms_relative_base",),
)
"""What a reader asks VMCOREINFO for; by the tables of kallsyms it knows every symbol."""

NOTE_NAME: Final = b"dpamt"
"""The note that says who wrote it; its text is the version."""


def write_core(
    file: IO[bytes], memory: GuestMemory, kernel: KernelMemory, image: KernelImage
) -> int:
    """Write the guest's memory as it is; returns its bytes.  A ``file`` that can seek gets holes
    where it is zero.

    Raises InputError for a kernel whose version is not among its symbols.
    """
    notes = _note(b"VMCOREINFO", 0, _vmcoreinfo(memory, kernel, image))
    notes += _note(NOTE_NAME, 0, __version__.encode())
    stored = memory.stored(_GAP)
    position = _HEADER.size + _PROGRAM_HEADER.size * (1 + len(stored))
    headers = [_PROGRAM_HEADER.pack(_PT_NOTE, 0, position, 0, 0, *[len(notes)] * 2, 4)]
    offset = first = -(-(position + len(notes)) // _PAGE) * _PAGE
    for start, size in stored:
        headers.append(_PROGRAM_HEADER.pack(_PT_LOAD, _RWX, offset, 0, start, size, size, _PAGE))
        offset += size
    identity = b"\x7fELF\x02\x01\x01"
    file.write(
        _HEADER.pack(
            *(identity, _ET_CORE, _X86_64, 1, 0, _HEADER.size, 0, 0, _HEADER.size),
            *(_PROGRAM_HEADER.size, len(headers), 0, 0, 0),
        )
    )
    file.write(b"".join(headers) + notes + bytes(first - position - len(notes)))
    seeks, skipped = file.seekable(), 0
    for start, size in stored:
        for piece in range(start, start + size, _PIECE):
            data = memory.read(piece, min(_PIECE, start + size - piece))
            if seeks and data.count(0) == len(data):
                skipped += len(data)
                continue
            if skipped:
                file.seek(skipped, os.SEEK_CUR)
                skipped = 0
            file.write(data)
    if skipped:
        file.truncate(file.tell() + skipped)
    return sum(size for _start, size in stored)


def _note(name: bytes, kind: int, text: bytes) -> bytes:
    padded = [data + bytes(-len(data) % 4) for data in (name + b"\0", text)]
    return _NOTE.pack(len(name) + 1, len(text), kind) + b"".join(padded)


def _vmcoreinfo(memory: GuestMemory, kernel: KernelMemory, image: KernelImage) -> bytes:
    """The kernel's own, or one with what a reader needs to find its way."""
    data, size = image.symbol("vmcoreinfo_data"), image.symbol("vmcoreinfo_size")
    if data is not None and size is not None:
        pointer, length = kernel.read64(data.address), kernel.read64(size.address)
        place = None if not pointer else kernel.physical(pointer)
        if place is not None and length and length <= _MOST_VMCOREINFO:
            return memory.read(place, length)
    banner = image.symbol("linux_banner")
    found = None if banner is None else _BANNER.match(image.read(banner.address, 128))
    if found is None:
        raise InputError(f"{image.path}: no version in linux_banner; expected a Linux kernel")
    lines = [f"OSRELEASE={found[1].decode()}", f"PAGESIZE={_PAGE}", "KERNELOFFSET=0"]
    if image.build_id:
        lines.append(f"BUILD-ID={image.build_id}")
    for name in _SYMBOLS:
        symbol = image.symbol(name)
        if symbol is not None:
            lines.append(f"SYMBOL({name})={symbol.address:x}")
    top = image.symbol("init_top_pgt")
    if top is not None and image.symbol("swapper_pg_dir") is None:
        lines.append(f"SYMBOL(swapper_pg_dir)={top.address:x}")
    base = image.symbol("phys_base")
    base_value = 0 if base is None else kernel.read64(base.address) or 0
    lines += [f"NUMBER(phys_base)={base_value}", "NUMBER(pgtable_l5_enabled)=0"]
    return "\n".join(lines).encode() + b"\n"
