"""From the bytes of a file that somebody sends to text: compression, encodings, nothing else.

Kernel logs arrive as gz or xz (``/var/log/kern.log.2.gz``, ``journalctl | xz``), with a byte order
mark of an editor, as UTF-16 of a Windows terminal, or with single Latin-1 bytes in device names.
"""

import bz2
import gzip
import lzma
import zlib
from io import BytesIO
from typing import Final

from dpamt.errors import InputError
from dpamt.platform.lines import decode

MAX_TEXT_BYTES: Final = 64 << 20
"""Of a file, and of what a compressed one unpacks to."""

_GZIP: Final = b"\x1f\x8b"
_XZ: Final = b"\xfd7zXZ\x00"
_BZIP2: Final = b"BZh"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_UTF16: Final = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
COMPRESSED: Final = (_GZIP, _XZ, _BZIP2, _ZSTD)
"""How compressed files begin."""


def text_of(data: bytes, source: str) -> str:
    """The text of a file, unpacked and decoded.

    UTF-8 with or without a byte order mark, UTF-16 with one; bytes that are not UTF-8 are read as
    Latin-1, line by line, so that one odd device name does not spoil the rest.  Raises InputError
    for an empty file, for a packed file that is damaged or unpacks to more than 64 MiB, and for
    one with zero bytes.
    """
    data = _unpacked(data, source)
    for mark, encoding in _UTF16:
        if data.startswith(mark):
            try:
                data = data[len(mark) :].decode(encoding).encode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{source}:1: found bytes that are not UTF-16 at offset {error.start}; "
                    "expected UTF-16 after its byte order mark"
                ) from None
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        data = b"\n".join(map(_as_utf8, data.split(b"\n")))
    return decode(data, source)


def _as_utf8(line: bytes) -> bytes:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1").encode("utf-8")
    return line


def _unpacked(data: bytes, source: str) -> bytes:
    if data.startswith(_ZSTD):
        raise InputError(
            f"{source}:1: found a zstd file; expected text, gz, xz or bz2 (zstd -dc FILE | ...)"
        )
    try:
        if data.startswith(_GZIP):
            return _bounded(gzip.GzipFile(fileobj=BytesIO(data)), source)
        if data.startswith(_XZ):
            return _bounded(lzma.LZMAFile(BytesIO(data)), source)
        if data.startswith(_BZIP2):
            return _bounded(bz2.BZ2File(BytesIO(data)), source)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(
            f"{source}:1: found a compressed file that cannot be unpacked ({error}); expected a "
            "whole one"
        ) from None
    return data


def _bounded(file: gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File, source: str) -> bytes:
    with file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise InputError(
            f"{source}: unpacks to more than {MAX_TEXT_BYTES >> 20} MiB; expected a log"
        )
    return data
