"""One boot from start to end: the guest, its module, what it asked and what it said.

The kernel's SEAMCALLs are answered by a :class:`TdxModule` that lives on the guest's own memory.
Its CMRs come from the memory map that the kernel prints.  After every SEAMCALL the module's tree is
checked; what a real machine would punish ends the run with its story.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import IO, Final

from dpamt.abi.leaves import RAX_LEAF_MASK, leaf_name
from dpamt.boot.answering import Answering
from dpamt.boot.breakpoints import BreakpointMailbox
from dpamt.boot.call import Recording
from dpamt.boot.command_line import command_line
from dpamt.boot.console import Console, complaints, plain_lines
from dpamt.boot.core_file import write_core
from dpamt.boot.delays import Delays
from dpamt.boot.exerciser import Exercise, build_initrd, read_console
from dpamt.boot.gdb import GdbTransport
from dpamt.boot.guest_machine import machine_of
from dpamt.boot.hold import Holds, held_calls
from dpamt.boot.instruction_schedule import GuestWords, InstructionFollower, has_instructions
from dpamt.boot.interventions import (
    RENDEZVOUS_SITE,
    Change,
    Place,
    changed_image,
    changes_for_mailbox,
    find_places,
    find_rendezvous,
)
from dpamt.boot.judge import wrong_answers, wrong_at_rest, wrong_in_threads
from dpamt.boot.kvm.allocations import Allocations, keeps_freed
from dpamt.boot.kvm.coverage import MODULES_AREA
from dpamt.boot.kvm.loaded import LoadedCode
from dpamt.boot.kvm.prepare import prepare_kvm
from dpamt.boot.kvm.running import KvmRun
from dpamt.boot.kvm.sweep import Sweep
from dpamt.boot.mailbox import Mailbox
from dpamt.boot.outcome import GDB, INITIALIZED, MAILBOX, Booted, BootOptions
from dpamt.boot.page_state import pamt_areas
from dpamt.boot.qemu import GuestSetup, Qemu
from dpamt.boot.request import Answer, Request, Transport
from dpamt.boot.schedule import Follower, is_step
from dpamt.boot.stack import KernelMemory, callers
from dpamt.boot.tiny_initrd import archive, quick_initrd
from dpamt.errors import Finding, InputError
from dpamt.kernel_image.vmlinux import KernelImage
from dpamt.module.fatal import ModuleFatal
from dpamt.module.view import ModuleView

_TICK: Final = 0.05
_KVM_TICK: Final = 0.005
"""With KVM: a VMM that waits at the end of a phase makes no request."""
_HELD_SECONDS: Final = 10.0
_FRAMES: Final = 8
_RESTARTS: Final = (
    b"reboot: Restarting",
    b"reboot: machine restart",
    b"Kernel panic - not syncing",
)
"""What Linux prints on its way down (kernel/reboot.c, arch/x86/kernel/reboot.c, kernel/panic.c)."""

Progress = Callable[[str, int], None]
"""Called now and then with what the guest is doing, and how many SEAMCALLs it has made."""


def boot(
    options: BootOptions,
    recording: Recording | None = None,
    progress: Progress | None = None,
    core: IO[bytes] | None = None,
) -> Booted:
    """Boot, answer until the guest is gone, and tell what happened.

    ``core`` is written to once (:mod:`dpamt.boot.core_file`).

    Raises InputError for what cannot be booted, Finding when QEMU does not start.
    """
    image = KernelImage(options.vmlinux)
    places = find_places(image) if options.tdx else []
    places += [find_rendezvous(image, *call) for call in held_calls(options.hold)]
    if options.transport == MAILBOX and options.kernel is not None:
        raise InputError(
            f"{options.kernel}: the mailbox changes a copy of vmlinux and boots that; expected "
            "--transport gdb with --kernel"
        )
    if options.kernel is None and not image.has_pvh_entry:
        raise InputError(
            f"{options.vmlinux}: CONFIG_PVH is not set, so QEMU cannot boot it; expected a kernel "
            "with it, or --kernel bzImage with --transport gdb"
        )
    changes = changes_for_mailbox(image, places) if options.transport == MAILBOX else []
    with ExitStack() as stack:
        return _Session(options, image, places, changes, stack, recording, progress, core).run()


class _Session:
    def __init__(
        self,
        options: BootOptions,
        image: KernelImage,
        places: list[Place],
        changes: list[Change],
        stack: ExitStack,
        recording: Recording | None,
        progress: Progress | None,
        core: IO[bytes] | None,
    ) -> None:
        self._options = options
        self._core = core
        self._image = image
        self._result = Booted(places, changes)
        if options.kvm is not None and options.kvm.sweep:
            self._result.sweep = Sweep(options.kvm.sweep)
        if options.kvm is not None and options.kvm.allocations:
            every = options.kvm.allocations
            self._result.allocations = Allocations(every, keeps_freed(image))
        self._holds = Holds(options.hold)
        self._delays = Delays(options.delays)
        self._late: list[tuple[float, Request]] = []
        """Requests that are delayed, and until when."""
        self._follower: Follower | None = None
        self._moved = 0.0
        """When the follower was last asked."""
        self._progress = progress
        self._done = [0] * options.cpus
        """By CPU: SEAMCALLs and rendezvous that were answered."""
        self._waiting: list[tuple[Request, int, int, float]] = []
        """Requests kept back: (request, rule, count of the other CPU to wait for, deadline)."""
        self._asked: dict[int, float] = {}
        self._last = 0.0
        """When the last request came."""
        with TemporaryDirectory(prefix="dpamt-boot-") as folder:
            # QEMU has read its kernel and RAM disk when it has started.
            self._qemu = stack.enter_context(self._guest(Path(folder)))
        self._began = monotonic()
        self._console = Console(self._qemu.serial)
        self._kernel = KernelMemory(self._qemu.memory, image)
        self._answering = Answering(
            options,
            self._result,
            self._qemu.memory,
            self._kernel,
            image,
            recording,
            lambda: monotonic() - self._began,
        )
        self._kvm = None
        freed = self._answering.freed
        if options.kvm is not None and freed is not None:
            memory, kernel = self._qemu.memory, self._kernel
            self._kvm = KvmRun(
                options.kvm, memory, kernel, image, self._console, self._result, freed
            )
            self._kvm.surplus = self._answering.surplus
            self._answering.where = self._kvm.where
        self._open: dict[int, Request] = {}
        """By CPU: the request that is not answered yet."""
        self._transport = self._make_transport(places)
        if options.replay is not None and options.exercise is not None:
            design = options.exercise.parameters["design"]
            self._follower = Follower(options.replay, design)
            if isinstance(self._transport, BreakpointMailbox):
                words = GuestWords(image, self._kernel)
                self._follower = InstructionFollower(options.replay, design, words, self._transport)
            self._result.followed = self._follower.result
        self._rendezvous = held_calls(options.hold)

    def _guest(self, folder: Path) -> Qemu:
        options = self._options
        kernel = options.kernel or options.vmlinux
        if options.kvm is not None:
            prepared = prepare_kvm(options.kvm, self._image, self._result.changes, folder)
            self._result.prepared = prepared
            self._result.changes.append(prepared.kernel_change)
        if self._result.changes:
            kernel = folder / "vmlinux"
            kernel.write_bytes(changed_image(self._image, self._result.changes))
        initrd = options.initrd
        if options.exercise is not None:
            build = options.build or options.vmlinux.parent
            initrd = build_initrd(build, self._image, options.exercise, folder)
        elif self._result.prepared is not None:
            initrd = folder / "initrd"
            initrd.write_bytes(archive(self._result.prepared.files))
        elif initrd is None:
            initrd = folder / "initrd"
            initrd.write_bytes(quick_initrd())
        setup = GuestSetup(
            kernel,
            options.memory,
            options.cpus,
            options.nodes,
            command_line(options),
            initrd,
            stopped=options.transport == GDB,
            gdb=options.transport == GDB or has_instructions(options.replay),
            code_log=MODULES_AREA if options.kvm is not None and options.kvm.coverage else None,
        )
        return Qemu(setup)

    def _make_transport(self, places: list[Place]) -> Transport:
        if self._options.transport == GDB:
            return GdbTransport(self._qemu.socket("gdb"), places)
        bell, cpus = self._qemu.socket("bell"), self._options.cpus
        mailbox = Mailbox(self._qemu.memory, bell, cpus)
        if not has_instructions(self._options.replay):
            return mailbox
        return BreakpointMailbox(mailbox, bell, self._qemu.socket("gdb"), cpus)

    def run(self) -> Booted:
        """Answer until the end."""
        result = self._result
        deadline = self._began + self._options.timeout
        told = looked = 0.0
        while not result.ended:
            requests = self._transport.wait(self._patience())
            now = monotonic()
            for request in requests:
                self._asked[request.cpu] = self._last = now - self._began
                self._open[request.cpu] = request
                self._take(request)
                if result.ended:
                    break
            if self._kvm is not None:
                self._kvm.look()
            if self._late:
                self._take_late()
            if self._waiting:
                self._let_go_held()
            follower = self._follower
            if follower is not None and follower.is_waiting and now > self._moved + _HELD_SECONDS:
                result.stacks = self._stacks()
                let_go = follower.give_up(follower.missing(_HELD_SECONDS))
                self._qemu.monitor.run("cont")
                for request in let_go:
                    self._answer(request)
            if result.initialized is None and self._console.last > looked:
                looked = now
                if self._console.says(INITIALIZED.encode()):
                    result.initialized = monotonic() - self._began
            if result.ended:
                continue
            if self._transport.closed or (not requests and self._qemu.has_ended()):
                result.ended = self._how_it_ended()
            elif now > deadline:
                result.ended = "timeout"
                result.findings.append(
                    f"not at its end after {self._options.timeout:.0f} s; the last line: "
                    f"{self._last_line()!r}"
                )
                if self._kvm is not None:
                    result.findings += self._kvm.stands(now - self._began - self._last)
                result.stacks = self._stacks()
            if self._progress is not None and now - told > 0.2:
                told = now
                self._progress(self._last_line(), self._answering.total)
        return self._finished()

    def _how_it_ended(self) -> str:
        """A guest that is gone has asked for its restart, in words, or was reset."""
        self._console.finish()
        failure = self._qemu.failure()
        if failure:
            raise Finding(f"QEMU failed: {failure}")
        if any(self._console.says(words) for words in _RESTARTS):
            return "reboot"
        self._result.findings.append("the guest was reset without asking for it (a triple fault?)")
        return "reset"

    def _last_line(self) -> str:
        lines = [line for line in self._console.lines() if line.strip()]
        return lines[-1][:70] if lines else "nothing printed yet"

    def _finished(self) -> Booted:
        result = self._result
        self._console.finish()
        result.seconds = monotonic() - self._began
        result.console = plain_lines(self._console.text())
        result.complaints = complaints(result.console)
        if result.module is not None and result.ended != "stopped":
            result.findings += ModuleView(result.module).check()
        if result.ended == "reboot":
            result.findings += self._answering.wrong_at_rest()
        if result.audit.not_found and result.module is not None and result.module.pamt.dynamic:
            result.findings.append(f"refcounts NOT audited: {result.audit.not_found}")
        result.held = self._holds.times
        if result.initialized is None and self._console.says(INITIALIZED.encode()):
            result.initialized = result.seconds
        if self._options.exercise is not None:
            self._judge_exercise(self._options.exercise)
        if self._kvm is not None:
            dictates = bool(self._options.forced)
            injects = dictates or bool(self._options.inject)
            log = self._qemu.code_log()
            self._kvm.judge(self._answering.guests, log, injects, dictates)
        followed = result.followed
        if followed is not None and not followed.is_same:
            why = followed.departure or "it ended before"
            result.findings.append(
                f"replay: {len(followed.done)} of {len(followed.points)} steps as in the "
                f"counterexample: {why}"
            )
        if self._core is not None and result.core is None:
            if self._options.core_at is not None:
                result.findings.append(
                    f"core: SEAMCALL {self._options.core_at:,} was never made "
                    f"({self._answering.total:,} were); the core is of the end"
                )
            self._write_core()
        for rule, times in zip(self._options.hold, self._holds.times, strict=True):
            if not times:
                result.findings.append(f"hold {rule.text}: no CPU came there")
        self._answering.take_stock()
        result.injected += self._delays.results()
        if result.initialized is None:
            areas = pamt_areas(self._qemu.memory, self._kernel, self._image, result.tdmr_infos)
            result.pamt_kept = [area for area in areas if area.is_kept]
        return result

    def _judge_exercise(self, exercise: Exercise) -> None:
        result = self._result
        told = result.told = read_console(result.console)
        result.findings += wrong_in_threads(told, exercise.mode)
        if exercise.mode != "hostile":
            result.findings += wrong_answers(result.counts)
        if result.module is not None and result.ended == "reboot":
            result.findings += wrong_at_rest(result.module, told)

    # Requests.

    def _patience(self) -> float:
        """Seconds to wait for a request: until the next delayed one is due at most."""
        tick = _TICK if self._kvm is None else _KVM_TICK
        if not self._late:
            return tick
        due = min(when for when, _ in self._late)
        return min(tick, max(due - monotonic(), 0.001))

    def _take(self, request: Request) -> None:
        """A request that comes in: at once, or late."""
        if self._delays.rules and request.site < RENDEZVOUS_SITE:
            seconds = self._delays.seconds(request.registers["rax"] & RAX_LEAF_MASK)
            if seconds and self._options.transport == GDB:
                sleep(seconds)  # all CPUs stand still there, as at every call
            elif seconds:
                self._late.append((monotonic() + seconds, request))
                return
        self._admit(request)

    def _take_late(self) -> None:
        """Those whose time has come, in its order."""
        now = monotonic()
        due = sorted((late for late in self._late if late[0] <= now), key=lambda late: late[0])
        self._late = [late for late in self._late if late[0] > now]
        for _, request in due:
            if not self._result.ended:
                self._admit(request)

    def _admit(self, request: Request) -> None:
        if self._follower is not None:
            self._moved = monotonic()
            for one in self._follower.take(request):
                self._answer(one)
            return
        if request.site >= RENDEZVOUS_SITE:
            number = request.site - RENDEZVOUS_SITE
            known = number < len(self._rendezvous)
            place: tuple[str, str] | tuple[()] = self._rendezvous[number] if known else ()
            rule = self._holds.picked(request.cpu, -1, place)
        else:
            leaf = request.registers["rax"] & RAX_LEAF_MASK
            rule = self._holds.picked(request.cpu, leaf, ())
        if rule >= 0:
            wanted = self._holds.rules[rule]
            count = self._done[wanted.other] + wanted.calls
            deadline = monotonic() + _HELD_SECONDS
            self._waiting.append((request, rule, count, deadline))
            return
        self._answer(request)

    def _let_go_held(self) -> None:
        for held in list(self._waiting):
            request, rule, count, deadline = held
            wanted = self._holds.rules[rule]
            if self._done[wanted.other] < count:
                if monotonic() < deadline:
                    continue
                missing = count - self._done[wanted.other]
                self._result.findings.append(
                    f"hold {wanted.text}: CPU {wanted.other} did {wanted.calls - missing} of "
                    f"{wanted.calls} calls within {_HELD_SECONDS:.0f} s"
                )
            self._waiting.remove(held)
            self._answer(request)

    def _answer(self, request: Request) -> None:
        if request.site >= RENDEZVOUS_SITE:
            answer: Answer | None = Answer()
        elif self._follower is not None and is_step(request):
            answer = Answer({"rax": 0})
        else:
            answer = self._seamcall(request)
            if answer is not None and self._follower is not None:
                self._follower.answered(request, answer.registers["rax"])
        if answer is not None:
            self._done[request.cpu] += 1
            del self._open[request.cpu]
            self._transport.answer(request, answer)

    def _seamcall(self, request: Request) -> Answer | None:
        """The module's answer; None when it has shut down, or the run is to end."""
        answering = self._answering
        if not answering.is_loaded:
            answering.load(machine_of(self._console, self._options.cpus))
        if answering.total + 1 == self._options.core_at:
            # Through gdb all CPUs stand still at every SEAMCALL.
            runs = self._options.transport == MAILBOX and self._core is not None
            if runs:
                self._qemu.monitor.run("stop")
            self._write_core()
            if runs:
                self._qemu.monitor.run("cont")
        try:
            answer, wrong = answering.answer(request, self._asked[request.cpu])
        except ModuleFatal as fatal:
            self._stop(request, str(fatal))
            return None
        if wrong:
            self._stop(request, "; ".join(wrong))
            return None
        return answer

    def _write_core(self) -> None:
        """The guest's memory as it is now, once."""
        if self._core is None or self._result.core is not None:
            return
        size = write_core(self._core, self._qemu.memory, self._kernel, self._image)
        self._result.core = size, self._answering.total

    def _stop(self, request: Request, what: str) -> None:
        """The machine stands still: what happened, and where each CPU was."""
        result = self._result
        name = leaf_name(request.registers["rax"])
        result.findings.append(f"CPU {request.cpu} in {name}: {what}")
        result.stacks = self._stacks()
        result.ended = "stopped"

    def _stacks(self) -> list[str]:
        """Of each CPU, stopped for good: where in the kernel it is."""
        monitor = self._qemu.monitor
        try:
            monitor.run("stop")
            stopped = monitor.registers()
        except Finding as error:
            return [f"it is not known where the CPUs stand: {error}"]
        told = []
        prepared = self._result.prepared
        files = prepared.modules if prepared is not None else {}
        code = LoadedCode(files, self._console.lines())

        def name_of(address: int) -> str:
            return code.name_of(address) or self._image.name_of(address)

        for cpu, registers in enumerate(stopped):
            request = self._open.get(cpu)
            what = "outside the kernel's code"
            if request is not None:
                what = self._what(request)
                registers = request.registers
            elif self._image.is_text(rip := registers.get("rip", 0)) or code.name_of(rip):
                what = name_of(rip)
            stack = registers.get("rsp", 0)
            is_module = lambda address: bool(code.name_of(address))  # noqa: E731
            found = callers(self._kernel, self._image, stack, _FRAMES, is_module)
            frames = [name_of(address) for address in found]
            told.append(f"CPU {cpu}: {' < '.join([what, *frames])}")
        return told

    def _what(self, request: Request) -> str:
        """What a CPU that waits for its answer asks."""
        if request.is_breakpoint:
            return f"held at {self._image.name_of(request.registers['rip'])}"
        if request.site >= RENDEZVOUS_SITE:
            return "held at a rendezvous"
        if self._follower is not None and is_step(request):
            return "held before its next step"
        return leaf_name(request.registers["rax"])
