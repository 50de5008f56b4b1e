"""KVM's part in a boot: phases that end, and what is judged when the guest is gone."""

from typing import TYPE_CHECKING

from dpamt.boot.console import Console
from dpamt.boot.guest_memory import GuestMemory
from dpamt.boot.kvm.coverage import coverage_of, instructions_in, sections_said
from dpamt.boot.kvm.door import Door
from dpamt.boot.kvm.guests import Guests
from dpamt.boot.kvm.judge import left_over, wrong_with_kvm
from dpamt.boot.kvm.prepare import KvmOptions
from dpamt.boot.kvm.stock import Stocks
from dpamt.boot.kvm.sweep import expected_warnings
from dpamt.boot.kvm.told import read_vmm

if TYPE_CHECKING:
    from dpamt.boot.outcome import Booted


class KvmRun:
    """The run of one script; what it comes to goes into ``result``."""

    def __init__(
        self, options: KvmOptions, memory: GuestMemory, console: Console, result: "Booted"
    ) -> None:
        self._options = options
        self._result = result
        self._stocks = Stocks(options.script.phases)
        self._door = Door(memory, console)

    def look(self) -> None:
        """Take stock when the VMM says that a phase has ended."""
        phase = self._door.knocked()
        if not phase:
            return
        result = self._result
        result.phases.append(self._stocks.take(phase, result))
        enough = result.sweep is not None and not result.sweep.next_life(result.phases)
        self._door.open(phase, enough)

    def judge(self, guests: Guests | None, code_log: bytes, injects: bool) -> None:
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
            # Failures are what it is for: each life shows its own, and none is a finding.
            result.sweep.finish(result.console, script.tds)
            expected = expected_warnings(result.complaints)
            result.complaints = [one for one in result.complaints if one not in expected]
            return
        result.findings += wrong_with_kvm(told, result.guests_refused, result.counts, injects)
        if result.module is not None and result.ended == "reboot":
            result.findings += left_over(result.module)
