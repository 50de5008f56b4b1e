"""Each argument that names a file, with each kind of file that is wrong: one line, exit code 2.

A slot is a command with a place for the file; a kind spoils a file that the slot would take.  The
line names the file and says what was expected, nothing is written, and nothing is said of Python.
"""

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dpamt.host.designs import merged
from tests.boot.small_kernel import SmallKernel

from .command import dpamt, dpamt_as_another, refused
from .test_outputs import elsewhere as elsewhere

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTS = {"dpamt_counts": 1, "regions": [[1023, 4]], "tdmrs": []}
SOUND = {
    "scenario.toml": (EXAMPLES / "scenario.toml").read_bytes(),
    "design.py": Path(merged.__file__).read_bytes(),
    "property.py": b'def fine(view):\n    return ""\n',
    "host": (EXAMPLES / "host.dmesg").read_bytes(),
    "vectors.jsonl": (EXAMPLES / "vectors.jsonl").read_bytes(),
    "vms.csv": (EXAMPLES / "vms.csv").read_bytes(),
    "counts.json": (json.dumps(COUNTS, indent=1) + "\n").encode(),
    "symbols": b"ffffffff81000000 T _text\nffffffff81000040 T tdx_pamt_get\n",
    "found.json": b'{"format": 1, "dpamt": "0.1.0", "clean": true,\n "designs": []}\n',
    "kept": b"PK\x03\x04, a checkpoint",
    "vmlinux": SmallKernel().build(),
    "module.ko": b"\x7fELF, of a module",
    "bzImage": b"\0" * 0x202 + b"HdrS" + b"\0" * 600,
    "initrd": b"070701" + b"0" * 104,
    "record": b"",
    "tree": b"",
}

SLOTS = {
    "run {}": "scenario.toml",
    "run --host {}": "host",
    "run --design ./{}": "design.py",
    "verify ./{} --cpus 2": "design.py",
    "verify v2 --cpus 2 --property {}": "property.py",
    "verify --replay {}": "found.json",
    "verify --check {}": "found.json",
    "verify --resume {}": "kept",
    "verify --vmlinux {} --cpus 2": "vmlinux",
    "plan {}": "host",
    "plan 1GiB --counts {}": "counts.json",
    "plan 2*64GiB --fleet {} --jobs 1": "vms.csv",
    "plan {} --fleet given.csv --jobs 1": "host",
    "trace {}": "record",
    "trace given.trace --kallsyms {}": "symbols",
    "trace given.trace --counts {}": "counts.json",
    "conform {}": "vectors.jsonl",
    "decode ./{}": "host",
    "expect --case 1 --host {}": "host",
    "expect --case 1 --design ./{}": "design.py",
    "expect --case 1 --check launched={}": "counts.json",
    "boot --vmlinux {}": "vmlinux",
    "boot --vmlinux given.elf --kernel {} --transport gdb": "bzImage",
    "boot --vmlinux given.elf --initrd {}": "initrd",
    "boot --vmlinux given.elf --replay {}": "found.json",
    "boot --vmlinux given.elf --exercise life --build {}": "tree",
    "boot --vmlinux {} --kvm": "vmlinux",
    "boot --vmlinux given.elf --kvm --tds {}": "scenario.toml",
    "boot --vmlinux given.elf --kvm --modules {}": "tree",
}
"""Command to the file that it would take (:data:`SOUND`)."""

Make = Callable[[Path, bytes], object]


def socket_at(path: Path, _sound: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(path))


