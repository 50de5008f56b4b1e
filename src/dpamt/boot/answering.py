"""The module's side of a boot: each SEAMCALL answered, written down, and the module looked at."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from dpamt.abi.leaves import TDH_SYS_CONFIG, TDH_VP_ENTER, asked_leaf, leaf_name
from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
from dpamt.abi.registers import REGISTER_NAMES, SeamCall, TdxModuleArgs
from dpamt.abi.tdmr import MAX_TDMRS, SYS_CONFIG_DYNAMIC_PAMT, TDMR_INFO_BYTES
from dpamt.boot.call import Call, Recording
from dpamt.boot.forced import Forced
from dpamt.boot.guest_memory import Bus, GuestMemory, NoSuchMemory
from dpamt.boot.interventions import SEAMCALL_SITES
from dpamt.boot.kvm.freed import FreedPages
from dpamt.boot.kvm.guests import Guests
from dpamt.boot.outcome import DYNAMIC, STATIC, Booted, BootOptions
from dpamt.boot.refcounts import KernelCounts, not_found, surplus
from dpamt.boot.request import Answer, Request
from dpamt.boot.stack import KernelMemory, callers
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage
from dpamt.module.injection import Injector
from dpamt.module.module import TdxModule
from dpamt.module.releases import release_named
from dpamt.module.view import ModuleView
from dpamt.platform.machine import Machine

MAX_CALLS: Final = 5_000_000
"""SEAMCALLs of one boot; a guest that makes more is stopped."""
_KEPT_CALLS: Final = 20_000
_WHOLE_EVERY: Final = 256
"""SEAMCALLs between two looks at the module's whole tree."""
_COUNTS_EVERY: Final = 16
"""SEAMCALLs between two looks at the kernel's own counters."""


