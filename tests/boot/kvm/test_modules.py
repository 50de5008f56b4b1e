"""KVM's modules: found in a folder, or refused with what is missing."""

import os
import stat
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


MAKE = """#!/bin/sh
echo "$@" >> {log}
for word; do case $word in MO=*) place=${{word#MO=}};; esac; done
case $place in
*/virt/lib) touch $place/irqbypass.ko;;
*/arch/x86/kvm) touch $place/kvm.ko $place/kvm-intel.ko;;
*) exit 1;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build tree with its source elsewhere, and a make that writes down what it is asked for."""
    build, source, tools = (tmp_path / name for name in ("build", "source", "tools"))
    for folder in (build / "scripts", source, tools):
        folder.mkdir(parents=True)
    (build / "vmlinux.symvers").write_text("")
    (build / "scripts/module.lds").write_text("")
    (build / ".config").write_text("CONFIG_KVM=m\nCONFIG_KVM_INTEL=m\nCONFIG_KVM_INTEL_TDX=y\n")
    (build / "source").symlink_to(source)
    make = tools / "make"
    make.write_text(MAKE.format(log=tmp_path / "log"))
    make.chmod(make.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return build


def asked(tree: Path) -> list[list[str]]:
    lines = (tree.parent / "log").read_text().splitlines()
    (tree.parent / "log").unlink()
    return [line.split() for line in lines]


def test_they_are_built_beside_the_tree_in_their_order(tree: Path) -> None:
    """irqbypass, then KVM with its symbols; into the user's cache, nothing into the tree."""
    before = sorted(tree.parent.glob("[bs]*/**/*"))
    found = build_modules(tree)
    assert list(found) == list(NAMES)
    assert sorted(tree.parent.glob("[bs]*/**/*")) == before
    place = found["kvm.ko"].parents[3]
    assert place.parent == tree.parent / "cache" / "dpamt" / "kvm-modules"
    assert (place / "virt/kvm").is_dir()
    first, second = asked(tree)
    source = tree.parent / "source"
    for words, part in ((first, "virt/lib"), (second, "arch/x86/kvm")):
        assert words[words.index("-C") + 1] == str(tree)
        assert f"M={source / part}" in words
        assert f"MO={place / part}" in words
        assert words[-1] == "modules"
        assert "KCFLAGS=-g1" not in words
    symbols = f"KBUILD_EXTRA_SYMBOLS={tree / 'vmlinux.symvers'}"
    assert symbols in first
    assert second[second.index(symbols) + 1] == str(place / "virt/lib/Module.symvers")


def test_a_build_with_lines_has_a_place_of_its_own(tree: Path) -> None:
    plain = build_modules(tree)
    asked(tree)
    lines = build_modules(tree, lines=True)
    assert all("KCFLAGS=-g1" in words for words in asked(tree))
    assert plain["kvm.ko"] != lines["kvm.ko"]
    assert build_modules(tree)["kvm.ko"] == plain["kvm.ko"]


def test_symbols_that_make_reads_itself_are_not_named(tree: Path) -> None:
    (tree / "Module.symvers").write_text("")
    build_modules(tree)
    first, _ = asked(tree)
    assert not any("symvers" in word for word in first)


def test_what_the_compiler_says_is_one_line(tree: Path) -> None:
    make = tree.parent / "tools" / "make"
    make.write_text("#!/bin/sh\necho x.c:1: error: no such thing >&2\nexit 2\n")
    with pytest.raises(InputError, match=r"virt/lib does not build: .*error: no such thing"):
        build_modules(tree)
