"""The exerciser: built against a user's kernel tree, put into an initial RAM disk, its lines read.

Its sources are in ``guest/``: a module named kvm-intel, and an init without a C library.  What it
does is chosen by a line such as ``hammer:design=v6:rounds=1000``.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from dpamt.boot.refcounts import names_of, not_found
from dpamt.boot.tiny_initrd import archive
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage

_SOURCES: Final = ("Kbuild", "exerciser.c", "exerciser.h", "pamt.c", "step.c", "td.c")
_CALLED: Final = "__seamcall_ret"
_KERNEL: Final = "kernel"
_SYMVERS: Final = ("Module.symvers", "vmlinux.symvers")
"""What the kernel exports: written by ``make modules``, and by ``make vmlinux`` alone."""
_GET_AND_PUT: Final = frozenset(
    {"tdx_pamt_get", "tdx_pamt_put", "tdx_alloc_control_page", "tdx_free_control_page"}
)
"""What a kernel with Dynamic PAMT exports to KVM (merged commits of 2026-09-04)."""
INIT_FLAGS: Final = (
    *("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin", "-fno-pie", "-no-pie"),
    *("-fno-stack-protector", "-fno-tree-loop-distribute-patterns"),
)

_WHY: Final = tuple(
    map(
        re.compile,
        (
            r"\b(fatal )?error: (?!.*treated as errors)",  # gcc
            r"^ERROR: modpost: ",
            r"undefined reference to|cannot find -l|No such file or directory",
            r"\*\*\* (?!\[)",  # make itself: "*** No rule to make target"
            r"(?i)error",
        ),
    )
)
"""What tells why a build failed, the surest first: a warning before it, or make's "Error 2" after
it, does not."""

MODES: Final = ("life", "hammer", "hostile")
DESIGNS: Final = ("merged", "v6", "v2", "v5", "none", "kernel")
ANNOUNCING: Final = frozenset({"v2", "v5"})
"""The designs whose C code announces each step on what CPUs share, for a schedule to follow."""
BUGS: Final = ("none", "put-too-many", "missing-get", "unlocked-count")
_OWN_COUNTS: Final = "unlocked-count"
_COUNTED_HERE: Final = ("merged", "v6")
"""The designs that bug can be seeded into."""
_NUMBERS: Final = {
    "threads": 64,
    "rounds": 10_000_000,
    "use_every": 10_000_000,
    "offline": 63,
    "fail": 100,
    "pause": 1000,
}
"""Options that are numbers, from 1, and the most they may be."""
_HAMMERS: Final = ("use_every", "pause", "bug")
"""Options without effect in other modes."""
_WORDS: Final = {"design": DESIGNS, "bug": BUGS}


@dataclass(frozen=True, slots=True)
class Exercise:
    """What the guest is to do; ``offline``: the CPU to take down at the end, -1 for none."""

    text: str
    mode: str
    parameters: Mapping[str, str]
    offline: int = -1


def parse_exercise(text: str) -> Exercise:
    """``MODE[:OPTION=VALUE]...``; raises InputError for what is none."""
    mode, *parts = text.split(":")
    if mode not in MODES:
        raise InputError(f"{text}: {mode!r}; expected one of {', '.join(MODES)}")
    given: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        name = name.replace("-", "_")
        if name in given:
            raise InputError(f"{text}: {name} is said twice")
        if name in _WORDS:
            if value not in _WORDS[name]:
                raise InputError(f"{text}: {part}; expected one of {', '.join(_WORDS[name])}")
        elif name in _NUMBERS:
            if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= _NUMBERS[name]:
                raise InputError(f"{text}: {part}; expected 1 to {_NUMBERS[name]:,}")
        else:
            expected = ", ".join((*_WORDS, *_NUMBERS))
            raise InputError(f"{text}: option {name!r}; expected one of {expected}")
        if name in _HAMMERS and mode != "hammer":
            raise InputError(f"{text}: {part} has no effect; expected hammer with it")
        given[name] = value
    if given.get("bug") == _OWN_COUNTS and given.get("design", DESIGNS[0]) not in _COUNTED_HERE:
        raise InputError(f"{text}: bug={_OWN_COUNTS}; expected design=merged or v6 with it")
    offline = int(given.pop("offline", "-1"))
    return Exercise(text, mode, given, offline)


def build_initrd(build: Path, image: KernelImage, exercise: Exercise, folder: Path) -> Path:
    """Build module and init in ``folder`` against the kernel's build tree: the RAM disk's file.

    Raises InputError as :func:`build_files`.
    """
    initrd = folder / "initrd"
    initrd.write_bytes(archive(build_files(build, image, exercise, folder)))
    return initrd


def build_files(
    build: Path, image: KernelImage, exercise: Exercise, folder: Path
) -> dict[str, bytes]:
    """What is in that RAM disk, by name.

    Raises InputError when the tree is not prepared for modules, or the compiler complains.
    """
    build = Path(os.path.realpath(build))  # make -C goes there
    called = image.symbol(_CALLED)
    if called is None:
        raise InputError(f"{image.path}: no symbol {_CALLED!r}: CONFIG_INTEL_TDX_HOST is not set")
    written = symvers(build)
    prepared = (build / "scripts/module.lds").exists()
    if written is None or not prepared:
        missing = _SYMVERS[1] if prepared else "scripts/module.lds"
        raise InputError(
            f"{build}: no {missing}; expected a kernel's build tree after "
            "'make vmlinux modules_prepare'"
        )
    exported = _has_get_and_put(build)
    design = _design(exercise, exported)
    source = files("dpamt.boot") / "guest"
    module = folder / "module"
    module.mkdir()
    for name in _SOURCES:
        (module / name).write_bytes((source / name).read_bytes())
    (folder / "init.c").write_bytes((source / "init.c").read_bytes())
    own = [f"DPAMT_KERNEL_PAMT={'y' if exported else 'n'}", "KBUILD_MODPOST_WARN=1"]
    if not (build / _SYMVERS[0]).exists():  # which make reads by itself
        own.append(f"KBUILD_EXTRA_SYMBOLS={written}")
    _run(["make", "-s", "-C", str(build), f"M={module}", *own])
    init = folder / "init"
    _run(["gcc", *INIT_FLAGS, "-o", str(init), str(folder / "init.c")])
    parameters = {
        "mode": exercise.mode,
        "design": design,
        **exercise.parameters,
        "seamcall": f"{called.address:#x}",
        **_kernel_counts(image, design),
    }
    contents = {
        "init": init.read_bytes(),
        "exerciser.ko": (module / "kvm-intel.ko").read_bytes(),
        "parameters": " ".join(f"{name}={value}" for name, value in parameters.items()).encode(),
    }
    if exercise.offline >= 0:
        contents["offline"] = str(exercise.offline).encode()
    if "fail" in exercise.parameters:
        contents["fail"] = exercise.parameters["fail"].encode()
    return contents


def symvers(build: Path) -> Path | None:
    """The list of what a kernel exports, the newer one where there are two; None: there is none."""
    found = [build / name for name in _SYMVERS if (build / name).exists()]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def exports(build: Path) -> frozenset[str]:
    """Names that the kernel of a build tree exports, and its modules (CRC, name, where, how)."""
    written = symvers(build)
    if written is None:
        return frozenset()
    lines = (line.split("\t") for line in written.read_text().splitlines())
    return frozenset(line[1] for line in lines if len(line) > 1)


def _has_get_and_put(build: Path) -> bool:
    """Whether the kernel of a build tree exports its own."""
    return exports(build) >= _GET_AND_PUT


def design_to_replay(design: str, build: Path) -> str:
    """The C code that stands for a design of `dpamt verify`: the exerciser's own of that name, or
    the kernel's get and put.  Raises InputError where neither is there."""
    if design in (*ANNOUNCING, *_COUNTED_HERE):
        return design
    if _has_get_and_put(build):
        return _KERNEL
    raise InputError(
        f"design {design} is not in C here; expected {', '.join(sorted(ANNOUNCING))}, or a kernel "
        "with Dynamic PAMT whose own get and put it stands for"
    )


