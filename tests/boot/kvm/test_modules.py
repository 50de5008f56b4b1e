"""KVM's modules: found in a folder, or refused with what is missing."""

from pathlib import Path

import pytest

from dpamt.boot.kvm.modules import NAMES, build_modules, modules_in
from dpamt.errors import InputError


def test_they_are_found_wherever_they_lie(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        folder = tmp_path / f"part{number}"
        folder.mkdir()
        (folder / name).write_bytes(b"x")
    assert list(modules_in(tmp_path)) == list(NAMES)
    (tmp_path / NAMES[1]).write_bytes(b"y")
    with pytest.raises(InputError, match=r"2 files named kvm\.ko; expected one"):
        modules_in(tmp_path)


def test_a_tree_that_cannot_build_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no vmlinux\.symvers; expected a kernel's build tree"):
        build_modules(tmp_path)
    (tmp_path / "vmlinux.symvers").write_text("")
    with pytest.raises(InputError, match=r"no scripts/module\.lds"):
        build_modules(tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/module.lds").write_text("")
    with pytest.raises(InputError, match=r"\.config: No such file"):
        build_modules(tmp_path)
    (tmp_path / ".config").write_text("CONFIG_KVM=m\nCONFIG_KVM_INTEL=m\n")
    with pytest.raises(InputError, match="no CONFIG_KVM_INTEL_TDX=y"):
        build_modules(tmp_path)
