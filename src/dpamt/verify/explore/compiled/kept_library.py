"""Where the compiled loop is kept between runs, and what becomes of older ones.

Two runs may build, load and sweep at the same time, so nothing here waits for another:

- a library is made in a folder of its own and takes its place by one rename;
- a library that is loaded may lose its name, for the system keeps the file while it is in use;
- one that loses its name before it is loaded is built again, once;
- what is swept was last used at least an hour ago, and is not among the newest ones.

A library is code that runs here.  It is only loaded from a file and a folder that nobody but this
user and root can write; elsewhere, and where nothing can be kept, one is built for this run alone.
"""

import ctypes
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from dpamt.cache_folder import cache_folder
from dpamt.errors import InputError

KEPT: Final = 4
"""Libraries that stay whatever their age: a checkout, an installation, two compilers."""
UNUSED_SECONDS: Final = 3600.0
"""Whatever was used since then stays."""
ABANDONED_SECONDS: Final = 86400.0
"""A folder of a build that is this old belongs to a run that was killed."""

_NAME: Final = re.compile(r"search-[0-9a-f]{24}\.so")
_FOLDER: Final = re.compile(r"(?:build-|tmp)[a-z0-9_]{8}")
"""Folders of builds; an earlier version called them as tempfile does."""

Build = Callable[[Path], Path]
"""Makes a library in the given folder; returns its file."""


def load(name: str, build: Build, parts: frozenset[str]) -> ctypes.CDLL:
    """The library of this name (a hash of all that it is made of), built where none is kept.

    ``parts`` are the names of the files that ``build`` leaves in its folder.  Raises OSError when
    it cannot be loaded, and whatever ``build`` raises.
    """
    try:
        folder = _own_folder()
    except (InputError, OSError):
        return _for_this_run(build)
    path = folder / f"search-{name}.so"
    with suppress(OSError):
        if _is_ours(path):
            loaded = ctypes.CDLL(str(path))
            with suppress(OSError):  # a disk that is read only now
                os.utime(path)
            return loaded
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as beside:
            made = build(Path(beside))
            made.chmod(0o755)
            loaded = ctypes.CDLL(str(made))
            made.replace(path)
    except OSError:
        return _for_this_run(build)
    for old in unused(folder, path, parts, time.time()):
        _remove(old)
    return loaded


def unused(folder: Path, path: Path, parts: frozenset[str], now: float) -> Iterator[Path]:
    """Libraries and folders of builds that nobody needs any more; ``path`` is in use.

    ``now`` is in seconds since 1970.  What dpamt did not make is not among them.
    """
    found: list[tuple[float, Path]] = []
    for one in folder.iterdir():
        with suppress(OSError):
            seen = one.lstat()
            if _NAME.fullmatch(one.name) and stat.S_ISREG(seen.st_mode):
                found.append((seen.st_mtime, one))
            elif _FOLDER.fullmatch(one.name) and stat.S_ISDIR(seen.st_mode):
                only_ours = parts >= {part.name for part in one.iterdir()}
                if only_ours and seen.st_mtime < now - ABANDONED_SECONDS:
                    yield one
    for used, one in sorted(found, reverse=True)[KEPT:]:
        if used < now - UNUSED_SECONDS and one != path:
            yield one


def _remove(path: Path) -> None:
    """Another run may do the same now."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _for_this_run(build: Build) -> ctypes.CDLL:
    """The system keeps the library while it is loaded, its name or not."""
    with tempfile.TemporaryDirectory(prefix="dpamt-") as folder:
        return ctypes.CDLL(str(build(Path(folder))))


def _own_folder() -> Path:
    """Raises OSError where there is none that only this user and root can write."""
    folder = cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o755, exist_ok=True)
    if not _is_ours(folder):
        folder.chmod(folder.stat().st_mode & 0o755)  # fails where it is another's
    return folder


def _is_ours(path: Path) -> bool:
    """Whether nobody but this user and root can write it."""
    seen = path.stat()
    return seen.st_uid in (0, os.geteuid()) and not seen.st_mode & 0o022
