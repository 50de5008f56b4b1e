"""The page that the VMM and dpamt share."""

import socket
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from dpamt.boot.console import Console
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.kvm.door import Door
from dpamt.boot.kvm.prepare import KvmOptions
from dpamt.boot.kvm.running import KvmRun
from dpamt.boot.kvm.script import Script
from dpamt.boot.outcome import Booted

PLACE = 0x3000


def test_phases_end_at_the_door(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_bytes(bytes(1 << 16))
    memory = GuestMemory([(file, 1 << 16)])
    ours, theirs = socket.socketpair()
    console = Console(ours)
    door = Door(memory, console)
    assert door.knocked() == 0
    assert not door.allocation_failed
    assert (door.free_pages, door.standing(2)) == (0, [])
    theirs.sendall(b"[    1.0] x\r\ndpamt: door 0x3")
    sleep(0.05)
    assert door.knocked() == 0  # the line is not whole
    theirs.sendall(b"000\r\n")
    deadline = monotonic() + 5
    memory.write32(PLACE, 1)
    while not door.knocked() and monotonic() < deadline:
        sleep(0.01)
    assert door.knocked() == 1
    door.open(1)
    assert (memory.read32(PLACE + 4), memory.read32(PLACE + 8)) == (1, 0)
    assert door.knocked() == 0
    memory.write32(PLACE, 2)
    assert door.knocked() == 2
    door.open(2, enough=True)
    assert (memory.read32(PLACE + 4), memory.read32(PLACE + 8)) == (2, 1)
    memory.write32(PLACE + 12, 1)
    memory.write32(PLACE + 16, 99)
    memory.write(PLACE + 128, b"TDX_INIT_VM\0old")
    assert door.allocation_failed
    assert door.free_pages == 99
    assert door.standing(3) == ["", "TDX_INIT_VM", ""]
    options = KvmOptions(Script("", (), ("first", "second", "third")))
    nothing: Any = None
    kvm = KvmRun(options, memory, nothing, nothing, console, Booted([], []), nothing)
    kvm._door = door
    assert kvm.stands(1.0) == ["stuck: second is in TDX_INIT_VM"]
    assert kvm.stands(31.4) == ["stuck: second is in TDX_INIT_VM; no SEAMCALL for 31 s"]
    theirs.close()
    console.finish()
    memory.close()


def test_a_door_where_no_memory_is_is_none(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_bytes(bytes(1 << 16))
    memory = GuestMemory([(file, 1 << 16)])
    ours, theirs = socket.socketpair()
    console = Console(ours)
    theirs.sendall(b"dpamt: door 0x7000000000\r\n")
    theirs.close()
    console.finish()
    assert Door(memory, console).knocked() == 0
    memory.close()