def _design(exercise: Exercise, exported: bool) -> str:
    """The design that was asked for; without one, the kernel's own where it has one."""
    asked = exercise.parameters.get("design")
    if asked is None:
        own = exported and exercise.parameters.get("bug") != _OWN_COUNTS
        return _KERNEL if own else DESIGNS[0]
    if asked == _KERNEL and not exported:
        raise InputError(
            f"{exercise.text}: this kernel exports no tdx_pamt_get; expected one with Dynamic "
            "PAMT, or design=merged or v6"
        )
    return asked


def _kernel_counts(image: KernelImage, design: str) -> dict[str, str]:
    """Where the module finds the kernel's refcounts: neither symbol is exported.

    Raises InputError where they are not found: their sum would be a constant 0.
    """
    if design != _KERNEL:
        return {}
    names = names_of(image)
    if names is None:
        raise InputError(f"{image.path}: {not_found(image)}; expected them, or another design=")
    symbols = {"kernel_counts": image.symbol(names[0]), "kernel_max_pfn": image.symbol("max_pfn")}
    return {name: f"{symbol.address:#x}" for name, symbol in symbols.items() if symbol is not None}


def _run(words: list[str]) -> None:
    if shutil.which(words[0]) is None:
        raise InputError(f"no {words[0]}; expected the tools that build a kernel (docs/boot.md)")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"the exerciser does not build: {line_that_matters(done.stderr)[:200]}")


