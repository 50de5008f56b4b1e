"""One boot from start to end: the guest, its module, what it asked and what it said.

The kernel's SEAMCALLs are answered by a :class:`TdxModule` that lives on the guest's own memory.
Its CMRs come from the memory map that the kernel prints.  After every SEAMCALL the module's tree is
checked; what a real machine would punish ends the run with its story.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK, TDH_SYS_CONFIG
from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
from dpamt.abi.registers import REGISTER_NAMES, SeamCall, TdxModuleArgs
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT, TDMR_INFO_BYTES
from dpamt.boot.call import Call, Recording
from dpamt.boot.console import Complaint, Console, complaints, plain_lines
from dpamt.boot.exerciser import Exercise, Told, build_initrd, read_console
from dpamt.boot.forced import Forced, ForcedRule
from dpamt.boot.gdb import GdbTransport
from dpamt.boot.guest_memory import Bus, NoSuchMemory
from dpamt.boot.hold import HoldRule, Holds
from dpamt.boot.image import KernelImage
from dpamt.boot.interventions import (
    RENDEZVOUS_SITE,
    SEAMCALL_SITES,
    Change,
    Place,
    changed_image,
    changes_for_mailbox,
    find_places,
    find_rendezvous,
)
from dpamt.boot.judge import wrong_answers, wrong_at_rest, wrong_in_threads
from dpamt.boot.mailbox import Mailbox
from dpamt.boot.page_state import Kept, pamt_areas
from dpamt.boot.qemu import GuestSetup, Qemu
from dpamt.boot.request import Answer, Request, Transport
from dpamt.boot.stack import KernelMemory, callers
from dpamt.boot.tiny_initrd import quick_initrd
from dpamt.errors import DpamtError, Finding, InputError
from dpamt.module.fatal import ModuleFatal
from dpamt.module.injection import Injector
from dpamt.module.injection_rules import Rule
from dpamt.module.module import TdxModule
from dpamt.module.releases import release_named
from dpamt.module.view import ModuleView
from dpamt.platform.machine import Machine, Topology
from dpamt.platform.read_machine import machine_from_text

MAILBOX: Final = "mailbox"
GDB: Final = "gdb"
STATIC: Final = "static"
DYNAMIC: Final = "dynamic"
INITIALIZED: Final = "TDX-Module initialized"
COMMAND_LINE: Final = (
    "console=ttyS0 earlyprintk=serial,ttyS0 nokaslr panic=-1 setcpuid=vmx,movdir64b,ss,xsave"
)
"""VMX and MOVDIR64B are what the kernel asks of a CPU for TDX and QEMU's TCG does not show."""
GUEST_PHYSICAL_BITS: Final = 40
"""What QEMU's TCG says in CPUID (TCG_PHYS_ADDR_BITS): KeyIDs begin above, as on a machine whose
firmware has taken their bits away."""
MAX_CALLS: Final = 5_000_000
"""SEAMCALLs of one boot; a guest that makes more is stopped."""
_KEPT_CALLS: Final = 100_000
_TICK: Final = 0.05
_QUIET: Final = 0.05
_HELD_SECONDS: Final = 10.0
_WHOLE_EVERY: Final = 256
"""SEAMCALLs between two looks at the module's whole tree."""
_FRAMES: Final = 8
_MEMORY_MAP: Final = b"e820: "
_RESTARTS: Final = (
    b"reboot: Restarting",
    b"reboot: machine restart",
    b"Kernel panic - not syncing",
)
"""What Linux prints on its way down (kernel/reboot.c, arch/x86/kernel/reboot.c, kernel/panic.c)."""

Progress = Callable[[str, int], None]
"""Told now and then: what the guest is doing, and how many SEAMCALLs it has made."""


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What to boot, on what, and what to do to it; bytes and seconds."""

    vmlinux: Path
    kernel: Path | None = None
    initrd: Path | None = None
    transport: str = MAILBOX
    cpus: int = 2
    memory: int = 4 << 30
    nodes: int = 1
    pamt: str | None = None
    release: str = "2.0.18"
    inject: tuple[Rule, ...] = ()
    forced: tuple[ForcedRule, ...] = ()
    hold: tuple[HoldRule, ...] = ()
    append: str = ""
    timeout: float = 120.0
    build: Path | None = None
    """The kernel's build tree, to build the exerciser against."""
    exercise: Exercise | None = None
    tdx: bool = True
    """False: the guest finds no TDX; for comparison of boot times."""


