"""Which files dpamt wrote, by what stands in them: no other is replaced without ``--force``.

Every kind carries the key ``dpamt``, with the version that wrote it, where its readers expect such
a thing.  A file that is not whole, or was turned into something else, is not dpamt's.
"""

import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any, Final

from dpamt import __version__

_KEY: Final = "dpamt"

STAMP: Final = {_KEY: __version__}
"""What says it in JSON and in tables: the key and its value."""

GENERATOR: Final = f'<meta name="generator" content="dpamt {__version__}">'
"""What says it in a page."""

KINDS: Final = {
    "certificate": "a verdict that dpamt verify wrote",
    "trace": "a trace that dpamt wrote",
    "recording": "a recording that dpamt boot wrote",
    "page": "a page that dpamt wrote",
    "checkpoint": "a search that dpamt verify keeps",
    "table": "a table that dpamt wrote",
    "sarif": "a SARIF log that dpamt verify wrote",
    "junit": "a JUnit report that dpamt verify wrote",
    "core": "a core that dpamt boot wrote",
}
"""Kind to what a refusal calls it."""

_HEAD_BYTES: Final = 4096
_GENERATOR: Final = re.compile(rb'<meta name="generator" content="dpamt [\w.+-]+">')


def kind_of(path: str) -> str | None:
    """The kind of a file that dpamt wrote; None for any other file, and for half a one."""
    for kind, is_one in _READERS.items():
        try:
            with open(path, "rb") as file:
                head = file.read(_HEAD_BYTES)
                file.seek(0)
                if is_one(head, file):
                    return kind
        except _NOT_WHOLE:
            continue
    return None


_NOT_WHOLE: Final = (
    *(OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError),
    *(zipfile.BadZipFile, NotImplementedError, struct.error),
)
"""What reading raises where a file is of another kind than its first bytes say."""


def _has(found: Any, *keys: str) -> bool:
    return isinstance(found, dict) and all(key in found for key in keys)


def _document(head: bytes, file: IO[bytes]) -> Any:
    """A JSON document with the key near its beginning; None for anything else."""
    if not head.startswith(b"{") or f'"{_KEY}"'.encode() not in head:
        return None
    return json.load(file)


def _is_certificate(head: bytes, file: IO[bytes]) -> bool:
    return _has(_document(head, file), _KEY, "format", "designs")


def _is_trace(head: bytes, file: IO[bytes]) -> bool:
    found = _document(head, file)
    return _has(found, "traceEvents") and _has(found["otherData"], _KEY)


def _is_recording(head: bytes, file: IO[bytes]) -> bool:
    line = head.partition(b"\n")[0]
    if not line.startswith(b"{") or not _has(json.loads(line), _KEY, "vmlinux"):
        return False
    for line in file:
        json.loads(line)
    return line.endswith(b"\n")


def _is_page(head: bytes, file: IO[bytes]) -> bool:
    if not head.startswith(b"<!doctype html>") or not _GENERATOR.search(head):
        return False
    file.seek(-min(64, os.fstat(file.fileno()).st_size), os.SEEK_END)
    return file.read().rstrip().endswith(b"</html>")


def _is_checkpoint(head: bytes, file: IO[bytes]) -> bool:
    if not head.startswith(b"PK"):
        return False
    with zipfile.ZipFile(file) as archive:
        return _has(json.loads(archive.read("search.json")), _KEY, "asked")


def _is_table(head: bytes, file: IO[bytes]) -> bool:
    """Apache Parquet: the footer, its length and the magic number stand at the end."""
    if not head.startswith(b"PAR1"):
        return False
    size = os.fstat(file.fileno()).st_size
    file.seek(-8, os.SEEK_END)
    length = int.from_bytes(file.read(4), "little")
    if file.read() != b"PAR1" or not 0 < length <= size - 12:
        return False
    file.seek(size - 8 - length)
    return _KEY.encode() in file.read(length)


def _is_core(head: bytes, file: IO[bytes]) -> bool:
    """An ELF core file: notes come first, and the last segment has to be there whole."""
    if not head.startswith(b"\x7fELF\x02\x01\x01") or head[16:18] != b"\x04\0":
        return False
    first, size, count = int.from_bytes(head[32:40], "little"), *struct.unpack_from("<HH", head, 54)
    file.seek(first)
    headers = [struct.unpack("<IIQQQQQQ", file.read(size)) for _ in range(count)]
    file.seek(headers[0][2])
    end = os.fstat(file.fileno()).st_size
    return f"{_KEY}\0".encode() in file.read(min(headers[0][5], _HEAD_BYTES * 4)) and all(
        offset + stored <= end for _, _, offset, _, _, stored, _, _ in headers
    )


def _is_sarif(head: bytes, file: IO[bytes]) -> bool:
    found = _document(head, file)
    return _has(found, "version", "runs") and found["runs"][0]["tool"]["driver"]["name"] == _KEY


def _is_junit(head: bytes, file: IO[bytes]) -> bool:
    if not head.startswith(b"<?xml") or b'<testsuites name="dpamt verify"' not in head:
        return False
    file.seek(-min(64, os.fstat(file.fileno()).st_size), os.SEEK_END)
    return file.read().rstrip().endswith(b"</testsuites>")


_READERS: Final[dict[str, Callable[[bytes, IO[bytes]], bool]]] = {
    "certificate": _is_certificate,
    "trace": _is_trace,
    "recording": _is_recording,
    "page": _is_page,
    "checkpoint": _is_checkpoint,
    "table": _is_table,
    "sarif": _is_sarif,
    "junit": _is_junit,
    "core": _is_core,
}