def line_that_matters(said: str) -> str:
    """Of what a compiler, linker, modpost or make printed: the line that tells why it failed."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    for pattern in _WHY:
        for line in lines:
            if pattern.search(line):
                return line
    return lines[0] if lines else "no message"


_LINE: Final = re.compile(r"^(?:kvm_intel: |kvm-intel: )?dpamt: (?P<rest>.*)$")
_THREAD: Final = re.compile(
    r"thread (\d+) did (\d+) scant (\d+) failed (\d+) first (.+) status (0x[0-9a-f]+)$"
)
_BEGIN: Final = re.compile(r"begin mode \S+ design (\S+) .* fail (\d+)$")
_WARN: Final = re.compile(r"warn (\S+) pfn (0x[0-9a-f]+) status (0x[0-9a-f]+)$")


@dataclass(frozen=True, slots=True)
class ThreadTold:
    """What one thread did: rounds, of those given up for want of a page or a pair, those that
    failed, and the first SEAMCALL that did."""

    number: int
    did: int
    scant: int
    failed: int
    first: str
    status: int


@dataclass(slots=True)
class Told:
    """What the exerciser said on the console."""

    threads: list[ThreadTold] = field(default_factory=list)
    warnings: list[tuple[str, int]] = field(default_factory=list)
    """(PAMT.ADD or PAMT.REMOVE, status) of the designs' own WARN_ONCE."""
    counted: int | None = None
    """Sum of all refcounts at the end."""
    began: bool = False
    refused: str = ""
    offline: int | None = None
    """Result of taking a CPU offline: 1, or a negative errno."""
    design: str = ""
    """How pairs were counted."""
    fail: int = 0
    """Percent of page allocations that were made to fail."""


def read_console(lines: list[str]) -> Told:
    """The exerciser's lines among all of the console's."""
    told = Told()
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        rest = match["rest"]
        if begin := _BEGIN.match(rest):
            told.began = True
            told.design, told.fail = begin[1], int(begin[2])
        elif rest.startswith("refused"):
            told.refused = rest
        elif rest.startswith("end counted "):
            told.counted = int(rest.rpartition(" ")[2])
        elif rest.startswith("offline "):
            told.offline = int(rest.rpartition(" ")[2])
        elif thread := _THREAD.match(rest):
            *numbers, first, status = thread.groups()
            number, did, scant, failed = map(int, numbers)
            told.threads.append(ThreadTold(number, did, scant, failed, first, int(status, 16)))
        elif warn := _WARN.match(rest):
            told.warnings.append((warn[1], int(warn[3], 16)))
    return told