@dataclass(slots=True)
class Booted:
    """What came of it."""

    places: list[Place]
    changes: list[Change]
    machine: Machine | None = None
    module: TdxModule | None = None
    calls: list[Call] = field(default_factory=list)
    """The first SEAMCALLs; ``counts`` has all of them, by leaf and status."""
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    tdmr_infos: list[bytes] = field(default_factory=list)
    """TDMR_INFO structures of the SYS.CONFIG that the kernel called."""
    initialized: float | None = None
    """Seconds from start to "TDX-Module initialized"."""
    seconds: float = 0.0
    ended: str = ""
    """How it ended: ``reboot``, ``reset`` (without asking), ``timeout``, ``stopped`` (by a
    finding)."""
    console: list[str] = field(default_factory=list)
    complaints: list[Complaint] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """What a real machine would have punished, or what was asked for and did not happen."""
    stacks: list[str] = field(default_factory=list)
    """Where a finding or the time stopped the machine: of each CPU, its stack, innermost first."""
    held: list[int] = field(default_factory=list)
    """By hold rule: how often it held a CPU."""
    told: Told | None = None
    """What the exerciser said."""
    injected: list[tuple[str, int, int]] = field(default_factory=list)
    """By injection rule: its text, calls looked at, calls hit."""
    pamt_kept: list[Kept] = field(default_factory=list)
    """Where the module was not initialised: the PAMT of TDMRs that SYS.CONFIG was given and that
    the kernel did not give back."""

    @property
    def clean(self) -> bool:
        """Whether the module was initialised and nobody complains."""
        return self.initialized is not None and not self.complaints and not self.findings


