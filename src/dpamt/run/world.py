"""One side's world: a machine with its module and its kernel, booted; and taking stock of it."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.metadata import TDX_FEATURES0_DYNAMIC_PAMT
from dpamt.abi.operands import OPERAND_NAMES
from dpamt.abi.pages import (
    LEVEL_2M,
    PAGE_SIZE,
    PAGES_PER_2M,
    PAMT_BITMAP_ENTRY_BITS,
    PAMT_PAIR_PAGES,
    PT_EPT,
    PT_REG,
)
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_OPERAND_BUSY,
    TDX_PAMT_PAGE_NOT_EMPTY,
    status_name,
)
from dpamt.errors import Finding, InputError
from dpamt.host.core.audit import audit
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Kernel, Progress
from dpamt.host.core.meminfo import meminfo_line, pamt_account
from dpamt.host.core.pamt_areas import pamt_bytes
from dpamt.host.core.refcounts import refcount_pages
from dpamt.host.core.tdx_errno import ENOMEM
from dpamt.host.core.workqueue import run_work
from dpamt.host.designs.load import load_design
from dpamt.module.bulk import ModuleBulk
from dpamt.module.injection import Injector
from dpamt.module.injection_rules import parse_rule
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView
from dpamt.platform.machine import Machine
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.page_allocator import Snapshot as AllocatorSnapshot
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.run.bulk import CountedBulk
from dpamt.run.counter import SeamcallCounter
from dpamt.run.facts import (
    InjectedCall,
    InjectionFacts,
    PamtFacts,
    SeamcallCount,
    Snapshot,
    TdFacts,
)
from dpamt.run.failures import HostTooSmall, KernelFailed, errno_text
from dpamt.run.machine_of import behaviour_of, release_of
from dpamt.run.reactions import Sequel
from dpamt.run.scenario import Scenario, Side
from dpamt.sync import Shared

SURPRISES: Final = tuple(
    status_name(status)
    for status in (
        TDX_MISSING_PAMT_PAGE_PAIR,
        TDX_OPERAND_BUSY,
        TDX_HPA_RANGE_NOT_FREE,
        TDX_NO_PAMT_PAGE_PAIR,
        TDX_PAMT_PAGE_NOT_EMPTY,
    )
)
"""Names of statuses that are findings: nothing runs at the same time in a run."""

FIRST_HITS: Final = 16
"""The most hits of an injection rule that are reported one by one."""


class World:
    """A side of a scenario, powered on but not booted.

    ``kernel``, ``module`` and ``allocator`` are the real parts, to look at or to drive by hand.
    """

    in_bulk = True
    """Whether runs of pages are taken at once; what comes of it is the same."""

    def __init__(
        self, scenario: Scenario, side: Side, machine: Machine, progress: Progress | None = None
    ) -> None:
        spec = scenario.host
        self.side = side
        self.machine = machine
        design = load_design(side.design)
        if side.pamt == "dynamic" and not design.dynamic_pamt:
            raise InputError(
                f"design {side.design} never asks for Dynamic PAMT; expected another for the side "
                f'"{side.name}"'
            )
        if side.pamt == "static" and design.dynamic_pamt:
            design = replace(design, dynamic_pamt=False)
        shared, memory = Shared(), PhysicalMemory()
        self._seed = scenario.seed if spec.seed is None else spec.seed
        at_boot = spec.fragmented == "at-boot"
        self._fragment_later = 0.0 if at_boot else spec.fragmentation
        self.allocator = PageAllocator(machine, self._seed, spec.fragmentation if at_boot else 0.0)
        self.module = TdxModule(memory, machine, release_of(spec), shared)
        self.seamcalls = SeamcallCounter()
        self.injector = Injector(self.module, tuple(map(parse_rule, spec.inject)))
        self.sequel = Sequel(self.injector)
        walls = [
            self.seamcalls.wrap(self.sequel.wrap(self.injector.wrap(lp), lp.index))
            for lp in self.module.processors
        ]
        self.kernel = Kernel(
            machine,
            self.allocator,
            memory,
            shared,
            walls,
            design,
            behaviour_of(spec),
            progress,
        )
        self.sequel.warnings = self.kernel.log.warnings
        if self.in_bulk and not spec.inject:  # rules look at each call by itself
            for cpu, lp in zip(self.kernel.cpus, self.module.processors, strict=True):
                cpu.bulk = CountedBulk(ModuleBulk(lp), self.seamcalls)
        self.view = ModuleView(self.module)
        self.tds_alive = 0
        self.after_boot: AllocatorSnapshot | None = None
        """Which pages were free when the module was up and memory was fragmented as asked."""
        self.free_at_boot = 0
        self._lines_told = self._warnings_told = 0

    @property
    def log(self) -> tuple[str, ...]:
        """The kernel log so far."""
        return tuple(self.kernel.log.lines)

    def boot(self) -> None:
        """Bring the module up, then fragment memory if the scenario says so.

        Raises HostTooSmall when memory for PAMT runs out, InputError when Dynamic PAMT was asked
        for and cannot be had, KernelFailed for any other failure.
        """
        error = tdx_enable(self.kernel)
        name = self.side.name
        if error == -ENOMEM:
            raise HostTooSmall(
                f'{self.machine.source}: too small: the kernel of side "{name}" got no memory '
                f"for PAMT or its bookkeeping ({errno_text(error)}); expected a larger host or a "
                "less fragmented one",
                self.log,
            )
        if error:
            raise KernelFailed(
                f'{self.machine.source}: side "{name}": {_last_words(self.log)}{self.surprises()}',
                self.log,
            )
        if self.side.pamt == "dynamic" and not self.kernel.dynamic_pamt:
            raise InputError(
                f'{self.machine.source}: side "{name}" asks for Dynamic PAMT, but '
                f'{self._why_static()}; expected a host that offers it, or pamt = "auto"'
            )
        if self._fragment_later:
            self.allocator.fragment(self._fragment_later, self._seed)
        self.after_boot = self.allocator.snapshot()
        self.free_at_boot = self.allocator.free_count

    def _why_static(self) -> str:
        release = self.module.release
        if not release.features0 & TDX_FEATURES0_DYNAMIC_PAMT:
            return f"TDX module {release.name} does not offer it (TDX_FEATURES0 bit 36 is 0)"
        return (
            f"the kernel refuses it: KeyIDs start at address bit {self.machine.hkid_start_bit}, "
            "above the 48 bits of Dynamic PAMT"
        )

    def audit(self) -> tuple[str, ...]:
        """Everything that is wrong, of host and module, after the turn of the worker."""
        run_work(self.kernel, self.kernel.cpus[0])
        return (*audit(self.kernel, self.view, self.after_boot), *self.view.check())

    def surprises(self) -> str:
        """What explains a failure, as clauses: statuses since the last snapshot, WARNs under a
        lock, injections."""
        told = [*self._surprises(self.seamcalls.take()), *self.kernel.log.under_locks]
        told += [
            f"injected by {told.rule.text}: {told.hits} of {told.seen} calls"
            for told in self.injector.results
            if told.hits
        ]
        return "".join(f"; {text}" for text in told)

    def injected(self) -> tuple[InjectionFacts, ...]:
        """What came of each injection rule, when nothing comes any more."""
        self.sequel.finish()
        return tuple(
            InjectionFacts(
                rule=told.rule.text,
                seen=told.seen,
                hits=told.hits,
                answers=tuple(
                    SeamcallCount(LEAF_NAMES[leaf], _status_text(status), n)
                    for (leaf, status), n in sorted(told.statuses.items())
                ),
                first_hits=tuple(islice(self._hits_of(index), FIRST_HITS)),
                **asdict(self.sequel.reactions[index]),
            )
            for index, told in enumerate(self.injector.results)
        )

    def _hits_of(self, rule: int) -> Iterator[InjectedCall]:
        for hit in self.injector.hits:
            if hit.rule == rule:
                yield InjectedCall(LEAF_NAMES[hit.leaf], hit.call, _status_text(hit.status))

    def _surprises(self, seamcalls: tuple[SeamcallCount, ...]) -> tuple[str, ...]:
        """Statuses that no sound host meets that has the machine to itself.

        Unless it waits for them to come (its design's ``tolerated``), or they were injected.
        """
        tolerated = {
            (LEAF_NAMES[leaf], status_name(status)) for leaf, status in self.kernel.design.tolerated
        }
        injected = {
            (LEAF_NAMES[leaf], status_name(status)): n
            for (leaf, status), n in self.sequel.take_refused().items()
        }
        counts = [
            (row, row.count - injected.get((row.leaf, row.status), 0))
            for row in seamcalls
            if row.status in SURPRISES and (row.leaf, row.status) not in tolerated
        ]
        return tuple(
            f"{row.leaf} returned {row.status}, {count} times: a host with a sound design never "
            "sees it here"
            for row, count in counts
            if count
        )

    def snapshot(self) -> Snapshot:
        """The side as it is now; SEAMCALLs and log lines are those since the last one."""
        kernel, view = self.kernel, self.view
        run_work(kernel, kernel.cpus[0])
        used = view.used_pages()
        types = [use.type for use in used.values()]
        guest, sept = types.count(PT_REG), types.count(PT_EPT)
        pairs = len(view.pairs())
        regions = len({page // PAGES_PER_2M for page in used})
        seamcalls = self.seamcalls.take()
        lines, warnings = kernel.log.lines, kernel.log.warnings
        new_lines, new_warnings = lines[self._lines_told :], warnings[self._warnings_told :]
        self._lines_told, self._warnings_told = len(lines), len(warnings)
        return Snapshot(
            seamcalls=seamcalls,
            pairs=pairs,
            pamt=self.pamt(kernel.dynamic_pamt, pairs),
            other_pamt=self.pamt(not kernel.dynamic_pamt, regions),
            tds=TdFacts(
                alive=self.tds_alive,
                guest_4k=guest,
                guest_2m=len(view.large_pages(LEVEL_2M)),
                sept=sept,
                control=len(types) - guest - sept,
            ),
            meminfo=meminfo_line(kernel),
            tdx_kib=pairs * PAMT_PAIR_PAGES * PAGE_SIZE >> 10,
            free_pages=self.allocator.free_count,
            log=tuple(new_lines),
            findings=(
                *(f"the kernel warned: {text}" for text in new_warnings),
                *self._surprises(seamcalls),
                *self.audit(),
            ),
        )

    def pamt(self, dynamic: bool, pairs: int) -> PamtFacts:
        """PAMT in this mode: what the kernel has where it is its mode, else what it would have."""
        kernel = self.kernel
        if dynamic == kernel.dynamic_pamt:
            account = pamt_account(kernel)
            return PamtFacts(
                level_1g=account.level_1g,
                level_2m=account.level_2m,
                level_4k=0 if dynamic else account.level_4k,
                bitmap=account.level_4k if dynamic else 0,
                pairs=account.pairs,
                refcounts=account.refcounts,
            )
        return pamt_of_mode(kernel, dynamic, pairs)


def pamt_of_mode(kernel: Kernel, dynamic: bool, pairs: int) -> PamtFacts:
    """Arithmetic: PAMT of this machine's TDMRs in a mode, with this number of pairs."""
    if kernel.sysinfo is None:
        raise Finding("the module is not initialised")
    sysinfo = replace(kernel.sysinfo, pamt_page_bitmap_entry_bits=PAMT_BITMAP_ENTRY_BITS)
    level_4k = level_2m = level_1g = 0
    for tdmr in kernel.tdmrs:
        sizes = pamt_bytes(tdmr.size, sysinfo, dynamic)
        level_4k, level_2m, level_1g = (
            level_4k + sizes[0],
            level_2m + sizes[1],
            level_1g + sizes[2],
        )
    if not dynamic:
        return PamtFacts(level_1g, level_2m, level_4k, 0, 0, 0)
    refcounts = refcount_pages(kernel.machine.max_pfn) * PAGE_SIZE
    pair_bytes = pairs * PAMT_PAIR_PAGES * PAGE_SIZE
    return PamtFacts(level_1g, level_2m, 0, level_4k, pair_bytes, refcounts)


def _last_words(log: tuple[str, ...]) -> str:
    """Why initialisation failed, as the log tells it: its last line, and the one before."""
    return "; ".join(line.removeprefix("virt/tdx: ").rstrip(".") for line in log[-2:])


def _status_text(status: int) -> str:
    """A status with the operand that TDX_OPERAND_BUSY names."""
    name = status_name(status)
    if status & STATUS_MASK == TDX_OPERAND_BUSY:
        return f"{name} {OPERAND_NAMES.get(status & ~STATUS_MASK, '')}".rstrip()
    return name
