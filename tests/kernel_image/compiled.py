"""Objects built for tests from C or assembly, as the kernel's own code is built; each once."""

import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

C = Path(__file__).parent / "c"
FLAGS = (
    "-ffreestanding",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-fno-pie",
    "-fno-stack-protector",
    "-mgeneral-regs-only",
    "-fno-asynchronous-unwind-tables",
)
COMPILERS = ("gcc", "clang")


def compiler(name: str) -> str:
    """The command of a compiler; the test is skipped where it is not installed."""
    for command in (name, *(f"{name}-{n}" for n in (22, 21, 20, 19, 18, 17, 16, 15, 14))):
        found = shutil.which(command)
        if found:
            return found
    pytest.skip(f"no {name} on this machine")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dpamt-objects-")


@cache
def built(
    text: str, flags: tuple[str, ...] = ("-O2", "-g"), cc: str = "gcc", suffix: str = ".c"
) -> Path:
    """The object that a text is compiled to."""
    key = hashlib.sha256(repr((text, flags, cc, suffix)).encode()).hexdigest()[:16]
    source = Path(_folder().name) / f"{key}{suffix}"
    source.write_text(text)
    target = source.with_suffix(".o")
    command: tuple[str | Path, ...] = (
        compiler(cc),
        "-c",
        *FLAGS,
        *flags,
        f"-I{C}",
        "-o",
        target,
        source,
    )
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def design_object(name: str, *flags: str, cc: str = "gcc") -> Path:
    """The object of a design in C."""
    text = (C / f"{name}.c").read_text()
    return built(text, flags or ("-O2", "-g"), cc)
