"""One QEMU and its end: files and sockets for the user alone, and no process left behind."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from io import FileIO
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Final

from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.monitor import Monitor
from dpamt.boot.stub import BELL_PORT
from dpamt.errors import Finding, InputError

PROGRAM: Final = "qemu-system-x86_64"
_SHARED_MEMORY: Final = Path("/dev/shm")
_PR_SET_PDEATHSIG: Final = 1
_LEAST_FREE: Final = 512 << 20
"""What a guest may touch of its memory until it is up, with room to spare."""
_PIPE_BYTES: Final = 1 << 20
_START_SECONDS: Final = 20.0
_END_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class GuestSetup:
    """A guest: ``memory`` bytes, ``cpus`` virtual CPUs, ``nodes`` NUMA nodes, what it boots."""

    kernel: Path
    memory: int
    cpus: int
    nodes: int
    command_line: str
    initrd: Path | None = None
    stopped: bool = False
    """Whether the CPUs stand still until the gdb stub lets them go."""
    gdb: bool = False
    five_level_paging: bool = False
    code_log: tuple[int, int] | None = None
    """(address, bytes) of the code whose instructions are written down when they first run."""


def memory_folder(memory: int) -> Path:
    """Where the file with ``memory`` bytes of guest memory goes: /dev/shm, or where more is free.

    The file is sparse, so a guest may be larger than what is free; but not with next to nothing.
    Raises InputError then.
    """
    folders = [Path(tempfile.gettempdir())]
    if os.access(_SHARED_MEMORY, os.W_OK):
        folders.insert(0, _SHARED_MEMORY)
    free = {folder: shutil.disk_usage(folder).free for folder in folders}
    least = min(memory, _LEAST_FREE)
    for enough in (memory, least):
        for folder in folders:
            if free[folder] >= enough:
                return folder
    told = " and ".join(f"{folder} has {size >> 20:,} MiB free" for folder, size in free.items())
    raise InputError(
        f"{told}; expected {least >> 20:,} MiB for the guest's memory of {memory >> 20:,} MiB"
    )


class Qemu:
    """QEMU under TCG as a context: started on entry, gone on exit, whatever happens.

    Raises InputError when there is no QEMU, Finding when it does not start.
    """

    def __init__(self, setup: GuestSetup) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise InputError(f"no {PROGRAM}; expected QEMU (Debian: qemu-system-x86)")
        self._program = program
        self.setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._code_log: IO[bytes] | None = None

    def __enter__(self) -> "Qemu":
        self._base = memory_folder(self.setup.memory)
        self._folder = Path(tempfile.mkdtemp(prefix="dpamt-boot-", dir=self._base))
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def command(self) -> list[str]:
        """The command line."""
        setup, folder = self.setup, self._folder
        cpu = "max,vendor=GenuineIntel" + ("" if setup.five_level_paging else ",la57=off")
        words = [
            self._program,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", "tcg,thread=multi", "-cpu", cpu, "-smp", str(setup.cpus)),
            *("-m", f"{setup.memory >> 20}M"),
            *("-kernel", str(setup.kernel), "-append", setup.command_line),
        ]
        if setup.initrd is not None:
            words += ["-initrd", str(setup.initrd)]
        files = self._memory_files()
        if setup.nodes == 1:
            words += ["-machine", "q35,memory-backend=ram0"]
        else:
            words += ["-machine", "q35"]
            for node in range(setup.nodes):
                words += ["-numa", f"node,nodeid={node},memdev=ram{node}"]
        for node, (path, size) in enumerate(files):
            backend = f"memory-backend-file,id=ram{node},size={size},mem-path={path},share=on"
            words += ["-object", backend]
        words += ["-chardev", f"pipe,id=serial,path={folder}/serial", "-serial", "chardev:serial"]
        words += ["-chardev", f"socket,id=bell,path={folder}/bell,server=on,wait=off"]
        words += ["-device", f"isa-debugcon,iobase={BELL_PORT:#x},chardev=bell"]
        if setup.code_log is not None:
            start, size = setup.code_log
            words += ["-d", "in_asm", "-D", f"{folder}/code", "-dfilter", f"{start:#x}+{size:#x}"]
        if setup.gdb:
            words += ["-chardev", f"socket,id=gdb,path={folder}/gdb,server=on,wait=off"]
            words += ["-gdb", "chardev:gdb"]
        return [*words, "-S"]

    def _start(self) -> None:
        words = self.command()
        # QEMU waits at -S until the monitor or gdb lets it go: sockets are connected by then.
        monitor = f"socket,id=monitor,path={self._folder}/monitor,server=on,wait=off"
        words += ["-chardev", monitor, "-mon", "chardev=monitor,mode=control"]
        self.serial = self._make_serial()
        libc = ctypes.CDLL(None)

        def dies_with_us() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            preexec_fn=dies_with_us,
        )
        for name in ["bell", "monitor", *(["gdb"] if self.setup.gdb else [])]:
            self._sockets[name] = self._connect(self._folder / name)
        # The monitor greets when the machine is made: not before that are the memory files there.
        try:
            self.monitor = Monitor(self._sockets["monitor"])
        except Finding as error:
            raise Finding(f"{PROGRAM} does not start: {self.said() or error}") from None
        self.memory = GuestMemory(self._memory_files())
        if self.setup.code_log is not None:
            self._code_log = (self._folder / "code").open("rb")
        # Everyone has opened what is in there: gone now, nothing is left behind by a SIGKILL.
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self.setup.stopped:
            try:
                self.monitor.run("cont")
            except Finding as error:
                raise Finding(f"QEMU failed: {self.failure() or error}") from None

    def _make_serial(self) -> FileIO:
        """The end of the pipe that the guest's console comes out of.

        A guest whose characters nobody takes waits for a few milliseconds, and loses them then
        (Linux arch/x86/kernel/early_printk.c, early_serial_putc).  A Unix socket is full after some
        270 single characters: too few where this process does not run for a moment.
        """
        for way in ("in", "out"):
            os.mkfifo(self._folder / f"serial.{way}", 0o600)
        # Without O_NONBLOCK it would wait for QEMU, which is not there yet.
        end = os.open(self._folder / "serial.out", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(end, True)
        with suppress(OSError):  # a user's pipes may not take more
            fcntl(end, F_SETPIPE_SZ, _PIPE_BYTES)
        return FileIO(end)

    def _connect(self, path: Path) -> socket.socket:
        deadline = monotonic() + _START_SECONDS
        while True:
            end = socket.socket(socket.AF_UNIX)
            try:
                end.connect(str(path))
                return end
            except OSError:
                end.close()
            assert self._process is not None
            if self._process.poll() is not None:
                raise Finding(f"{PROGRAM} ended at once: {self.said()}")
            if monotonic() > deadline:
                raise Finding(f"{PROGRAM} does not open {path.name} within {_START_SECONDS:.0f} s")
            sleep(0.01)

    def _memory_files(self) -> list[tuple[Path, int]]:
        """(path, bytes) of each node's memory, the first having what does not divide."""
        setup = self.setup
        share = setup.memory // setup.nodes >> 20 << 20
        sizes = [setup.memory - share * (setup.nodes - 1), *[share] * (setup.nodes - 1)]
        return [(self._folder / f"memory{node}", size) for node, size in enumerate(sizes)]

    def socket(self, name: str) -> socket.socket:
        """The connected socket ``bell`` or ``gdb``."""
        return self._sockets[name]

    def has_ended(self) -> bool:
        """Whether the process is gone: after a reboot it is, by -no-reboot."""
        return self._process is None or self._process.poll() is not None

    def failure(self) -> str:
        """Why it ended, when not by the guest's doing; waits for the process."""
        assert self._process is not None
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its sockets and goes on"
        if code == -signal.SIGBUS:
            free = shutil.disk_usage(self._base).free >> 20
            return (
                f"killed by SIGBUS: {self._base}, where the guest's memory is, is full ({free:,} "
                f"MiB free); expected {self.setup.memory >> 20:,} MiB there, or less --memory"
            )
        return f"exit code {code}: {self.said()}" if code else ""

    def code_log(self) -> bytes:
        """The instructions that ran, as QEMU writes them; whole when it has ended."""
        if self._code_log is None:
            return b""
        self._code_log.seek(0)
        return self._code_log.read()

    def said(self) -> str:
        """What QEMU wrote on its own account."""
        self._errors.seek(0)
        return " ".join(self._errors.read(2000).decode(errors="replace").split())

    def close(self) -> None:
        """Kill it and take its files away."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._errors.close()
        if self._code_log is not None:
            self._code_log.close()
            self._code_log = None
        for end in self._sockets.values():
            end.close()
        self._sockets.clear()
        if hasattr(self, "serial"):
            self.serial.close()
        if hasattr(self, "memory"):
            self.memory.close()
        shutil.rmtree(self._folder, ignore_errors=True)
