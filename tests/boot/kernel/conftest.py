"""The kernel of ``make test-kernel``; without one these tests are skipped, and say so."""

import os
from collections.abc import Callable, Iterator
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
def headers(request: pytest.FixtureRequest) -> Iterator[None]:
    """A module is built against the headers of its kernel: those of the static one are unpatched.

    The kernels that ``make test-kernel`` builds share one source, which stands patched.
    """
    source = Path(os.environ.get("DPAMT_KERNEL_BUILD", "")).parent / "source"
    patched = {"dynamic", "with_v2s_put"} & set(request.fixturenames)
    patches = [patch for variant in VARIANTS for patch in patches_of(variant)]
    if patched or not (source / "Makefile").exists():
        yield
        return
    for patch in reversed(patches):
        run("patch", "-R", "-p1", "-s", "-d", source, "-i", patch)
    try:
        yield
    finally:
        for patch in patches:
            run("patch", "-p1", "-s", "-d", source, "-i", patch)
