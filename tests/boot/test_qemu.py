"""QEMU's end: whatever happens to dpamt, the process and its files are gone."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dpamt.boot import qemu
from dpamt.boot.qemu import GuestSetup, Qemu, memory_folder
from dpamt.boot.stub import BELL_PORT
from dpamt.errors import Finding, InputError
from tests.boot.hostile_guest import hostile_kernel
from tests.boot.test_hostile_guest import CONFIGURATION, INITIALISE, LOG, MEMORY
from tests.cli.command import environment

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="no QEMU on this machine"
)
SECONDS = 60.0


class Room(NamedTuple):
    free: int


@pytest.mark.parametrize(
    ("shared", "temporary", "memory", "chosen"),
    [
        (8192, 8192, 4096, "shm"),
        (64, 8192, 4096, "tmp"),  # a container's /dev/shm
        (2048, 1024, 4096, "shm"),  # sparse: it may be enough
        (64, 1024, 4096, "tmp"),
        (300, 0, 256, "shm"),
        (64, 128, 4096, ""),
    ],
)
def test_where_the_guests_memory_goes(
    shared: int,
    temporary: int,
    memory: int,
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = {tmp_path / "shm": shared, tmp_path / "tmp": temporary}
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(qemu, "_SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Room(folders[folder] << 20))
    if chosen:
        assert memory_folder(memory << 20) == tmp_path / chosen
        return
    with pytest.raises(InputError) as told:
        memory_folder(memory << 20)
    assert f"{tmp_path / 'shm'} has 64 MiB free" in str(told.value)
    assert "\n" not in str(told.value)


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def left_behind(pid: int) -> list[str]:
    """Files that a process has open and that still have a name, in places for temporary files."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(link)
        except OSError:
            continue
        if "dpamt-boot-" in name and not name.endswith("(deleted)"):
            found.append(name)
    return found


def beside(output: Path) -> list[Path]:
    """The unfinished files beside an output: files.py writes there and renames at the end."""
    return list(output.parent.glob(".dpamt-*"))


def within(seconds: float, happens: Callable[[], bool]) -> None:
    """Wait until it happens.  An AssertionError where it does not: no test goes on without it."""
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle(how: signal.Signals, tmp_path: Path) -> None:
    """The guest would go on for hours."""
    kernel = hostile_kernel(tmp_path / "vmlinux", LOG, INITIALISE, 0, CONFIGURATION)
    record = tmp_path / "record"
    words = ("--smp", "1", "--memory", "256MiB", "--record", str(record))
    command = [sys.executable, "-m", "dpamt", "boot", "--vmlinux", str(kernel), *words]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "TMPDIR": str(temporary)},
    )
    guests: list[int] = []

    def answers() -> bool:
        guests[:] = children(process.pid)
        return bool(guests) and any(one.stat().st_size > 0 for one in beside(record))

    within(SECONDS, answers)
    assert len(guests) == 1
    assert left_behind(guests[0]) == []
    process.send_signal(how)
    _, said = process.communicate(timeout=SECONDS)
    within(SECONDS, lambda: not is_alive(guests[0]))
    assert not record.exists()
    assert list(temporary.iterdir()) == []
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert said == "dpamt: interrupted\n"
        assert beside(record) == []


def test_a_kernel_that_qemu_does_not_take(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"no kernel")
    with pytest.raises(Finding, match="qemu") as told:
        Qemu(GuestSetup(kernel, MEMORY, 1, 1, "")).__enter__()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("nodes", [1, 2])
def test_nothing_of_it_is_open_to_others(nodes: int, tmp_path: Path) -> None:
    kernel = hostile_kernel(tmp_path / "vmlinux", LOG, INITIALISE, 0, CONFIGURATION)
    others = {*children(os.getpid())}  # of other tests
    with Qemu(GuestSetup(kernel, MEMORY, 2, nodes, "")) as qemu:
        words = " ".join(qemu.command())
        assert "tcp" not in words
        assert "path=" in words
        (guest,) = {*children(os.getpid())} - others
        inodes = {
            os.readlink(link).removeprefix("socket:[").rstrip("]")
            for link in Path(f"/proc/{guest}/fd").iterdir()
            if os.readlink(link).startswith("socket:")
        }
        listening = Path(f"/proc/{guest}/net/tcp").read_text().splitlines()[1:]
        listening += Path(f"/proc/{guest}/net/tcp6").read_text().splitlines()[1:]
        assert not inodes & {line.split()[9] for line in listening}
    assert not is_alive(guest)


