"""KVM's part in a boot: phases that end, and what is judged when the guest is gone."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dpamt.boot.console import Console
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.kvm.coverage import coverage_of, instructions_in, sections_said
from dpamt.boot.kvm.door import Door
from dpamt.boot.kvm.freed import FreedPages
from dpamt.boot.kvm.guests import Guests
from dpamt.boot.kvm.judge import left_over, wrong_with_kvm
from dpamt.boot.kvm.loaded import LoadedCode
from dpamt.boot.kvm.prepare import KvmOptions
from dpamt.boot.kvm.stock import Stocks
from dpamt.boot.kvm.sweep import expected_warnings
from dpamt.boot.kvm.told import read_vmm
from dpamt.boot.refcounts import LEFT_COUNT, MORE_COUNTS
from dpamt.boot.stack import KernelMemory, callers
from dpamt.kernel_image.vmlinux import KernelImage

if TYPE_CHECKING:
    from dpamt.boot.outcome import Booted

_INTEL: Final = "[kvm_intel]"
_FRAMES: Final = 24
"""Return addresses that are looked at; most of them are the core's."""
_QUIET: Final = 5.0
"""Seconds without a SEAMCALL that are worth a word."""


class KvmRun:
    """The run of one script; what it comes to goes into ``result``."""

    def __init__(
        self,
        options: KvmOptions,
        memory: GuestMemory,
        kernel: KernelMemory,
        image: KernelImage,
        console: Console,
        result: "Booted",
        freed: FreedPages,
    ) -> None:
        self._options = options
        self._result = result
        self._stocks = Stocks(options.script.phases)
        self._door = Door(memory, console)
        self._freed = freed
        self._console = console
        self._kernel = kernel
        self._image = image
        self._code: LoadedCode | None = None
        self.surplus: Callable[[], dict[int, int]] = dict
        """By region, how many pages more than TDX uses the kernel counts; set when it is known."""

    def where(self, stack: int) -> str:
        """The function of kvm-intel.ko that makes a SEAMCALL, by a value of RSP; empty: not
        known."""
        if self._code is None and self._result.prepared is not None:
            self._code = LoadedCode(self._result.prepared.modules, self._console.lines())
        code = self._code
        if code is None:
            return ""
        found = callers(
            self._kernel, self._image, stack, _FRAMES, lambda at: _INTEL in code.name_of(at)
        )
        names = (code.name_of(address) for address in found)
        inside = (name for name in names if _INTEL in name)
        return next(inside, "").partition("+")[0].partition(".")[0]

    def look(self) -> None:
        """Take stock when the VMM says that a phase has ended."""
        phase = self._door.knocked()
        if not phase:
            return
        result = self._result
        result.phases.append(self._stocks.take(phase, result, self._see_freed()))
        enough = result.sweep is not None and not result.sweep.next_life(
            result.module, self.surplus, self._free_pages
        )
        if result.allocations is not None:
            failed, free = self._door.allocation_failed, self._door.free_pages
            enough = not result.allocations.next_life(result.phases, failed, free)
        self._door.open(phase, enough)

    def stands(self, silent: float) -> list[str]:
        """Where the VMM is when the time is over; ``silent``: seconds since the last SEAMCALL."""
        tds = self._options.script.tds
        steps = zip(tds, self._door.standing(len(tds)), strict=False)
        where = [f"{name} is in {step}" for name, step in steps if step]
        quiet = f"no SEAMCALL for {silent:.0f} s" if silent >= _QUIET else ""
        told = "; ".join(filter(None, (*where, quiet)))
        return [f"stuck: {told}"] if told else []

    def _see_freed(self) -> int:
        """How many pages the kernel has freed and the module has, now that nothing runs."""
        module = self._result.module
        if module is None:
            return 0
        held = self._freed.held(module)
        wrong = self._freed.wrong(held)
        if self._result.sweep is None:
            self._result.findings += wrong
        return len(self._freed.free_among(held))

    def _free_pages(self) -> list[int]:
        """Pages that the kernel has freed and the module has."""
        module = self._result.module
        return [] if module is None else self._freed.free_among(self._freed.held(module))

    def judge(self, guests: Guests | None, code_log: bytes, injects: bool, dictates: bool) -> None:
        """What was wrong, and which lines ran.  Raises InputError for modules without lines."""
        result, script = self._result, self._options.script
        told = result.vmm = read_vmm(result.console, script.tds)
        if guests is not None:
            result.guests_refused = guests.refused()
        if self._options.coverage and result.prepared is not None:
            loaded = sections_said(result.console)
            ran = instructions_in(code_log)
            result.coverage = coverage_of(result.prepared.intel, loaded, ran)
        if result.sweep is not None:
            # Failures are what it is for: only what is not as KVM's source says is a finding.
            result.sweep.finish(result.console, script.tds)
            # Counts that are left are shown by life too.
            counts = LEFT_COUNT, MORE_COUNTS
            result.findings = [one for one in result.findings if not one.startswith(counts)]
            result.findings += result.sweep.findings()
            expected = expected_warnings(result.complaints)
            result.complaints = [one for one in result.complaints if one not in expected]
            return
        if result.allocations is not None:
            result.allocations.finish(result.console, script.tds)
            result.findings += result.allocations.findings()
            return  # what the VMM met is what the failures were for
        if self._options.checks is not None:
            result.checks = self._options.checks.wrong(told, result.phases)
            wrong = [one for listed in result.checks.values() for one in listed]
            result.findings += [f"check: {one}" for one in wrong]
        refused = result.guests_refused
        result.findings += wrong_with_kvm(told, refused, result.counts, injects, dictates)
        if result.module is not None and result.ended == "reboot":
            result.findings += left_over(result.module)
