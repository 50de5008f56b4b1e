"""KVM's three modules: a user's own ``.ko``, or built from a kernel's build tree beside it.

``make M=... MO=...`` (Linux 6.13 and later) builds a part of the kernel with its objects elsewhere:
source and build tree stay as they are.  The objects are kept in the user's cache, by build tree, so
that a second run takes a second and a change of KVM's source what it needs.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dpamt.boot.exerciser import line_that_matters, symvers
from dpamt.cache_folder import cache_folder
from dpamt.errors import InputError

NAMES: Final = ("irqbypass.ko", "kvm.ko", "kvm-intel.ko")
"""In the order in which they are loaded."""
_IRQBYPASS: Final = "virt/lib"
_KVM: Final = "arch/x86/kvm"
_NEEDED: Final = ("CONFIG_KVM=m", "CONFIG_KVM_INTEL=m", "CONFIG_KVM_INTEL_TDX=y")


def modules_in(folder: Path) -> dict[str, Path]:
    """The modules in a folder or below it.  Raises InputError unless each is there once."""
    found = {}
    for name in NAMES:
        files = sorted(folder.rglob(name))
        if len(files) != 1:
            raise InputError(
                f"{folder}: {len(files)} files named {name}; expected one in it or below it"
            )
        found[name] = files[0]
    return found


def build_modules(build: Path, lines: bool = False) -> dict[str, Path]:
    """The modules, built against a kernel's build tree; ``lines``: with their line tables.

    Raises InputError when the tree is not prepared or configured for it, or the compiler complains.
    """
    build = Path(os.path.realpath(build))  # make -C goes there
    source = build / "source" if (build / "source").exists() else build
    exported = symvers(build)
    if exported is None or not (build / "scripts/module.lds").exists():
        missing = "vmlinux.symvers" if exported is None else "scripts/module.lds"
        raise InputError(
            f"{build}: no {missing}; expected a kernel's build tree after "
            "'make vmlinux modules_prepare'"
        )
    _check_configuration(build)
    kind = "lines" if lines else "plain"
    name = hashlib.sha256(str(build).encode()).hexdigest()[:12]
    place = cache_folder() / "kvm-modules" / f"{name}-{kind}"
    with _alone(place):
        for part in (_IRQBYPASS, _KVM):
            (place / part).mkdir(parents=True, exist_ok=True)
        # The objects of KVM's sources in ../../../virt/kvm.
        (place / "virt/kvm").mkdir(parents=True, exist_ok=True)
        # make reads Module.symvers by itself, where there is one.
        symbols = [] if (build / "Module.symvers").exists() else [str(exported)]
        flags = ["KCFLAGS=-g1"] if lines else []
        _make(build, source, _IRQBYPASS, place, symbols, flags)
        symbols.append(str(place / _IRQBYPASS / "Module.symvers"))
        _make(build, source, _KVM, place, symbols, flags)
        return modules_in(place)


def _check_configuration(build: Path) -> None:
    try:
        lines = (build / ".config").read_text().splitlines()
    except OSError as error:
        raise InputError(f"{build}/.config: {error.strerror}; expected a configured tree") from None
    for wanted in _NEEDED:
        if wanted not in lines:
            raise InputError(f"{build}/.config: no {wanted}; expected it for dpamt boot --kvm")


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Two runs at once build once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(
    build: Path, source: Path, part: str, place: Path, symbols: list[str], flags: list[str]
) -> None:
    if shutil.which("make") is None:
        raise InputError("no make; expected the tools that build a kernel (docs/boot.md)")
    words = [
        *("make", "-s", f"-j{len(os.sched_getaffinity(0))}", "-C", str(build)),
        *(f"M={source.resolve() / part}", f"MO={place / part}"),
        *("KBUILD_MODPOST_WARN=1", f"KBUILD_EXTRA_SYMBOLS={' '.join(symbols)}", *flags, "modules"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{part} does not build: {line_that_matters(done.stderr)[:200]}")
