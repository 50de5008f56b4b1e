"""A small machine under observation, with a booted kernel and TDs made by the real functions.

2 GiB without holes on two packages, Dynamic PAMT on; what is verified lies in the upper GiB, so
that regions have numbers above 511.  Every word is observed; while nobody observes, all is as in a
plain run, so the machine is brought to where the threads begin by running it.
"""

import sys
from collections.abc import Hashable, Iterable
from dataclasses import replace
from functools import partial
from threading import local
from typing import Final

from dpamt.abi.leaves import RAX_LEAF_MASK
from dpamt.abi.pages import PAGE_SHIFT, PAGES_PER_2M
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.errors import Finding, InputError, ModelError
from dpamt.host.core.audit import audit
from dpamt.host.core.control_pages import tdx_alloc_control_page
from dpamt.host.core.init import tdx_enable
from dpamt.host.core.kernel import Cpu, Kernel, KernelBehaviour, KernelLog, warned_under
from dpamt.host.core.page_cache import SITE_PAIR
from dpamt.host.designs.base import Design
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.vm import Vm
from dpamt.module.module import TdxModule
from dpamt.module.pamt import Pamt, PamtBlock, PamtRegion
from dpamt.module.processor import LogicalProcessor
from dpamt.module.td import Td, Tds
from dpamt.module.td import Vcpu as ModuleVcpu
from dpamt.module.view import ModuleView
from dpamt.platform.machine import Cmr, Machine, MemoryBlock, Topology
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync.kernel_locks import BareLock, RwLock, RwLocks, SpinLocks
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Event, Recorder
from dpamt.verify.learn.control_point import ControlPoints
from dpamt.verify.learn.plain_state import PlainState
from dpamt.verify.programs.other_agent import OtherAgent
from dpamt.verify.programs.page_owners import OwnedMemory, PageOwners
from dpamt.verify.programs.page_pools import PoolAllocator
from dpamt.verify.programs.refusals import Refusals

MIB: Final = 1 << 20
PACKAGES: Final = 2
_REGIONS: Final = 1024
"""2M regions of the machine."""
_BALANCE: Final = "verify.balance"
_PRINTED: Final = frozenset({"lines", "warnings", "under_locks"})
"""What a log keeps of what was printed."""


class ObservedLog(KernelLog):
    """dmesg; while somebody observes, its lines are events of the thread that writes them.

    A WARN on a CPU that was refused a SEAMCALL is an event of another kind: it may be.
    """

    __slots__ = ("_world",)

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    def __getattribute__(self, name: str) -> object:
        """An attribute; raises InputError, naming the line, when a thread reads what was printed.

        No thread of Linux can, and here it would see what was printed before the threads began.
        """
        if name in _PRINTED and super().__getattribute__("_world").shared.watch.observer:
            frame = sys._getframe(1)
            raise InputError(
                f"{frame.f_code.co_filename}:{frame.f_lineno}: kernel.log.{name} is read while "
                "other CPUs run; expected a word of kernel.pamt (docs/verify.md)"
            )
        return super().__getattribute__(name)

    @property
    def recorder(self) -> Recorder:
        """Who receives its lines."""
        return self._world.recorder

    def _told(self, kind: str, text: str) -> bool:
        if self._world.shared.watch.observer is None:
            return False
        if kind == "warn":
            excused = self._world.is_excused()
            kind = "excused" if excused else kind
        self._world.recorder.tell(Event(kind, text))
        return True

    def info(self, text: str) -> None:
        """pr_info() or pr_err() of the core."""
        if not self._told("log", text):
            super().info(text)

    def kvm(self, text: str) -> None:
        """pr_err() of KVM."""
        if not self._told("log", text):
            super().kvm(text)

    def warn(self, text: str) -> None:
        """WARN()."""
        if not self._told("warn", text):
            super().warn(text)

    def warn_once(self, place: str, text: str) -> None:
        """WARN_ONCE(): under observation each is reported, whoever comes first."""
        if not self._told("warn", text):
            super().warn_once(place, text)

    def warn_on_once(self, place: str, held: str = "") -> None:
        """WARN_ON_ONCE(): as above; one under a spinlock is an event more, with the lock's name."""
        if not self._told("warn", warned_under(place, held)):
            super().warn_on_once(place, held)
        elif held:
            self._told("warn-locked", held)


