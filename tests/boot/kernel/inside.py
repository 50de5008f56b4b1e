"""A recorder inside the guest of `dpamt boot`: the scripts of `dpamt trace --how`, run there while
the exerciser lives its TDs.

The guest's RAM disk has Debian's static busybox, the recorder with its libraries where it has some,
the script as dpamt prints it, and an init that starts it, loads the exerciser, and sends the trace
through the console.
"""

import base64
import gzip
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpamt.boot.call import Recording
from dpamt.boot.exerciser import build_files, parse_exercise
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.session import boot
from dpamt.boot.tiny_initrd import archive
from dpamt.kernel_image.vmlinux import KernelImage
from dpamt.trace.how import Wanted, how

_FIRST = """#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/busybox mkdir -p /bin /own /tmp
/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
export PATH=/bin:/usr/bin HOME=/own BPFTRACE_KERNEL_SOURCE=/headers
dmesg -n 1
ulimit -l unlimited
cd /own
mkfifo /go
exec 9<> /go
"""
_LAST = """
echo dpamt-said
cat /own/said
echo dpamt-begin
gzip -c /own/trace.txt | base64
echo dpamt-end
reboot -f
"""
_HEADERS = {
    "headers/include/linux/types.h": b"typedef unsigned int u32;\n",
    "headers/include/linux/kconfig.h": b"\n",
}
"""What Debian's bpftrace looks for before it compiles anything, where a kernel has no BTF."""
_EXERCISE = "insmod /exerciser.ko $(cat /parameters) 2> /dev/null\nsleep 1\n"
_STARTED = {
    "ftrace": "grep -q 1 events/dpamt/enable",
    "trace-cmd": "grep -q 1 events/dpamt/enable && sleep 1",
    "perf": "test -s /own/perf.data && sleep 3",
    "bpftrace": "test $(wc -l < /sys/kernel/debug/kprobes/list) -ge 8 && sleep 1",
}
_SCRIPTS = {
    "bpftrace": "bpftrace -o /own/trace.txt /record {more} > /own/said 2>&1 < /dev/null &",
}
_SHELL = "sh /record < /go > /own/said 2>&1 &"
_STOP = {
    "ftrace": "echo >&9\n",
    "trace-cmd": "kill -INT $(pidof trace-cmd | tr ' ' '\\n' | sort -n | head -1)\n",
    "perf": "kill -INT $(pidof perf)\n",
    "bpftrace": "kill -INT $(pidof bpftrace)\n",
}


@dataclass
class Recorded:
    """What came of it: the boot, its record from outside, the trace from inside."""

    booted: Booted
    outside: Path
    trace: bytes
    said: str


def init_of(tool: str, more: str) -> str:
    """The guest's init."""
    start = _SCRIPTS.get(tool, _SHELL).format(more=more)
    wait = (
        "n=0\nuntil (cd /sys/kernel/tracing; "
        + _STARTED[tool]
        + ") 2> /dev/null; do sleep 0.2; n=$((n + 1)); test $n -lt 300 || break; done\n"
    )
    return f"{_FIRST}{start}\nrecorder=$!\n{wait}{_EXERCISE}{_STOP[tool]}wait $recorder\n{_LAST}"


def program(name: str) -> dict[str, bytes]:
    """A program and the libraries that it is linked with, by their names in the guest."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    path = Path(found)
    if path.read_bytes()[:2] == b"#!":  # Debian's perf is a script that looks for the real one
        path = max(path.parent.glob(f"{name}_*"), default=path)
    files = {f"usr/bin/{name}": path.read_bytes()}
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", said):
        files[library[1:]] = Path(library).read_bytes()
    return files


def record_inside(
    build: Path,
    folder: Path,
    tool: str,
    exercise: str = "life:threads=1:rounds=1",
    wanted: Wanted | None = None,
    more: str = "",
    **options: Any,
) -> Recorded:
    """Boot with the recorder of this name, and return what both sides wrote down."""
    if "CONFIG_KPROBE_EVENTS=y" not in (build / ".config").read_text():
        pytest.skip(f"{build}: no CONFIG_KPROBE_EVENTS")
    busybox = Path("/bin/busybox")
    if not busybox.exists() or b"/ld-linux" in busybox.read_bytes():
        pytest.skip("no static busybox here (Debian: busybox-static)")
    vmlinux = build / "vmlinux"
    files = build_files(build, KernelImage(vmlinux), parse_exercise(exercise), folder)
    files["init"] = init_of(tool, more).encode()
    files["busybox"] = busybox.read_bytes()
    files["record"] = how(tool, wanted).encode()
    if tool != "ftrace":
        files |= program(tool) | _HEADERS
    initrd = folder / "with-recorder"
    initrd.write_bytes(archive(files))
    outside = folder / "outside.jsonl"
    with outside.open("w") as file:
        chosen = BootOptions(vmlinux, initrd=initrd, **{"timeout": 240.0, **options})
        booted = boot(chosen, Recording(file, vmlinux=str(vmlinux)))
    lines = booted.console
    assert "dpamt-end" in lines, lines[-40:]
    said, begin, end = (lines.index(f"dpamt-{name}") for name in ("said", "begin", "end"))
    trace = gzip.decompress(base64.b64decode("".join(lines[begin + 1 : end])))
    return Recorded(booted, outside, trace, "\n".join(lines[said + 1 : begin]))
