"""What the user gives QEMU to boot, looked at before a machine starts: bzImage and RAM disk.

QEMU says of a file that it cannot use what it made of it, or the guest is silent until its time is
over.
"""

from pathlib import Path
from typing import Final

from dpamt.errors import InputError
from dpamt.inputs import read_bytes

_HEADER_AT: Final = 0x202
_HEADER: Final = b"HdrS"
"""Linux, Documentation/arch/x86/boot.rst, field ``header``."""

_MOST_ZEROS: Final = 4096
_RAM_DISKS: Final = {
    b"070701": "cpio",
    b"070702": "cpio with checksums",
    b"\x1f\x8b": "gzip",
    b"\x1f\x9e": "gzip",
    b"BZ": "bzip2",
    b"\x5d\x00": "lzma",
    b"\xfd7": "xz",
    b"\x89L": "lzo",
    b"\x02\x21": "lz4",
    b"\x28\xb5": "zstd",
}
"""How a RAM disk begins: Linux, init/initramfs.c, ``do_header``, and lib/decompress.c,
``compressed_formats``.  Zero bytes before it are skipped there."""


def bzimage(name: str) -> Path:
    """The path of a bzImage.  Raises InputError for another file, or one that cannot be read."""
    expected = "expected a bzImage (arch/x86/boot/bzImage)"
    end = _HEADER_AT + len(_HEADER)
    if read_bytes(name, expected, end)[_HEADER_AT:] != _HEADER:
        raise InputError(f"{name}: no {_HEADER.decode()} at {_HEADER_AT:#x}; {expected}")
    return Path(name)


def initrd(name: str) -> Path:
    """The path of an initial RAM disk.

    Raises InputError for a file that Linux would not take, or one that cannot be read.
    """
    expected = "expected an initial RAM disk (cpio, or one packed by gzip, xz, zstd, ...)"
    begin = read_bytes(name, expected, _MOST_ZEROS)
    if not begin.lstrip(b"\0").startswith(tuple(_RAM_DISKS)):
        what = "is empty" if not begin else "begins as none"
        raise InputError(f"{name}: {what}; {expected}")
    return Path(name)