class Answering:
    """The module of a guest; what it meets goes into ``result``.

    ``clock`` gives the seconds since the guest was started.
    """

    def __init__(
        self,
        options: BootOptions,
        result: Booted,
        memory: GuestMemory,
        kernel: KernelMemory,
        image: KernelImage,
        recording: Recording | None,
        clock: Callable[[], float],
    ) -> None:
        self._options = options
        self._result = result
        self._memory = memory
        self._bus = Bus(memory)
        self._kernel = kernel
        self._image = image
        self._recording = recording
        self._clock = clock
        self.where: Callable[[int], str] = lambda stack: ""
        """The function of KVM's that makes a SEAMCALL, by its RSP; set when it is known."""
        self._forced = Forced(options.forced)
        self._injector: Injector | None = None
        self._walls: list[SeamCall] = []
        self._view: ModuleView | None = None
        self._counts = KernelCounts(memory, kernel, image)
        result.audit.name = self._counts.name
        result.audit.not_found = not_found(image)
        self.guests = Guests() if options.kvm is not None else None
        self.freed = FreedPages(kernel, image) if options.kvm is not None else None
        self.total = 0
        """SEAMCALLs so far."""

    @property
    def is_loaded(self) -> bool:
        """Whether there is a module already."""
        return bool(self._walls)

    def load(self, machine: Machine) -> None:
        """Make the module; InputError where it cannot be what was asked for."""
        options = self._options
        release = release_named(options.release)
        if options.pamt == STATIC:
            release = replace(release, features0=release.features0 & ~TDX_FEATURES0_DYNAMIC_PAMT)
        elif options.pamt == DYNAMIC and not release.knows_dynamic_pamt:
            raise InputError(f"module {release.name} has no Dynamic PAMT; expected another release")
        module = TdxModule(self._bus, machine, release)
        self._result.machine = machine
        self._result.module = module
        self._view = ModuleView(module)
        self._injector = Injector(module, options.inject) if options.inject else None
        self._walls = [
            self._injector.wrap(lp) if self._injector is not None else lp.seamcall
            for lp in module.processors
        ]

    def answer(self, request: Request, asked: float) -> tuple[Answer, list[str]]:
        """The answer to a SEAMCALL that came at ``asked``, and what is wrong after it.

        Raises ModuleFatal where the module would shut down.
        """
        registers = request.registers
        rax = registers["rax"]
        before = tuple([registers[name] for name in REGISTER_NAMES])
        args = TdxModuleArgs()
        args.rcx, args.rdx, args.r8, args.r9, args.r10, args.r11, args.r12, args.r13 = before
        leaf = asked_leaf(rax)
        if leaf == TDH_SYS_CONFIG:
            self._see_config(args)
        if leaf == TDH_VP_ENTER and self.guests is not None and self._result.module is not None:
            self.guests.about_to_enter(self._result.module, before[0])
        held = self._named(before)
        forced = self._forced.status(leaf) if self._forced.rules else None
        sweep, module = self._result.sweep, self._result.module
        if sweep is not None and module is not None:
            processor = module.processors[request.cpu]
            forced = sweep.seamcall(processor, rax, args, lambda: self.where(registers["rsp"]))
        status = self._walls[request.cpu](rax, args) if forced is None else forced
        after = args.as_tuple()
        self.total += 1
        self._result.counts[leaf, status] += 1
        if self._bus.missed:
            self._see_missed(leaf)
        self._remember(request, asked, before, status, after)
        answer = Answer({"rax": status, **dict(zip(REGISTER_NAMES, after, strict=True))})
        if self.guests is not None and self._result.module is not None:
            more = self.guests.answered(self._result.module, leaf, before, status)
            answer.registers.update(more)
        wrong = self._wrong_now(before, after) + self._freed_now(held | self._named(after))
        if self.guests is not None and not self._options.hold:
            wrong += self.guests.fault_again(leaf, before, status, after)
        return answer, wrong

    def take_stock(self) -> None:
        """What came of the rules."""
        result = self._result
        if self._injector is not None:
            result.injected = [
                (one.rule.text, one.seen, one.hits) for one in self._injector.results
            ]
        result.injected += self._forced.results()

    def _wrong_now(self, before: tuple[int, ...], after: tuple[int, ...]) -> list[str]:
        """What is wrong in the module's tree: in the regions that the call names after each call,
        in all of it at regular numbers of calls, and at the end."""
        module, view = self._result.module, self._view
        assert module is not None
        assert view is not None
        if self.total % _WHOLE_EVERY == 0:
            return view.check()
        if self.total % _COUNTS_EVERY == 0 and (
            wrong := self._wrong_counts(self._counts.wrong_now)
        ):
            return wrong
        regions = {value >> 21 for value in before + after}
        known = [region for region in regions if module.pamt.find_region(region) is not None]
        return [line for region in known for line in view.check_region(region)]

    def _named(self, registers: tuple[int, ...]) -> dict[int, int]:
        """Pages of the module that a call names, where the kernel's account of them is read."""
        module = self._result.module
        if self.freed is None or module is None:
            return {}
        return self.freed.named(module, registers)

    def _freed_now(self, named: dict[int, int]) -> list[str]:
        """Pages that the kernel has freed and the module has: those that a call names, and all of
        them at regular numbers of calls."""
        module = self._result.module
        if self.freed is None or module is None:
            return []
        whole = self.total % _WHOLE_EVERY == 0
        wrong = self.freed.wrong(named | self.freed.held(module) if whole else named)
        if self._result.sweep is not None:
            return []  # each life shows its own
        if self._options.inject or self._options.forced:
            self._result.findings += wrong  # and what KVM does then is to be seen
            return []
        return wrong

    def wrong_at_rest(self) -> list[str]:
        """What is wrong when the guest is gone: the kernel's own counts against the pairs."""
        return self._wrong_counts(self._counts.wrong_at_rest)

    def surplus(self) -> dict[int, int]:
        """By region, how many pages more than TDX uses the kernel counts; empty: not known."""
        module, view = self._result.module, self._view
        if module is None or view is None or not module.pamt.dynamic or not self._counts.is_known:
            return {}
        pages = {region: pair.page_count for region, pair in view.pairs().items()}
        return surplus(self._counts, pages)

    def _wrong_counts(self, judge: Callable[[dict[int, int]], list[str]]) -> list[str]:
        module, view = self._result.module, self._view
        if module is None or view is None or not module.pamt.dynamic or not self._counts.is_known:
            return []
        wrong = judge({region: pages for region, (_, _, pages) in view.pairs().items()})
        audit = self._result.audit
        audit.points, audit.wrong = self._counts.audits, audit.wrong + len(wrong)
        return wrong

    def _see_missed(self, leaf: int) -> None:
        """A pointer to where the guest has no memory, reported once for each leaf."""
        exercise = self._options.exercise
        if exercise is None or exercise.mode != "hostile":
            what = f"{leaf_name(leaf)}: a pointer to where the guest has no memory"
            if not any(finding.startswith(what) for finding in self._result.findings):
                self._result.findings.append(f"{what} ({self._bus.missed[0]:#x})")
        self._bus.missed.clear()

    def _remember(
        self,
        request: Request,
        asked: float,
        before: tuple[int, ...],
        status: int,
        after: tuple[int, ...],
    ) -> None:
        result = self._result
        if self.total > MAX_CALLS:
            result.findings.append(f"more than {MAX_CALLS:,} SEAMCALLs: a flood")
            result.ended = "stopped"
        kept = self.total <= _KEPT_CALLS
        if not kept and self._recording is None:
            return
        call = Call(
            self.total,
            request.cpu,
            asked,
            self._clock(),
            SEAMCALL_SITES[request.site] if request.site < len(SEAMCALL_SITES) else "?",
            self._caller(request),
            request.registers["rax"],
            before,
            status,
            after,
        )
        if kept:
            result.calls.append(call)
        if self._recording is not None:
            self._recording.add(call)

    def _caller(self, request: Request) -> str:
        """The function that called the SEAMCALL wrapper, by the return address on the stack."""
        found = callers(self._kernel, self._image, request.registers["rsp"], most=1)
        return self._image.name_of(found[0]) if found else ""

    def _see_config(self, args: TdxModuleArgs) -> None:
        """Keep the TDMR_INFOs; and ask for Dynamic PAMT where the kernel does not know to."""
        memory = self._memory
        self._result.tdmr_infos = []
        for index in range(min(args.rdx, MAX_TDMRS)):
            try:
                address = memory.read64(args.rcx + 8 * index)
                self._result.tdmr_infos.append(memory.read(address, TDMR_INFO_BYTES))
            except NoSuchMemory:
                break
        if self._options.pamt == DYNAMIC:
            args.r8 |= SYS_CONFIG_DYNAMIC_PAMT
