"""What is ready before a guest with KVM starts: its files, room for code behind the text."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.boot.interventions import Change
from dpamt.boot.kvm import prepare
from dpamt.boot.kvm.modules import NAMES
from dpamt.boot.kvm.prepare import KvmOptions, PreparedKvm, prepare_kvm
from dpamt.boot.kvm.script import Script
from dpamt.errors import InputError

END, ROOM = 0x81002000, 0x400
CODE = bytes(range(100))


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The parts that need a kernel, and what they were asked for."""
    asked: dict[str, Any] = {}
    paths = {name: tmp_path / name for name in NAMES}
    for name, path in paths.items():
        path.write_bytes(name.encode())

    def build_modules(build: Path, lines: bool) -> dict[str, Path]:
        asked["build"] = build, lines
        return paths

    def module_file(path: Path) -> Any:
        asked["module"] = path
        return SimpleNamespace(with_changes=lambda changes: b"changed: %d" % len(changes))

    def vmx_sites(_module: Any, address: int) -> Any:
        asked["address"] = address
        return SimpleNamespace(changes=["a", "b"], code=CODE)

    monkeypatch.setattr(prepare, "build_modules", build_modules)
    monkeypatch.setattr(prepare, "modules_in", lambda folder: asked.update(folder=folder) or paths)
    monkeypatch.setattr(prepare, "check_kernel", lambda _: asked.update(checked=True))
    monkeypatch.setattr(prepare, "ModuleFile", module_file)
    monkeypatch.setattr(prepare, "vmx_sites", vmx_sites)
    monkeypatch.setattr(prepare, "build_vmm", lambda _: b"the VMM")
    return asked


def prepared(changes: list[Change], room: int = ROOM, **options: Any) -> PreparedKvm:
    image: Any = SimpleNamespace(
        path=Path("/build/vmlinux"),
        slack_after_text=lambda: (END, room),
        read=lambda address, size: b"%x" % address + bytes(size)[: size - 8],
    )
    return prepare_kvm(KvmOptions(Script("phase 1\n", ()), **options), image, changes, Path("x"))


def test_the_files_of_the_guest(parts: dict[str, Any], tmp_path: Path) -> None:
    made = prepared([])
    assert made.files == {
        "irqbypass.ko": b"irqbypass.ko",
        "kvm.ko": b"kvm.ko",
        "kvm-intel.ko": b"changed: 2",
        "init": b"the VMM",
        "script": b"phase 1\n",
    }
    assert made.modules == {name: tmp_path / name for name in NAMES}
    assert made.intel == parts["module"] == tmp_path / "kvm-intel.ko"
    changes: Any = made.module_changes
    assert changes == ["a", "b"]
    assert (made.kernel_change.address, made.kernel_change.new) == (END, CODE)
    assert made.kernel_change.old.startswith(b"81002000")
    assert len(made.kernel_change.old) == len(CODE)
    assert made.kernel_change.where == "behind _etext"


def test_where_the_modules_come_from(parts: dict[str, Any], tmp_path: Path) -> None:
    prepared([])
    assert parts["build"] == (Path("/build"), False)
    prepared([], build=Path("/elsewhere"), coverage=True)
    assert parts["build"] == (Path("/elsewhere"), True)
    assert "folder" not in parts
    prepared([], modules=tmp_path)
    assert parts["folder"] == tmp_path
    assert "checked" not in parts
    prepared([], allocations=3)
    assert parts["checked"]


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ([], END),
        ([(END, 16)], END + 16),
        ([(END, 17)], END + 32),
        ([(END, 1), (END + 0x20, 0x11), (END + 0x10, 1)], END + 0x40),
        ([(END - 4, 4), (END + ROOM, 8), (0x81000000, 5)], END),  # not behind the text
    ],
)
def test_code_goes_behind_what_is_there(
    parts: dict[str, Any], changes: list[tuple[int, int]], address: int
) -> None:
    made = prepared([Change(at, bytes(size), bytes(size), "", "") for at, size in changes])
    assert parts["address"] == made.kernel_change.address == address
    assert address % 16 == 0


def test_code_that_has_no_room_is_refused(parts: dict[str, Any]) -> None:
    assert prepared([], room=len(CODE)).kernel_change.address == END
    with pytest.raises(InputError, match=r"/build/vmlinux: 99 bytes are free behind _etext; "
                       r"expected 100 for the VMX"):  # fmt: skip
        prepared([], room=len(CODE) - 1)