def boot(
    options: BootOptions,
    recording: Recording | None = None,
    progress: Progress | None = None,
) -> Booted:
    """Boot, answer until the guest is gone, and tell what happened.

    Raises InputError for what cannot be booted, Finding when QEMU does not start.
    """
    image = KernelImage(options.vmlinux)
    places = find_places(image) if options.tdx else []
    for rule in options.hold:
        if rule.call:
            places.append(find_rendezvous(image, *rule.call))
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
        return _Session(options, image, places, changes, stack, recording, progress).run()


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
    ) -> None:
        self._options = options
        self._image = image
        self._result = Booted(places, changes)
        self._holds = Holds(options.hold)
        self._recording = recording
        self._progress = progress
        self._walls: list[SeamCall] = []
        self._done = [0] * options.cpus
        """By CPU: SEAMCALLs and rendezvous that were answered."""
        self._waiting: list[tuple[Request, int, int, float]] = []
        """Requests kept back: (request, rule, count of the other CPU to wait for, deadline)."""
        self._asked: dict[int, float] = {}
        self._injector: Injector | None = None
        self._forced = Forced(options.forced)
        self._qemu = stack.enter_context(self._guest(stack))
        self._began = monotonic()
        self._console = Console(self._qemu.socket("serial"))
        self._bus = Bus(self._qemu.memory)
        self._kernel = KernelMemory(self._qemu.memory, image)
        self._open: dict[int, Request] = {}
        """By CPU: the request that is not answered yet."""
        self._transport = self._make_transport(places)
        self._rendezvous = [rule.call for rule in options.hold if rule.call]

    def _guest(self, stack: ExitStack) -> Qemu:
        from tempfile import TemporaryDirectory

        options = self._options
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dpamt-boot-")))
        kernel = options.kernel or options.vmlinux
        if self._result.changes:
            kernel = folder / "vmlinux"
            kernel.write_bytes(changed_image(self._image, self._result.changes))
        initrd = options.initrd
        if options.exercise is not None:
            build = options.build or options.vmlinux.parent
            initrd = build_initrd(build, self._image, options.exercise, folder)
        elif initrd is None:
            initrd = folder / "initrd"
            initrd.write_bytes(quick_initrd())
        setup = GuestSetup(
            kernel,
            options.memory,
            options.cpus,
            options.nodes,
            f"{COMMAND_LINE} {options.append}".strip() if options.tdx else _without_tdx(options),
            initrd,
            stopped=options.transport == GDB,
            gdb=options.transport == GDB,
        )
        return Qemu(setup)

    def _make_transport(self, places: list[Place]) -> Transport:
        if self._options.transport == GDB:
            return GdbTransport(self._qemu.socket("gdb"), places)
        return Mailbox(self._qemu.memory, self._qemu.socket("bell"), self._options.cpus)

    def run(self) -> Booted:
        """Answer until the end."""
        result = self._result
        deadline = self._began + self._options.timeout
        told = 0.0
        while not result.ended:
            now = monotonic()
            for request in self._transport.wait(_TICK):
                self._asked[request.cpu] = monotonic() - self._began
                self._open[request.cpu] = request
                self._take(request)
                if result.ended:
                    break
            self._let_go_held()
            if result.initialized is None and self._console.says(INITIALIZED.encode()):
                result.initialized = monotonic() - self._began
            if self._transport.closed or self._qemu.has_ended():
                result.ended = result.ended or self._how_it_ended()
            elif now > deadline:
                result.ended = "timeout"
                result.findings.append(
                    f"not at its end after {self._options.timeout:.0f} s; the last line: "
                    f"{self._last_line()!r}"
                )
                result.stacks = self._stacks()
            if self._progress is not None and now - told > 0.2:
                told = now
                self._progress(self._last_line(), sum(result.counts.values()))
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
        result.held = self._holds.times
        if result.initialized is None and self._console.says(INITIALIZED.encode()):
            result.initialized = result.seconds
        if self._options.exercise is not None:
            self._judge_exercise(self._options.exercise)
        for rule, times in zip(self._options.hold, self._holds.times, strict=True):
            if not times:
                result.findings.append(f"hold {rule.text}: no CPU came there")
        if self._injector is not None:
            result.injected = [
                (one.rule.text, one.seen, one.hits) for one in self._injector.results
            ]
        result.injected += [
            (rule.text, self._forced.seen[index], self._forced.hits[index])
            for index, rule in enumerate(self._forced.rules)
        ]
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

    def _take(self, request: Request) -> None:
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
        answer = Answer() if request.site >= RENDEZVOUS_SITE else self._seamcall(request)
        if answer is not None:
            self._done[request.cpu] += 1
            del self._open[request.cpu]
            self._transport.answer(request, answer)

    def _seamcall(self, request: Request) -> Answer | None:
        """The module's answer; None when it has shut down, or the run is to end."""
        if not self._walls:
            self._make_module()
        rax = request.registers["rax"]
        before = tuple(request.registers[name] for name in REGISTER_NAMES)
        args = TdxModuleArgs()
        for name, value in zip(REGISTER_NAMES, before, strict=True):
            setattr(args, name, value)
        leaf = rax & RAX_LEAF_MASK
        if leaf == TDH_SYS_CONFIG:
            self._see_config(args)
        forced = self._forced.status(leaf)
        try:
            status = self._walls[request.cpu](rax, args) if forced is None else forced
        except ModuleFatal as fatal:
            self._stop(request, str(fatal))
            return None
        self._see_missed(leaf)
        self._remember(request, rax, before, status, args)
        wrong = self._wrong_now(before, args)
        if wrong:
            self._stop(request, "; ".join(wrong))
            return None
        registers = dict(zip(REGISTER_NAMES, args.as_tuple(), strict=True))
        return Answer({"rax": status, **registers})

    def _wrong_now(self, before: tuple[int, ...], args: TdxModuleArgs) -> list[str]:
        """What is wrong in the module's tree: in the regions that the call names after each call,
        in all of it every so many calls, and at the end."""
        module = self._result.module
        assert module is not None
        view = ModuleView(module)
        total = self._result.counts.total()
        if total % _WHOLE_EVERY == 0:
            return view.check()
        regions = {value >> 21 for value in (*before, *args.as_tuple())}
        known = [region for region in regions if module.pamt.find_region(region) is not None]
        return [line for region in known for line in view.check_region(region)]

    def _see_missed(self, leaf: int) -> None:
        """A pointer to where the guest has no memory, told once for each leaf."""
        exercise = self._options.exercise
        if self._bus.missed and (exercise is None or exercise.mode != "hostile"):
            what = f"{LEAF_NAMES.get(leaf, leaf)}: a pointer to where the guest has no memory"
            if not any(finding.startswith(what) for finding in self._result.findings):
                self._result.findings.append(f"{what} ({self._bus.missed[0]:#x})")
        self._bus.missed.clear()

    def _stop(self, request: Request, what: str) -> None:
        """The machine stands still: what happened, and where each CPU was."""
        result = self._result
        name = LEAF_NAMES.get(request.registers["rax"] & RAX_LEAF_MASK, "SEAMCALL")
        result.findings.append(f"CPU {request.cpu} in {name}: {what}")
        result.stacks = self._stacks()
        result.ended = "stopped"

    def _remember(
        self,
        request: Request,
        rax: int,
        before: tuple[int, ...],
        status: int,
        args: TdxModuleArgs,
    ) -> None:
        result = self._result
        result.counts[rax & RAX_LEAF_MASK, status] += 1
        number = sum(result.counts.values()) if len(result.calls) < _KEPT_CALLS else 0
        if not number and self._recording is None:
            self._bound()
            return
        call = Call(
            number,
            request.cpu,
            self._asked[request.cpu],
            monotonic() - self._began,
            SEAMCALL_SITES[request.site] if request.site < len(SEAMCALL_SITES) else "?",
            self._caller(request),
            rax,
            before,
            status,
            args.as_tuple(),
        )
        if number:
            result.calls.append(call)
        if self._recording is not None:
            self._recording.add(call)
        self._bound()

    def _bound(self) -> None:
        if self._result.counts.total() > MAX_CALLS:
            self._result.findings.append(f"more than {MAX_CALLS:,} SEAMCALLs: a flood")
            self._result.ended = "stopped"

    def _caller(self, request: Request) -> str:
        """The function that called the SEAMCALL wrapper, by the return address on the stack."""
        found = callers(self._kernel, self._image, request.registers["rsp"], most=1)
        return self._image.symbol_at(found[0]) if found else ""

    def _stacks(self) -> list[str]:
        """Of each CPU, stopped for good: where in the kernel it is."""
        monitor = self._qemu.monitor
        try:
            monitor.run("stop")
            stopped = monitor.registers()
        except Finding as error:
            return [f"where the CPUs stand cannot be told: {error}"]
        told = []
        for cpu, registers in enumerate(stopped):
            request = self._open.get(cpu)
            what = "outside the kernel's code"
            if request is not None:
                what = self._what(request)
                registers = request.registers
            elif self._image.is_text(registers.get("rip", 0)):
                what = self._image.symbol_at(registers["rip"])
            found = callers(self._kernel, self._image, registers.get("rsp", 0), _FRAMES)
            frames = [self._image.symbol_at(address) for address in found]
            told.append(f"CPU {cpu}: {' < '.join([what, *frames])}")
        return told

    def _what(self, request: Request) -> str:
        """What a CPU that waits for its answer asks."""
        if request.site >= RENDEZVOUS_SITE:
            return "held at a rendezvous"
        leaf = request.registers["rax"] & RAX_LEAF_MASK
        return LEAF_NAMES.get(leaf, f"leaf {leaf}")

    # The module.

    def _make_module(self) -> None:
        options = self._options
        machine = machine_of(self._console, options)
        release = release_named(options.release)
        if options.pamt == STATIC:
            release = replace(release, features0=release.features0 & ~TDX_FEATURES0_DYNAMIC_PAMT)
        elif options.pamt == DYNAMIC and not release.knows_dynamic_pamt:
            raise InputError(f"module {release.name} has no Dynamic PAMT; expected another release")
        module = TdxModule(self._bus, machine, release)
        self._result.machine = machine
        self._result.module = module
        self._injector = Injector(module, options.inject) if options.inject else None
        self._walls = [
            self._injector.wrap(lp) if self._injector is not None else lp.seamcall
            for lp in module.processors
        ]

    def _see_config(self, args: TdxModuleArgs) -> None:
        """Keep the TDMR_INFOs; and ask for Dynamic PAMT where the kernel does not know to."""
        memory = self._qemu.memory
        self._result.tdmr_infos = []
        for index in range(min(args.rdx, 64)):
            try:
                address = memory.read64(args.rcx + 8 * index)
                self._result.tdmr_infos.append(memory.read(address, TDMR_INFO_BYTES))
            except NoSuchMemory:
                break
        if self._options.pamt == DYNAMIC:
            args.r8 |= SYS_CONFIG_DYNAMIC_PAMT


def machine_of(console: Console, options: BootOptions) -> Machine:
    """The guest as its own log describes it; raises Finding when that has no memory map."""
    deadline = monotonic() + 5.0
    while monotonic() < deadline:
        # What was printed before the SEAMCALL is on its way; when nothing more comes, it is here.
        if console.says(_MEMORY_MAP) and monotonic() - console.last > _QUIET:
            break
        sleep(_TICK / 10)
    text = console.text()
    # The last line may still be on its way.
    whole = text[: text.rfind("\n") + 1]
    try:
        machine = machine_from_text(whole, "the guest's log")
    except DpamtError as error:
        raise Finding(
            f"the guest calls the module before it says what memory it has: {error}"
        ) from error
    return replace(
        machine,
        topology=Topology(1, options.cpus),
        max_pa_bits=GUEST_PHYSICAL_BITS + machine.keyid_bits,
    )


def _without_tdx(options: BootOptions) -> str:
    return COMMAND_LINE.partition(" setcpuid")[0] + (f" {options.append}" if options.append else "")
