"""What dpamt boot costs: TDX on against off, a SEAMCALL against a socket, and memory; one run.

python -m benchmarks.bench_boot --vmlinux FILE [--rounds N] [--json]
"""

import argparse
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from tests.boot.hostile_guest import entry, hostile_kernel
from tests.boot.test_hostile_guest import LOG, MEMORY

from dpamt.boot.mailbox import Mailbox
from dpamt.boot.outcome import BootOptions
from dpamt.boot.qemu import GuestSetup, Qemu
from dpamt.boot.request import Answer
from dpamt.boot.session import boot

NOTHING = 0x3FF
"""A leaf that no module has: refused by the dispatcher."""
CALLS = 20_000
GUEST = 4 << 30


def boot_seconds(vmlinux: Path, tdx: bool) -> float:
    booted = boot(BootOptions(vmlinux, memory=GUEST, tdx=tdx, timeout=300.0))
    assert booted.ended == "reboot", booted.findings
    assert (booted.initialized is not None) is tdx
    return booted.seconds


def seamcall_microseconds() -> float:
    """A guest of a few instructions calls; from its first question to its last answer."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = hostile_kernel(
            Path(folder) / "vmlinux", LOG, [entry(NOTHING, ())] * 100, times=CALLS // 100
        )
        booted = boot(BootOptions(kernel, cpus=1, memory=MEMORY, timeout=300.0))
    calls = booted.calls
    assert len(calls) == CALLS
    # The first one waits for the module to be made.
    return 1e6 * (calls[-1].answered - calls[1].asked) / (len(calls) - 1)


def echo(end: socket.socket) -> None:
    while data := end.recv(64):
        end.sendall(data)


def mailbox_microseconds() -> float:
    """The same guest, answered at once: what the transport itself takes."""
    with tempfile.TemporaryDirectory() as folder:
        questions = [entry(NOTHING, ())] * 100
        kernel = hostile_kernel(Path(folder) / "vmlinux", LOG, questions, times=CALLS // 100)
        with Qemu(GuestSetup(kernel, MEMORY, 1, 1, "")) as qemu:
            mailbox = Mailbox(qemu.memory, qemu.socket("bell"), 1)
            answer, count, begin = Answer({"rax": 0}), 0, 0.0
            while not mailbox.closed:
                for request in mailbox.wait(1.0):
                    begin = begin or time.perf_counter()
                    mailbox.answer(request, answer)
                    count += 1
                    end = time.perf_counter()
    assert count == CALLS
    return 1e6 * (end - begin) / CALLS


def ping_pong_microseconds() -> float:
    """A byte to another Python process and back over a Unix socket."""
    here, there = socket.socketpair()
    other = get_context("fork").Process(target=echo, args=(there,), daemon=True)
    other.start()
    there.close()
    begin = time.perf_counter()
    for _ in range(CALLS):
        here.sendall(b"x")
        here.recv(64)
    seconds = time.perf_counter() - begin
    other.terminate()
    other.join()
    here.close()
    return 1e6 * seconds / CALLS


def own_mebibytes(vmlinux: Path) -> float:
    """The most that a process needs which does nothing but boot a 4 GiB guest."""
    code = f"from benchmarks.bench_boot import tell_peak; tell_peak({str(vmlinux)!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout)


def tell_peak(vmlinux: str) -> None:
    boot_seconds(Path(vmlinux), True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vmlinux", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    boots = [
        (boot_seconds(options.vmlinux, True), boot_seconds(options.vmlinux, False))
        for _ in range(options.rounds)
    ]
    calls = [
        (mailbox_microseconds(), ping_pong_microseconds(), seamcall_microseconds())
        for _ in range(options.rounds)
    ]
    result = {
        "boot_tdx_seconds": statistics.median(on for on, _ in boots),
        "boot_no_tdx_seconds": statistics.median(off for _, off in boots),
        "boot_ratio": statistics.median(on / off for on, off in boots),
        "boot_ratio_target": 1.5,
        "mailbox_us": statistics.median(call for call, _, _ in calls),
        "ping_pong_us": statistics.median(pong for _, pong, _ in calls),
        "call_ratio": statistics.median(call / pong for call, pong, _ in calls),
        "answered_us": statistics.median(answered for _, _, answered in calls),
        "call_ratio_target": 3.0,
        "own_mib": own_mebibytes(options.vmlinux),
        "own_mib_target": 200.0,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"boot to reboot, TDX on     {result['boot_tdx_seconds']:8.2f} s")
    print(f"boot to reboot, TDX off    {result['boot_no_tdx_seconds']:8.2f} s")
    print(f"ratio                      {result['boot_ratio']:8.2f}     (target 1.5)")
    print(f"SEAMCALL that does nothing {result['mailbox_us']:8.1f} us")
    print(f"socket ping-pong           {result['ping_pong_us']:8.1f} us")
    print(f"ratio                      {result['call_ratio']:8.2f}     (target 3)")
    print(f"answered, judged, recorded {result['answered_us']:8.1f} us")
    print(f"dpamt itself, 4 GiB guest  {result['own_mib']:8.1f} MiB   (target 200)")


if __name__ == "__main__":
    main()