class ObservedKernel(Kernel):
    """The kernel, whose plain attributes no thread may change: they are no words."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set it; raises InputError, naming the line, when a thread does."""
        shared = self.__dict__.get("shared")
        if isinstance(shared, ObservedShared) and shared.watch.observer is not None:
            frame = sys._getframe(1)
            raise InputError(
                f"{frame.f_code.co_filename}:{frame.f_lineno}: kernel.{name} is changed while "
                "other CPUs run; expected a word or lock of kernel.pamt (docs/verify.md)"
            )
        super().__setattr__(name, value)


class ObservedAllocator:
    """The page allocator of the threads, in place of the kernel's once the machine is set up.

    A thread takes the two pages of a pair from ``pair_pages`` (see
    :mod:`dpamt.verify.programs.get_put` for why they may be the same for all threads of one
    region), and counts what has been taken in one word: ``verify.balance``.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.balance = world.shared.words(_BALANCE).at(0)
        self._failures = world.failures
        self._may_fail = world.memory_fails
        self._of_thread = local()
        self.pages: set[int] = set()
        """The pages of all pairs."""

    @property
    def pair_pages(self) -> tuple[int, int]:
        """The pages of a pair for the thread that runs."""
        pages: tuple[int, int] = self._of_thread.pair_pages
        return pages

    @pair_pages.setter
    def pair_pages(self, pages: tuple[int, int]) -> None:
        self._of_thread.pair_pages = pages

    def alloc_page(self, site: str) -> int | None:
        """One page of the pair, by site; None while an allocation may fail and is chosen to."""
        self._world.recorder.may_sleep(f"alloc_page(GFP_KERNEL) for {site}")
        if self._may_fail:
            left = self._failures.load()
            if left:
                fails = self._world.recorder.choose(f"allocation for {site} fails", 2)
                if fails:
                    self._failures.store(left - 1)
                    return None
        self.balance.add(1)
        return self.pair_pages[0 if site == SITE_PAIR[0] else 1]

    def free_among(self, pages: Iterable[int]) -> list[int]:
        """Those of the pages that nobody holds: none, as far as the threads can tell."""
        return []

    def free_page(self, pfn: int) -> None:
        """Give it back; one that is of no pair was never the allocator's."""
        if pfn not in self.pages:
            what = f"page {pfn:#x} is freed, and the allocator never gave it out"
            self._world.recorder.tell(Event("page", what))
        self.balance.add(-1)


class StandingVm(Vm):
    """A VM whose fields no thread changes: places show it by name.

    Of one that a thread makes or ends they show what it holds: that is a plain Vm, its own.
    """


