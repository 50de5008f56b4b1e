"""Running a scenario: every side boots, goes through the phases, and is audited after each."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, SIZE_2M
from dpamt.errors import DpamtError, Finding
from dpamt.host.core.pamt_areas import tdmrs_count_pamt_kb
from dpamt.host.core.tdx_errno import ENOMEM, ENOSPC
from dpamt.platform.machine import Machine
from dpamt.run.facts import FullHost, HostFacts, PhaseFacts, RunFacts, SideFacts, Snapshot
from dpamt.run.failures import HostTooSmall, KernelFailed, blame_design, errno_text
from dpamt.run.fits import check_fits, tdx_bytes
from dpamt.run.machine_of import machine_of
from dpamt.run.scenario import (
    END_PHASE,
    ENDING_STEPS,
    INIT_PHASE,
    HostSpec,
    Phase,
    Scenario,
    Side,
    Step,
    TdGroup,
)
from dpamt.run.td import StepFailed, Td
from dpamt.run.td_memory import step_seed, td_seed
from dpamt.run.world import World, pamt_of_mode

FULL_HOST_SHARES: Final = (0.0, 0.9, 1.0)
"""Shares of 2M pages for which a full host is computed."""

Watch = Callable[[str, str, str, int, int], None]
"""Called with the progress of a run: (phase, side, what, done, total)."""


def run(scenario: Scenario, watch: Watch | None = None) -> RunFacts:
    """Run the whole scenario on all its sides.

    Raises InputError for a scenario or host that cannot be (HostTooSmall when memory or KeyIDs run
    out on the way), KernelFailed when the kernel gives up as Linux would, and whatever finding the
    module or the allocator raises.
    """
    return run_on(scenario, machine_of(scenario), watch)


def run_on(scenario: Scenario, machine: Machine, watch: Watch | None = None) -> RunFacts:
    """:func:`run`, on this machine whatever the scenario says of one."""
    check_fits(scenario, machine)
    try:
        return _run(scenario, machine, watch)
    except DpamtError:
        raise
    except (Exception, SystemExit) as error:
        blamed = blame_design(error, (side.design for side in scenario.sides))
        if blamed is None:
            raise
        raise blamed from None


def _run(scenario: Scenario, machine: Machine, watch: Watch | None) -> RunFacts:
    tellers = [_SideStory(scenario, side, machine, watch) for side in scenario.sides]
    for teller in tellers:
        teller.boot()
    phases = [PhaseFacts(INIT_PHASE, ())]
    for number, phase in enumerate(scenario.phases):
        for teller in tellers:
            teller.tell(number, phase)
        phases.append(PhaseFacts(phase.name, tuple(step.words() for step in phase.steps)))
    if any(teller.tds for teller in tellers):
        for teller in tellers:
            teller.end()
        phases.append(PhaseFacts(END_PHASE, ("shutdown of what is left",)))
    return RunFacts(
        title=scenario.title,
        seed=scenario.seed,
        host=host_facts(machine, scenario.host),
        phases=tuple(phases),
        sides=tuple(teller.facts() for teller in tellers),
        full_host=_full_host(tellers[0].world, machine),
    )


def host_facts(machine: Machine, spec: HostSpec) -> HostFacts:
    """The machine in plain numbers."""
    first, end = machine.private_keyids
    return HostFacts(
        source=machine.source,
        memory_bytes=machine.total_pages << PAGE_SHIFT,
        tdx_bytes=tdx_bytes(machine),
        max_pfn=machine.max_pfn,
        packages=machine.topology.packages,
        cpus=machine.topology.cpus,
        fragmentation=spec.fragmentation,
        fragmented=spec.fragmented,
        cmrs=tuple((cmr.base, cmr.end) for cmr in machine.cmrs),
        memory=tuple(
            (block.start_pfn << PAGE_SHIFT, block.end_pfn << PAGE_SHIFT, block.nid)
            for block in machine.memory
        ),
        guest_keyids=end - first - 1,
        recorded_pamt_kib=machine.recorded_pamt_kib,
        recorded_module=machine.recorded_module_version,
        notes=(*machine.notes, *_against(machine)),
    )


def _against(machine: Machine) -> Iterator[str]:
    """What the log of the host says against running it."""
    if machine.log is not None and machine.log.against:
        yield f"{machine.log.against}; it is run as if it had"


def _full_host(world: World, machine: Machine) -> tuple[FullHost, ...]:
    regions = -(-tdx_bytes(machine) // SIZE_2M)
    static = pamt_of_mode(world.kernel, False, 0).total
    return tuple(
        FullHost(
            share, static, pamt_of_mode(world.kernel, True, round((1 - share) * regions)).total
        )
        for share in FULL_HOST_SHARES
    )


class _SideStory:
    """One side on its way through the phases."""

    def __init__(
        self, scenario: Scenario, side: Side, machine: Machine, watch: Watch | None
    ) -> None:
        self._scenario = scenario
        self._watch = watch
        self._phase = INIT_PHASE
        self.side = side
        self.world = World(scenario, side, machine, self._progress if watch else None)
        self.tds: list[Td] = []
        self._built: dict[str, int] = {}
        self._snapshots: list[Snapshot] = []
        self._where = ""

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._watch is not None:
            self._watch(self._phase, self.side.name, what, done, total)

    @contextmanager
    def _findings(self) -> Iterator[None]:
        """A finding that module, kernel or allocator raises, with its side, phase and log."""
        try:
            yield
        except KernelFailed:
            raise
        except Finding as finding:
            message = f'side "{self.side.name}", {self._phase}: {finding}'
            raise KernelFailed(message, self.world.log) from None

    def boot(self) -> None:
        """Bring the module up, and take stock."""
        with self._findings():
            self.world.boot()
        self._snapshots.append(self.world.snapshot())

    def tell(self, number: int, phase: Phase) -> None:
        """Everything of one phase, then stock."""
        self._phase = phase.name
        for index, step in enumerate(phase.steps):
            self._where = f"phase[{number}].steps[{index}]"
            for group in self._scenario.tds:
                if step.td in ("all", group.name):
                    with self._findings():
                        self._step(step, group)
        self._snapshots.append(self.world.snapshot())

    def end(self) -> None:
        """Shut down whatever is left."""
        self._phase, self._where = END_PHASE, END_PHASE
        with self._findings():
            self._destroy(list(self.tds), "shutdown")
        self._snapshots.append(self.world.snapshot())

    def facts(self) -> SideFacts:
        """The whole side; audits it a last time."""
        world, kernel = self.world, self.world.kernel
        return SideFacts(
            name=self.side.name,
            pamt="dynamic" if kernel.dynamic_pamt else "static",
            design=kernel.design.name,
            module=world.module.release.name,
            tdmrs=tuple((tdmr.base, tdmr.end) for tdmr in kernel.tdmrs),
            pamt_kib=tdmrs_count_pamt_kb(kernel),
            refcount_bytes=self._snapshots[0].pamt.refcounts,
            free_pages_at_boot=world.free_at_boot,
            snapshots=tuple(self._snapshots),
            findings=world.audit(),
            injected=world.injected(),
        )

    def _step(self, step: Step, group: TdGroup) -> None:
        tds = [td for td in self.tds if td.group is group]
        if step.do == "build":
            self._build(group, group.count - len(tds) if step.count is None else step.count)
            return
        tds = tds if step.count is None else tds[: step.count]
        if step.do in ENDING_STEPS:
            self._destroy(tds, step.do)
            return
        for again in range(step.times):
            self._act(step, tds, again)

    def _build(self, group: TdGroup, count: int) -> None:
        for index in range(count):
            number = self._built[group.name] = self._built.get(group.name, 0) + 1
            seed = td_seed(self._scenario.seed, group.name, number)
            td = Td(self.world, group, number, seed)
            with self._failures(td, "build"):
                try:
                    td.build()
                except StepFailed:
                    td.destroy()
                    raise
            self.tds.append(td)
            self.world.tds_alive += 1
            self._progress(f"build {group.name}", index + 1, count)

    def _destroy(self, tds: list[Td], what: str) -> None:
        for index, td in enumerate(tds):
            td.destroy()
            self.tds.remove(td)
            self.world.tds_alive -= 1
            self._progress(f"{what} {td.group.name}", index + 1, len(tds))

    def _act(self, step: Step, tds: list[Td], again: int) -> None:
        for index, td in enumerate(tds):
            random = Random(step_seed(self._scenario.seed, self._where, td.name, again))
            total = len(td.ranges)
            done = 0

            def tick(ranges: int, td: Td = td, index: int = index, total: int = total) -> None:
                nonlocal done
                done = min(done + ranges, total)
                what = f"{step.do} {td.group.name}"
                self._progress(what, index * total + done, len(tds) * total)

            with self._failures(td, step.do):
                td.act(step, random, tick)
            self._progress(f"{step.do} {td.group.name}", index + 1, len(tds))

    @contextmanager
    def _failures(self, td: Td, do: str) -> Iterator[None]:
        """Tell a refused call with its place, side and TD."""
        try:
            yield
        except StepFailed as failed:
            where = self._scenario.place(self._where)
            log = self.world.log
            message = (
                f'{where}: side "{self.side.name}": {do} of {td.name}: {failed.what} failed: '
                f"{errno_text(failed.error)}"
            )
            if failed.error == -ENOMEM and self.world.allocator.shortages:
                raise HostTooSmall(
                    f"{message}; not one page was free; expected a larger host", log
                ) from None
            if failed.error == -ENOSPC:
                raise HostTooSmall(f"{message}; no guest KeyID is free", log) from None
            if failed.error == -ENOMEM:
                message += ", although memory is free: the design got no PAMT for a page"
            last = f"; kernel log: {log[-1]}" if len(log) > len(self._snapshots[0].log) else ""
            raise KernelFailed(message + last + self.world.surprises(), log) from None
