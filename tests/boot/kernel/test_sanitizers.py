"""Kernels with KASAN and KCSAN, built by hand: ``python -m tests.boot.kernel.build kasan``.

``DPAMT_KASAN_BUILD`` and ``DPAMT_KCSAN_BUILD`` name the folder that it prints; without them these
tests are skipped.  Each takes minutes.
"""

import os
from pathlib import Path

import pytest

from dpamt.boot.kvm.allocations import allocations_script
from dpamt.boot.kvm.prepare import KvmOptions
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.translate import translate
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.session import boot
from dpamt.run.scenario import load_scenario

pytest.importorskip("capstone")

SCENARIOS = Path(__file__).parent / "scenarios"
EVERY = 7


def sanitized(name: str) -> Path:
    """The build with Dynamic PAMT of a kernel with this sanitizer."""
    variable = f"DPAMT_{name.upper()}_BUILD"
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set: python -m tests.boot.kernel.build {name} builds one")
    return Path(folder).parent / "build-dynamic"


def run(tree: Path, modules: Path, script: Script, allocations: int = 0) -> Booted:
    kvm = KvmOptions(script, modules=modules, allocations=allocations)
    return boot(BootOptions(tree / "vmlinux", kvm=kvm, timeout=550.0))


@pytest.mark.parametrize("name", ["kasan", "kcsan"])
def test_tds_live_on_it(name: str) -> None:
    tree = sanitized(name)
    script = translate(load_scenario(str(SCENARIOS / "three-tds.toml")), 4, 4 << 30)
    kvm = KvmOptions(script, modules=tree)
    booted = boot(BootOptions(tree / "vmlinux", cpus=4, kvm=kvm, timeout=550.0))
    assert booted.ended == "reboot"
    assert booted.findings == []
    assert [one for one in booted.complaints if "tdx" in f"{one.text} {one.stack}"] == []


def test_allocations_fail_on_it() -> None:
    """With failslab: no use after free on any error path, and nothing is left."""
    tree = sanitized("kasan")
    booted = run(tree, tree, allocations_script(EVERY), EVERY)
    assert booted.findings == []
    allocations = booted.allocations
    assert allocations is not None
    assert allocations.keeps_freed
    assert {life.kind for life in allocations.lives} >= {"failslab", "fail_page_alloc"}
    # kvm_recalculate_apic_map without memory inhibits APICv, a bug for a TD (docs/boot-kvm.md).
    known = "vt_refresh_apicv_exec_ctrl"
    assert [one for one in booted.complaints if known not in one.text] == []