class World:
    """The machine, its kernel and module; ``make_td`` builds TDs before threads run.

    Thread n of a program runs on CPU n; the CPUs are on two packages, in equal runs.  KVM's reads
    and writes of metadata (MNG.RD, VP.WR, VP.RD) are left out: they share the locks that VP.ENTER
    and the calls for pages share, and no state of PAMT or S-EPT.
    """

    def __init__(
        self, design: Design, behaviour: KernelBehaviour | None = None, cpus: int = 2
    ) -> None:
        end = _REGIONS * PAGES_PER_2M
        machine = Machine(
            "a 2 GiB machine of the verifier",
            (Cmr(MIB, (end << PAGE_SHIFT) - MIB),),
            (MemoryBlock(256, end),),
            end,
            Topology(PACKAGES, max(cpus, PACKAGES)),
        )
        self.design = design
        self.shared = ObservedShared()
        self.failures = self.shared.words("verify.failures").at(0)
        """Allocations and SEAMCALLs that may still fail."""
        self.memory_fails = False
        """Whether an allocation is among what may fail."""
        self.memory = PhysicalMemory()
        self.allocator = PageAllocator(machine)
        self._of_thread = local()
        self.agent: OtherAgent | None = None
        """Who may hold locks that the threads' SEAMCALLs want."""
        self.refusals: Refusals | None = None
        """Who may refuse their SEAMCALLs."""
        self.owners: PageOwners | None = None
        """Who has the pages of pools, where there are some."""
        self.module = TdxModule(self.memory, machine, "2.0.18", self.shared)
        self.kernel = ObservedKernel(
            machine,
            self.allocator,
            self.memory,
            self.shared,
            [self._seamcall_of(lp) for lp in self.module.processors],
            design,
            replace(behaviour or KernelBehaviour(), td_metadata=False),
        )
        fixed = (
            Kernel,
            TdxModule,
            Pamt,
            PamtBlock,
            PamtRegion,
            Td,
            Tds,
            ModuleVcpu,
            Machine,
            Design,
            KernelLog,
            StandingVm,
            PhysicalMemory,
            Recorder,
            World,
            ObservedAllocator,
            OtherAgent,
            PoolAllocator,
            PageOwners,
            OwnedMemory,
            Refusals,
        )
        module = self.module  # its regions are made when they are first asked for: no state
        same = (module.ready_handlers, module.live_headers, module.pamt.regions)
        self.places = ControlPoints(same, fixed)
        self.recorder = Recorder(self.places)
        self.kernel.log = ObservedLog(self)
        self.recorder.plain = PlainState(self.kernel, design.functions())
        error = tdx_enable(self.kernel)
        if error:
            raise ModelError(f"the verifier's machine does not boot: {self.kernel.log.lines}")
        self.view = ModuleView(self.module)
        self.vms: list[Vm] = []

    def make_td(self, memory_bytes: int = 16 * MIB) -> Vm:
        """A TD that is created and not yet finalised."""
        vm = StandingVm(self.kernel, memory_bytes)
        error = tdx_td_init(vm, self.kernel.cpus[0])
        if error:
            told = self.kernel.log.lines[-1]
            raise Finding(f"design {self.design.source}: no TD can be made, one CPU alone: {told}")
        self.vms.append(vm)
        return vm

    def alloc_backed(self, pages: int) -> list[int]:
        """Pages that may be used by the module, with their PAMT."""
        found = []
        for _ in range(pages):
            pfn = tdx_alloc_control_page(self.kernel, self.kernel.cpus[0], "verify")
            if pfn is None:
                raise ModelError("the verifier's machine has no more memory")
            found.append(pfn)
        return found

    def use_pools(self) -> PoolAllocator:
        """From here on the kernel's pages come from pools, and each page of them has its owner."""
        erratum = self.kernel.behaviour.partial_write_erratum
        self.owners = PageOwners(self.shared, self.recorder, erratum)
        allocator = PoolAllocator(
            self.shared, self.recorder, self.owners, self.failures, self.memory_fails
        )
        self.kernel.allocator = allocator  # type: ignore[assignment]
        self.kernel.memory = OwnedMemory(self.memory, self.owners)
        return allocator

    def cpu(self, index: int) -> Cpu:
        """CPU ``index`` made afresh for the thread that runs, its SEAMCALLs seen by the recorder.

        Raises ModelError when the machine has no such CPU.
        """
        if index >= len(self.kernel.cpus):
            raise ModelError(f"the verifier's machine has no CPU {index}")
        package = self.kernel.cpus[index].package
        self._of_thread.others = {}
        self._of_thread.cpu = index
        lp = LogicalProcessor(self.module, index, package)
        return Cpu(index, package, self._told(lp), self.kernel.machine.hkid_start_bit)

    def is_excused(self) -> bool:
        """Whether the CPU of the thread that runs was refused a SEAMCALL; a step where it may be.

        Then a WARN is no finding, and no error returned is.
        """
        if self.refusals is None:
            return False
        return self.refusals.excuse(self._of_thread.cpu)

    def ended(self, result: int) -> int:
        """What a thread ends with: an error that it may end with is none."""
        if result:
            excused = self.is_excused()
            result = 0 if excused else result
        return result

    def _seamcall_of(self, lp: LogicalProcessor) -> SeamCall:
        """The SEAMCALLs of one of the kernel's CPUs, that any thread may send its calls to.

        While threads are observed, each thread has that CPU for itself, made afresh.
        """

        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            if self.shared.watch.observer is None:
                return self._owned(lp, rax, args)
            others: dict[int, SeamCall] = self._of_thread.others
            if lp.index not in others:
                fresh = LogicalProcessor(self.module, lp.index, lp.package)
                others[lp.index] = self._told(fresh)
            return others[lp.index](rax, args)

        return seamcall

    def _told(self, lp: LogicalProcessor) -> SeamCall:
        """The SEAMCALLs of a processor, seen by the recorder; perhaps one is refused by choice."""
        told = told_call(lambda rax, args: self._owned(lp, rax, args), self.recorder)
        refusals = self.refusals
        if refusals is None:
            return told

        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            leaf = rax & RAX_LEAF_MASK
            status = refusals.answer(self._of_thread.cpu, leaf, args)
            if status:
                refusals.tell(leaf, status)
                return status
            return told(rax, args)

        return seamcall

    def _owned(self, lp: LogicalProcessor, rax: int, args: TdxModuleArgs) -> int:
        """The SEAMCALL, its pages followed; perhaps somebody else holds one of its locks."""
        owners = self.owners
        if owners is None:
            return self._made(lp, rax, args)
        leaf = rax & RAX_LEAF_MASK
        taking = owners.before(leaf, args)
        status = self._made(lp, rax, args)
        owners.after(leaf, taking, status, args)
        return status

    def _made(self, lp: LogicalProcessor, rax: int, args: TdxModuleArgs) -> int:
        if self.agent is None or self.shared.watch.observer is None:
            return lp.seamcall(rax, args)
        return self.agent.call(lp, rax, args)

    def findings(self) -> list[str]:
        """What host and module say of themselves now."""
        kept = self.pairs_that_stay()
        return [*self.view.check(), *audit(self.kernel, self.view, None, kept)]

    def pairs_that_stay(self) -> set[int]:
        """Regions whose PAMT.REMOVE was refused by choice."""
        return self.refusals.pairs_that_stay() if self.refusals is not None else set()

    def locks_held(self) -> list[str]:
        """The kernel's locks that somebody holds; for audits, no step."""
        return [
            name
            for name, array in self.shared.arrays()
            if isinstance(array, (BareLock, SpinLocks, RwLock, RwLocks)) and array.capture()
        ]

    def free_region(self, number: int) -> int:
        """First page of a 2M region that nobody uses, counted from the top of memory."""
        return (_REGIONS - 2 - number) << 9


def told_seamcall(
    lp: LogicalProcessor, recorder: Recorder, agent: OtherAgent | None = None
) -> SeamCall:
    """The SEAMCALLs of a processor, their beginnings and ends reported to the recorder."""
    return told_call(lp.seamcall if agent is None else partial(agent.call, lp), recorder)


def told_call(call: SeamCall, recorder: Recorder) -> SeamCall:
    """The same of whatever answers them."""

    def seamcall(rax: int, args: TdxModuleArgs) -> int:
        operands: tuple[Hashable, ...] = args.as_tuple()
        leaf = rax & RAX_LEAF_MASK
        recorder.mark(leaf)
        status = call(rax, args)
        recorder.leaf = -1
        recorder.tell(Event("seamcall", leaf, (operands, status)))
        return status

    return seamcall
