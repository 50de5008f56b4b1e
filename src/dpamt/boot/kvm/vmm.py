"""The VMM in the guest's RAM disk: a static program without a C library, from ``guest/vmm/``."""

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Final

from dpamt.boot.exerciser import INIT_FLAGS, line_that_matters
from dpamt.errors import InputError

_PARTS: Final = ("vmm.c", "td.c", "run.c", "memory.c", "fail.c", "tour.c")
_HEADERS: Final = ("sys.h", "kvm_abi.h", "vmm.h")


def build_vmm(folder: Path) -> bytes:
    """The program.  Raises InputError where there is no compiler, or it complains."""
    if shutil.which("gcc") is None:
        raise InputError("no gcc; expected it for the VMM of dpamt boot --kvm (docs/boot-kvm.md)")
    source = files("dpamt.boot") / "guest" / "vmm"
    for name in (*_PARTS, *_HEADERS):
        (folder / name).write_bytes((source / name).read_bytes())
    program = folder / "vmm"
    words = ["gcc", *INIT_FLAGS, "-o", str(program), *(str(folder / name) for name in _PARTS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"the VMM does not build: {line_that_matters(done.stderr)[:200]}")
    return program.read_bytes()
