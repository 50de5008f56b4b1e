"""Whatever ends `dpamt boot --kvm`, no QEMU, folder, socket or file of shared memory is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

from tests.boot.kernel.test_kvm import dynamic
from tests.boot.test_qemu import beside, children, is_alive, left_behind, within
from tests.cli.command import environment

pytest.importorskip("capstone")

SHARED = Path("/dev/shm")
SECONDS = 90.0
ENDLESS = """
title = "Longer than any test"
[host]
machine = "4GiB"
cpus = 2
[[td]]
name = "td"
memory = "4MiB"
vcpus = 2
share_2m = 0
image = "4KiB"
[[phase]]
name = "churn"
steps = [{ do = "build" }, { do = "fault" }, { do = "convert", share = 0.5, times = 1000 }]
"""


class Run:
    """`dpamt boot --kvm` in a process of its own, its temporary files in a folder of its own."""

    def __init__(self, build: Path, folder: Path, *words: str) -> None:
        self.folder = folder / "temporary"
        self.folder.mkdir()
        self.record = folder / "record"
        self._shared = shared()
        command = [sys.executable, "-m", "dpamt", "boot", "--vmlinux", str(build / "vmlinux")]
        self.process = subprocess.Popen(
            [*command, "--kvm", "--record", str(self.record), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), "TMPDIR": str(self.folder)},
        )
        self.guests: set[int] = set()
        self.printed = ""

    def is_started(self) -> bool:
        """Whether QEMU, or the compiler before it, runs."""
        self.guests |= set(children(self.process.pid))
        return bool(self.guests)

    def makes_tds(self) -> bool:
        """Whether a TD is there: its first page is added."""
        return self.is_started() and any(
            b"TDH.MEM.PAGE.ADD" in one.read_bytes() for one in beside(self.record)
        )

    def wait(self) -> tuple[int, str]:
        """Its end: exit code and what it said."""
        self.is_started()
        self.printed, said = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said

    def is_gone(self) -> bool:
        """Whether nothing of it is left."""
        return (
            not any(is_alive(guest) for guest in self.guests)
            and list(self.folder.rglob("*")) == []
            and shared() <= self._shared
        )

    def stop(self) -> None:
        """If the test did not end it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def shared() -> set[str]:
    """Files of shared memory that a boot makes."""
    return {name for name in os.listdir(SHARED) if name.startswith("dpamt-boot-")}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["started", "makes_tds"])
def test_a_signal_in_the_middle(build: Path, tmp_path: Path, how: int, when: str) -> None:
    scenario = tmp_path / "endless.toml"
    scenario.write_text(ENDLESS)
    run = Run(dynamic(build), tmp_path, "--tds", str(scenario), "--timeout", "600")
    moments: dict[str, Callable[[], bool]] = {
        "started": run.is_started,
        "makes_tds": run.makes_tds,
    }
    try:
        within(SECONDS, moments[when])
        if when == "makes_tds":
            sleep(0.3)  # VCPUs run and convert
            run.is_started()
            assert [name for guest in run.guests for name in left_behind_of(guest)] == []
        run.process.send_signal(how)
        code, said = run.wait()
        if how != signal.SIGKILL:
            assert (code, said) == (130, "dpamt: interrupted\n")
            within(SECONDS, run.is_gone)
            assert beside(run.record) == []
        elif when == "started":
            # What a SIGKILL leaves while files are made is a folder, never a process.
            within(SECONDS, lambda: not any(map(is_alive, run.guests)))
        else:
            within(SECONDS, run.is_gone)
        assert not run.record.exists()
    finally:
        run.stop()


def left_behind_of(guest: int) -> list[str]:
    """Files with a name that a QEMU has open; a process that is gone has none."""
    try:
        return left_behind(guest)
    except OSError:
        return []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 0),
        (("--inject", "TDH.MNG.VPFLUSHDONE:answer=TDX_OPERAND_INVALID"), 1),
        (("--timeout", "3"), 1),
        (("--memory", "600MiB", "--tds", "@"), 2),
    ],
    ids=["clean", "finding", "time-out", "refusal"],
)
def test_an_end_of_its_own(build: Path, tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    scenario = tmp_path / "large.toml"
    scenario.write_text(ENDLESS.replace("4MiB", "512MiB"))
    chosen = [str(scenario) if one == "@" else one for one in words]
    run = Run(dynamic(build), tmp_path, *chosen)
    try:
        within(SECONDS, lambda: run.is_started() or run.process.poll() is not None)
        assert run.wait()[0] == code, run.printed[-3000:]
        assert run.is_gone()
    finally:
        run.stop()
