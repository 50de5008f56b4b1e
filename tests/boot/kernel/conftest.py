"""The kernel of ``make test-kernel``; without one these tests are skipped, and say so."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.session import boot


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
