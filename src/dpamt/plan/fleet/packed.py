"""Opening a CSV file of VM lives, whatever it is packed in: gzip, xz, bzip2, and tar in these.

Azure's tables come as ``.csv.gz``, Alibaba's as ``.tar.gz``.  What is of another kind is refused by
its first bytes.
"""

import bz2
import gzip
import lzma
import tarfile
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError

_OTHER_KINDS: Final = (
    (b"SQLite format 3", "an SQLite database"),
    (b"PK\x03\x04", "a zip file or a spreadsheet"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_TAR_MAGIC: Final = (257, b"ustar")
EVENT_FILES: Final = ("container_event.csv", "container_meta.csv")
"""The file of a tar that is read where there are several: Alibaba's events of containers."""


def opened(path: Path) -> Any:
    """Its bytes, unpacked.  Raises InputError for what is no CSV, OSError and others of the kinds
    for a packed file that is damaged.
    """
    stream = _unpacked(path)
    begin = stream.read(_TAR_MAGIC[0] + len(_TAR_MAGIC[1]))
    if begin[_TAR_MAGIC[0] :] == _TAR_MAGIC[1]:
        stream.close()
        return _member(path)
    for magic, kind in _OTHER_KINDS:
        if begin.lstrip(b"\xef\xbb\xbf \r\n").startswith(magic):
            stream.close()
            raise InputError(f"{path}: {kind}; expected CSV or Parquet")
    stream.seek(0)
    return stream


def _unpacked(path: Path) -> Any:
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.open(path)
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    return path.open("rb")


def _member(path: Path) -> Any:
    """The one file of a tar, or that of events."""
    try:
        archive = tarfile.open(path)  # noqa: SIM115  (what it gives out is read later)
        files = [one for one in archive if one.isfile()]
        chosen = [one for one in files if Path(one.name).name in EVENT_FILES] or files
        if len(chosen) != 1:
            names = ", ".join(one.name for one in files)[:200] or "nothing"
            raise InputError(
                f"{path}: {len(files)} files in it ({names}); expected one, or one named "
                + " or ".join(EVENT_FILES)
            )
        return archive.extractfile(chosen[0])
    except tarfile.TarError as error:
        raise InputError(f"{path}: {error}; expected a tar file that is whole") from None
