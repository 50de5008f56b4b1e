"""The compiled inner loop: built once by the user's C compiler, loaded, and called.

Why C through ctypes (measured when it was chosen): Numba takes 96 MiB and 0.3 s to import before it
holds a state; Cython or a Rust extension makes the wheel one for each platform and Python.  A C
compiler is on every machine where kernels are built; the loop is compiled once in a second, kept in
the user's cache folder under a hash of its source and of the compiler, and loaded in a millisecond.
Where there is no compiler the search in Python goes on, with the same answer.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from ctypes import POINTER, c_int32, c_int64, c_uint16, c_uint32, c_void_p
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from dpamt.verify.explore.compiled.kept_library import load

_FLAGS: Final = ("-O2", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-w")
MOST_THREADS: Final = 31
"""A row that waits for its number is named by its thread in five bits (state.h)."""
MOST_FIELDS: Final = 4096
"""Slots and threads of a state, at most (state.h)."""
MOST_MISSING: Final = 256
"""Things to learn that a shard asks for at once (shard.c)."""
_SOURCES: Final = (
    *(
        "state.h",
        "columns.c",
        "blocks.c",
        "expand.c",
        "number.c",
        "kept.c",
        "team.c",
        "search.c",
        "shard.c",
    ),
)
"""The last one is compiled; it includes the others."""
_MADE: Final = "search.so"
_SECONDS: Final = 120.0
"""After this time a compiler is given up."""


class Tables(ctypes.Structure):
    """``struct tables`` of state.h: what was learned, as arrays that Python owns."""

    _fields_ = (
        ("slots", c_int32),
        ("threads", c_int32),
        ("classes", c_int32),
        ("words", c_int32),
        ("locals", c_int32),
        ("interrupts", c_int32),
        ("ordered", c_int32),
        ("unused", c_int32),
        ("class_first", c_void_p),
        ("phase", c_void_p),
        ("interrupt", c_void_p),
        ("field_word", c_void_p),
        ("field_shift", c_void_p),
        ("field_mask", c_void_p),
        ("local_flags", c_void_p),
        ("generation", c_void_p),
        ("read_first", c_void_p),
        ("read_count", c_void_p),
        ("reads", c_void_p),
        ("page_set", c_void_p),
        ("contribution", c_void_p),
        ("block_local", c_void_p),
        ("write_first", c_void_p),
        ("write_count", c_void_p),
        ("writes", c_void_p),
        ("block_flags", c_void_p),
        ("block_fill", c_void_p),
        ("felt", c_void_p),
    )


class Batch(ctypes.Structure):
    """``struct batch`` of shard.c: rows for one shard, each once."""

    _fields_ = (
        ("rows", c_void_p),
        ("parents", c_void_p),
        ("moves", c_void_p),
        ("used", c_int64),
        ("room", c_int64),
    )


_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "dpamt_begin": (c_void_p, (c_int32,)),
    "dpamt_end": (None, (c_void_p,)),
    "dpamt_tables": (POINTER(Tables), (c_void_p,)),
    "dpamt_state": (None, (c_void_p, c_int64, c_void_p)),
    "dpamt_add": (c_int32, (c_void_p, c_void_p, c_int32, c_int32, c_int32)),
    "dpamt_begin_chunk": (None, (c_void_p, c_int64, c_int64, c_int32, c_int32, c_int64)),
    "dpamt_chunk": (c_int32, (c_void_p,)),
    "dpamt_append": (c_int32, (c_void_p, c_void_p, c_uint32, c_uint16, c_uint32)),
    "dpamt_settle": (c_int32, (c_void_p, c_void_p, c_int32)),
    "dpamt_stuck": (c_int64, (c_void_p,)),
    "dpamt_spill": (c_int32, (c_void_p, c_void_p)),
    "dpamt_relax": (None, (c_void_p,)),
    "dpamt_numbers": (None, (c_void_p, POINTER(c_int64))),
    "dpamt_parent": (c_uint32, (c_void_p, c_int64)),
    "dpamt_move": (c_uint16, (c_void_p, c_int64)),
    "dpamt_end_at": (c_uint32, (c_void_p, c_int64)),
    "dpamt_column": (c_void_p, (c_void_p, c_int32, POINTER(c_int64))),
    "dpamt_load": (c_int32, (c_void_p, c_int64, c_void_p, c_void_p)),
    "dpamt_go_on": (c_int32, (c_void_p, c_int64, c_int64, c_void_p, c_int64)),
    "dpamt_shard_begin": (c_void_p, (c_int32, c_int32)),
    "dpamt_shard_end": (None, (c_void_p,)),
    "dpamt_shard_search": (c_void_p, (c_void_p,)),
    "dpamt_shard_lay_out": (c_int32, (c_void_p, c_void_p, c_int32)),
    "dpamt_shard_first": (c_int32, (c_void_p, c_void_p)),
    "dpamt_shard_expand": (c_int64, (c_void_p, c_int64)),
    "dpamt_shard_take": (
        c_int32,
        (c_void_p, c_int32, c_int64, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
    "dpamt_shard_settle": (c_int32, (c_void_p, c_void_p)),
    "dpamt_shard_next": (c_int64, (c_void_p,)),
    "dpamt_shard_batch": (POINTER(Batch), (c_void_p, c_int32)),
    "dpamt_shard_asked": (c_int64, (c_void_p, c_void_p)),
    "dpamt_shard_mark": (c_int32, (c_void_p,)),
    "dpamt_shard_ask": (c_int64, (c_void_p, c_int64, c_int64, c_int32)),
    "dpamt_shard_answer": (None, (c_void_p, c_int64, c_void_p, c_void_p, c_void_p)),
    "dpamt_shard_hear": (c_int64, (c_void_p, c_void_p, c_int32)),
    "dpamt_shard_unmarked": (c_int64, (c_void_p, POINTER(c_int64))),
    "dpamt_shard_column": (c_void_p, (c_void_p, c_int32, POINTER(c_int64))),
    "dpamt_shard_load": (c_int32, (c_void_p, c_int64, c_void_p)),
    "dpamt_shard_onward": (None, (c_void_p, c_int64, c_int64, c_void_p, c_void_p)),
    "dpamt_shard_go_on": (c_int32, (c_void_p, c_int64, c_int64, c_void_p, c_int64)),
}


@cache
def library() -> ctypes.CDLL | None:
    """The inner loop, ready to be called; None where it cannot be built (``why_not``)."""
    return _loaded()[0]


def why_not() -> str:
    """Why there is no compiled inner loop; empty: there is one."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    folder_of = files("dpamt.verify.explore.compiled")
    sources = {name: folder_of.joinpath(name).read_bytes() for name in _SOURCES}
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("cc")
    if compiler is None:
        return None, "no C compiler (cc) is on the path"
    if ctypes.sizeof(c_void_p) != 8:
        return None, "this Python is not one of 64 bits"
    stat = os.stat(compiler)
    told = (compiler, stat.st_size, stat.st_mtime_ns, platform.machine(), *_FLAGS)
    name = hashlib.sha256(b"".join(sources.values()) + repr(told).encode()).hexdigest()[:24]
    try:
        loaded = load(name, partial(_build, compiler, sources), frozenset((*_SOURCES, _MADE)))
        for function, (result, arguments) in _SIGNATURES.items():
            found = getattr(loaded, function)
            found.restype, found.argtypes = result, arguments
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").splitlines()
        return None, f"{compiler} ended with {error.returncode}{': ' + said[0] if said else ''}"
    except (OSError, subprocess.TimeoutExpired, AttributeError) as error:
        return None, f"{compiler} made no library that can be loaded ({error})"
    return loaded, ""


def _build(compiler: str, sources: dict[str, bytes], folder: Path) -> Path:
    """Compile in the folder."""
    for name, source in sources.items():
        (folder / name).write_bytes(source)
    made = folder / _MADE
    subprocess.run(
        [compiler, *_FLAGS, "-o", str(made), str(folder / _SOURCES[-1])],
        check=True,
        capture_output=True,
        timeout=_SECONDS,
    )
    return made
