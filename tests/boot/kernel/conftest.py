"""The kernel of ``make test-kernel``; without one these tests are skipped, and say so."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.session import boot
from tests.boot.kernel.build import VARIANTS, patches_of, run


@pytest.fixture(scope="session")
def build() -> Path:
    """The folder of a built kernel, prepared for modules."""
    name = os.environ.get("DPAMT_KERNEL_BUILD")
    if not name:
        pytest.skip("no kernel: make test-kernel builds one and sets DPAMT_KERNEL_BUILD")
    return Path(name)


@pytest.fixture(scope="session")
def vmlinux(build: Path) -> Path:
    return build / "vmlinux"


@pytest.fixture
def booted(vmlinux: Path) -> Callable[..., Booted]:
    """Boots with options in place of the defaults."""

    def booted(**options: Any) -> Booted:
        return boot(BootOptions(vmlinux, **{"timeout": 60.0, **options}))

    return booted


@pytest.fixture(autouse=True)
def headers(request: pytest.FixtureRequest) -> None:
    """A module is built against the headers of its kernel: those of the static one are unpatched.

    The kernels that ``make test-kernel`` builds share one source.
    """
    source = Path(os.environ.get("DPAMT_KERNEL_BUILD", "")).parent / "source"
    if not (source / "Makefile").exists():
        return
    wanted = bool({"dynamic", "with_v2s_put"} & set(request.fixturenames))
    patches = [patch for variant in VARIANTS for patch in patches_of(variant)]
    last = ("patch", "-R", "--dry-run", "-f", "-p1", "-s", "-d", source, "-i", patches[-1])
    if (subprocess.run(last, capture_output=True).returncode == 0) != wanted:
        for patch in patches if wanted else reversed(patches):
            how = () if wanted else ("-R",)
            run("patch", *how, "-p1", "-s", "-d", source, "-i", patch)