KINDS: dict[str, Make] = {
    "missing": lambda path, sound: None,
    "folder": lambda path, sound: path.mkdir(),
    "dangling link": lambda path, sound: path.symlink_to("nowhere"),
    "links in a circle": lambda path, sound: path.symlink_to(path.name),
    "socket": socket_at,
    "unreadable": lambda path, sound: path.symlink_to("/proc/self/mem"),
    "empty": lambda path, sound: path.write_bytes(b""),
    "binary": lambda path, sound: path.write_bytes(bytes(range(256)) * 4),
    "zeros": lambda path, sound: path.write_bytes(bytes(4096)),
    "half": lambda path, sound: path.write_bytes(sound[: len(sound) // 2]),
    "zeros in it": lambda path, sound: path.write_bytes(
        sound[: len(sound) // 2] + bytes(3) + sound[len(sound) // 2 :]
    ),
    "utf-16": lambda path, sound: path.write_bytes(
        (sound.decode("utf-8", "replace") or "text").encode("utf-16")
    ),
    "latin-1": lambda path, sound: path.write_bytes(sound[:-5] + "# Größe\n".encode("latin-1")),
    "packed and cut": lambda path, sound: path.write_bytes(b"\x1f\x8b\x08\0cut"),
    "one long line": lambda path, sound: path.write_bytes(b"x" * 100_000),
    "deep": lambda path, sound: path.write_bytes(b"[" * 100_000),
}

TAKEN = {
    # Logs come from mails and other systems: UTF-16 with its mark is read.
    "run --host {}": {"utf-16"},
    "plan {}": {"utf-16"},
    "plan {} --fleet given.csv --jobs 1": {"utf-16"},
    "expect --case 1 --host {}": {"utf-16"},
    # A log without a status is no error, and may hold any bytes.
    "decode ./{}": {"utf-16", "latin-1", "half", "one long line", "deep"},
    # A kernel with something behind its sections, or between them, is one; and so is a name of 3.
    "boot --vmlinux {}": {"latin-1", "zeros in it"},
    "boot --vmlinux {} --kvm": {"latin-1", "zeros in it"},
    "verify --vmlinux {} --cpus 2": {"latin-1", "zeros in it"},
    # QEMU and the kernel look behind the beginning of what they boot.
    "boot --vmlinux given.elf --kernel {} --transport gdb": {"half", "zeros in it", "latin-1"},
    "boot --vmlinux given.elf --initrd {}": {"half", "zeros in it", "latin-1", "packed and cut"},
}
"""Kinds that a slot takes."""

TABLE = [
    pytest.param(slot, kind, id=f"{slot} {kind}")
    for slot in SLOTS
    for kind in KINDS
    if kind not in TAKEN.get(slot, ())
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    SmallKernel().write(folder / "given.elf")
    (folder / "given.trace").write_bytes(b"")
    (folder / "given.csv").write_bytes(SOUND["vms.csv"])
    return folder


def test_there_are_enough() -> None:
    assert len(TABLE) > 400


@pytest.mark.parametrize(("slot", "kind"), TABLE)
def test_a_file_of_the_wrong_kind(
    slot: str, kind: str, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(given)
    path = Path(f"spoilt-{SLOTS[slot]}")
    KINDS[kind](path, SOUND[SLOTS[slot]])
    before = sorted(os.listdir())
    try:
        line = refused(*slot.format(path).split(" "))
        assert sorted(os.listdir()) == before
    finally:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    assert any(name in line for name in (path.name, "nowhere", "/mem: ")), line
    assert "expected" in line, line
    for word in ("codec", "Traceback", "internal error", "Errno", "None"):
        assert word not in line
    assert len(line) < 1000


@pytest.mark.parametrize("slot", SLOTS)
def test_a_name_that_is_too_long(slot: str, given: Path) -> None:
    line = refused(*slot.format("x" * 300 + SLOTS[slot][-3:]).split(" "), cwd=given)
    assert "expected" in line
    assert "internal error" not in line


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "slot",
    [
        "verify ./{} --cpus 2",
        "verify v2 --cpus 2 --property {}",
        "verify --check {}",
        "conform {}",
        "plan {}",
        "plan 1GiB --counts {}",
        "expect --case 1 --design ./{}",
    ],
)
def test_a_byte_order_mark_changes_nothing(slot: str, tmp_path: Path) -> None:
    """Some editors write one; the same file without it gives the same answer."""
    name = SLOTS[slot]
    answers = []
    for mark in (b"", MARK):
        (tmp_path / name).write_bytes(mark + SOUND[name])
        ended = dpamt(*slot.format(name).split(" "), *(["--json"]), cwd=tmp_path)
        said = re.sub(r'"seconds": [0-9.]+', "", ended.out)
        answers.append((ended.code, said, ended.err))
    assert answers[0] == answers[1]


def test_a_scenario_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(MARK + b'[host]\nmachine = "64MiB"\n')
    assert dpamt("run", "s.toml", cwd=tmp_path).code == 0


SHUT = [slot for slot in SLOTS if "given.elf" not in slot] + [
    "boot --vmlinux given.elf --kernel {} --transport gdb",
    "boot --vmlinux given.elf --initrd {}",
    "boot --vmlinux given.elf --kvm --tds {}",
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("shut", ["file", "folder"])
def test_another_user_may_not_read_it(shut: str, elsewhere: Path) -> None:
    """All slots as one test: the table of another user takes a process for each."""
    (elsewhere / "given.elf").write_bytes(SOUND["vmlinux"])
    (elsewhere / "given.trace").write_bytes(b"")
    (elsewhere / "given.csv").write_bytes(SOUND["vms.csv"])
    for name in ("given.elf", "given.trace", "given.csv"):
        (elsewhere / name).chmod(0o644)
    (elsewhere / "shut").mkdir(mode=0o700 if shut == "folder" else 0o755)
    for name, sound in SOUND.items():
        (elsewhere / "shut" / name).write_bytes(sound)
        (elsewhere / "shut" / name).chmod(0o644 if shut == "folder" else 0o600)
    dpamt("list", "scenarios")
    for slot in SHUT:
        dpamt(*slot.format("no-such").split(" "), cwd=elsewhere)  # so that all is imported
        arguments = slot.format(f"shut/{SLOTS[slot]}").split(" ")
        ended = dpamt_as_another(*arguments, cwd=elsewhere)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), (slot, ended)
        assert "ermission denied" in ended.err, (slot, ended)
        assert f"shut/{SLOTS[slot]}" in ended.err, (slot, ended)
        assert "expected" in ended.err, (slot, ended)