def command(folder: Path, **more: Any) -> list[tuple[str, str]]:
    """The options of the command line, each with its value."""
    facts: dict[str, Any] = {"memory": 1000 << 20, "cpus": 3, "nodes": 1, "command_line": "a b"}
    made = Qemu(GuestSetup(Path("/boot/bzImage"), **{**facts, **more}))
    made._folder = folder
    program, *words, last = made.command()
    assert program == shutil.which("qemu-system-x86_64")
    assert last == "-S"  # nothing runs before the sockets are connected
    alone = {"-nodefaults", "-no-user-config", "-no-reboot"}
    assert alone <= set(words)
    rest = iter([word for word in words if word not in alone])
    return list(zip(rest, rest, strict=True))


@pytest.mark.parametrize("nodes", [1, 3])
def test_memory_is_that_of_the_nodes(nodes: int, tmp_path: Path) -> None:
    options = command(tmp_path, nodes=nodes)
    named = dict(options)
    assert (named["-m"], named["-smp"], named["-kernel"]) == ("1000M", "3", "/boot/bzImage")
    assert (named["-append"], named["-display"]) == ("a b", "none")
    assert named["-accel"] == "tcg,thread=multi"
    backends = [dict(part.split("=", 1) for part in value.split(",")[1:])
                for name, value in options if name == "-object"]  # fmt: skip
    assert [one["id"] for one in backends] == [f"ram{node}" for node in range(nodes)]
    sizes = [int(one["size"]) for one in backends]
    assert sum(sizes) == 1000 << 20
    assert all(size % (1 << 20) == 0 for size in sizes)
    assert max(sizes) - min(sizes) < nodes << 20
    assert all(one["share"] == "on" for one in backends)
    assert len({one["mem-path"] for one in backends}) == nodes
    assert all(Path(one["mem-path"]).parent == tmp_path for one in backends)
    machine = [value for name, value in options if name == "-machine"]
    assert machine == ["q35,memory-backend=ram0" if nodes == 1 else "q35"]
    joined = [value for name, value in options if name == "-numa"]
    wanted = [f"node,nodeid={node},memdev=ram{node}" for node in range(nodes)]
    assert joined == (wanted if nodes > 1 else [])


def test_every_option_of_a_guest_is_in_its_command(tmp_path: Path) -> None:
    plain = command(tmp_path)
    cpu = dict(plain)["-cpu"]
    assert cpu == "max,vendor=GenuineIntel,la57=off"
    gdb = ("-chardev", f"socket,id=gdb,path={tmp_path}/gdb,server=on,wait=off")
    log = [("-d", "in_asm"), ("-D", f"{tmp_path}/code"), ("-dfilter", "0x1000+0x234")]
    cases: tuple[tuple[dict[str, Any], list[tuple[str, str]]], ...] = (
        ({"initrd": Path("/ram")}, [("-initrd", "/ram")]),
        ({"gdb": True}, [gdb, ("-gdb", "chardev:gdb")]),
        ({"code_log": (0x1000, 0x234)}, log),
        ({"stopped": True}, []),
    )
    for changed, more in cases:
        found = command(tmp_path, **changed)
        assert [option for option in found if option not in plain] == more
        assert [option for option in found if option not in more] == plain
    assert dict(command(tmp_path, five_level_paging=True))["-cpu"] == "max,vendor=GenuineIntel"
    ends = [value for name, value in plain if name == "-chardev"]
    assert ends == [
        f"pipe,id=serial,path={tmp_path}/serial",
        f"socket,id=bell,path={tmp_path}/bell,server=on,wait=off",
    ]
    assert dict(plain)["-serial"] == "chardev:serial"
    assert dict(plain)["-device"] == f"isa-debugcon,iobase={BELL_PORT:#x},chardev=bell"
