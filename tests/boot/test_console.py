"""What a kernel says, and what of it is a complaint."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from dpamt.boot.console import Console, complaints, plain_lines
from dpamt.boot.qemu import PROGRAM, GuestSetup, Qemu

OFFLINE = """\
[    3.511111] smpboot: CPU 1 is now offline
[    3.512345] ------------[ cut here ]------------
[    3.512399] WARNING: arch/x86/virt/vmx/tdx/tdx.c:158 at tdx_offline_cpu+0x51/0x60
[    3.512400] Modules linked in:
[    3.512401] RIP: 0010:tdx_offline_cpu+0x51/0x60
[    3.512402] Call Trace:
[    3.512403]  <TASK>
[    3.512404]  cpuhp_invoke_callback+0x1a0/0x3c0
[    3.512405]  ? ret_from_fork+0x20/0x207
[    3.512406]  cpuhp_thread_fun+0x9e/0x150
[    3.512407]  </TASK>
[    3.512408] ---[ end trace 0000000000000000 ]---
[    3.600000] all is well
"""


def test_a_warning_with_its_stack() -> None:
    (found,) = complaints(plain_lines(OFFLINE))
    assert found.kind == "WARNING"
    assert found.text.startswith("arch/x86/virt/vmx/tdx/tdx.c:158 at tdx_offline_cpu")
    assert found.stack == (
        "tdx_offline_cpu+0x51/0x60",
        "cpuhp_invoke_callback+0x1a0/0x3c0",
        "cpuhp_thread_fun+0x9e/0x150",
    )


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        ("BUG: sleeping function called from invalid context at mm/page_alloc.c:1", "BUG"),
        ("BUG: KASAN: slab-out-of-bounds in tdx_pamt_put+0x1/0x2", "sanitizer"),
        ("BUG: KCSAN: data-race in tdx_pamt_get / tdx_pamt_put", "sanitizer"),
        ("UBSAN: shift-out-of-bounds in x.c:1:2", "sanitizer"),
        ("kernel BUG at mm/page_alloc.c:373!", "BUG"),
        ("Oops: general protection fault, maybe for address 0x1", "Oops"),
        ("Kernel panic - not syncing: Attempted to kill init!", "panic"),
        ("refcount_t: underflow; use-after-free.", "refcount"),
        ("INFO: task swapper/0:1 blocked for more than 120 seconds.", "stall"),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "stall"),
        ("unchecked MSR access error: RDMSR from 0x87", "MSR"),
    ],
)
def test_kinds(line: str, kind: str) -> None:
    (found,) = complaints([line])
    assert found.kind == kind


def test_what_is_no_complaint() -> None:
    quiet = ["virt/tdx: TDX-Module initialized", "Spectre V2 : WARNING: not really", "Bug report"]
    assert complaints(quiet) == []


def test_a_console_is_read_to_its_end_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpamt.boot.console.MAX_BYTES", 1000)
    ours, end = socket.socketpair()
    console = Console(end)
    ours.sendall(b"[    0.000000] first\r\n")
    ours.sendall(b"x" * 5000)
    ours.close()
    console.finish()
    assert console.says(b"first")
    assert console.lines()[0] == "first"
    assert len(console.text()) <= 1000
    end.close()


def test_a_guest_whose_console_nobody_reads_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """What it says waits in the pipe that QEMU writes into; a socket takes 278 characters."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"no {PROGRAM}")
    setup = GuestSetup(tmp_path / "kernel", 64 << 20, 1, 1, "", stopped=True)
    qemu = Qemu(setup)
    qemu._folder = tmp_path
    serial = qemu._make_serial()
    guest = os.open(tmp_path / "serial.out", os.O_RDWR | os.O_NONBLOCK)
    text = "".join(f"[    0.{n:06}] line {n}\n" for n in range(800))
    for character in text.encode():
        assert os.write(guest, bytes((character,))) == 1
    console = Console(serial)
    os.close(guest)
    console.finish()
    serial.close()
    assert console.text() == text
