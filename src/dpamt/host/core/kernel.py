"""The host kernel as one value: machine, CPUs, memory, shared state, log; no behaviour of its own.

Functions of the host take the Kernel first and the CPU they run on second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from dpamt.abi.bulk import BulkSeamCalls
from dpamt.abi.registers import SeamCall
from dpamt.abi.tdmr import TdmrInfo
from dpamt.errors import Finding
from dpamt.host.designs.base import Design, PamtState
from dpamt.platform.machine import Machine, MemoryBlock
from dpamt.platform.page_allocator import PageAllocator
from dpamt.platform.physical_memory import Memory
from dpamt.sync import Shared, SpinLock, Words

if TYPE_CHECKING:
    from dpamt.host.core.metadata import TdxSysInfo
    from dpamt.host.core.page_cache import PamtCache

Progress = Callable[[str, int, int], None]
"""Called during long steps: (step, done, total)."""

LOG_PREFIX: Final = "virt/tdx: "
WARN_SOURCE: Final = "arch/x86/virt/vmx/tdx/tdx.c"


class KernelOops(Finding):
    """The kernel would have crashed here: a fault on memory that is not there."""


@dataclass(frozen=True, slots=True)
class KernelBehaviour:
    """Where kernels differ besides the design, each named by what the kernel does.

    ``tdmr_holes``: memory holes of a TDMR are the gaps between memory blocks (Linux 7.3.4) or
    between CMRs (patch "x86/virt/tdx: Reduce TDMR's reserved areas by using CMRs to find memory
    holes", 2024).

    ``dynamic_pamt_check``: Dynamic PAMT is used when the module advertises it (merged 2026-09-04),
    or only when physical addresses also fit its 48 bits (`[PATCH v6 00/11] Dynamic PAMT`,
    2026-05-25).

    ``demote_lock``: MEM.PAGE.DEMOTE and its counter step run under ``pamt_lock`` (the fix proposed
    on 2026-06-11) or under no lock (`[PATCH v3 00/24] KVM: TDX huge page support for private
    memory`, 2026-01-06).

    ``partial_write_erratum``: the CPU has the partial-write machine-check erratum
    (X86_BUG_TDX_PW_MCE: Sapphire Rapids, Emerald Rapids), so pages that TDX used are reset before
    they are used again.

    ``td_metadata``: KVM makes the SEAMCALLs that change nothing but metadata of TDs and VCPUs
    (MNG.RD, VP.RD, VP.WR), as Linux does.
    """

    tdmr_holes: Literal["memory-blocks", "cmrs"] = "memory-blocks"
    dynamic_pamt_check: Literal["feature-bit", "feature-bit-and-pa-width"] = "feature-bit"
    demote_lock: Literal["pamt-lock", "none"] = "pamt-lock"
    partial_write_erratum: bool = True
    td_metadata: bool = True


class KernelLog:
    """dmesg: lines without timestamps, oldest first.  Written by every CPU, read by nobody here."""

    __slots__ = ("_warned", "lines", "under_locks", "warnings")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        """The WARNs among them."""
        self.under_locks: list[str] = []
        """Those that were printed while a spinlock was held."""
        self._warned: set[str] = set()

    def info(self, text: str) -> None:
        """pr_info() or pr_err() of the core, with its prefix."""
        self.lines.append(LOG_PREFIX + text)

    def kvm(self, text: str) -> None:
        """pr_err() of KVM."""
        self.lines.append("kvm_intel: " + text)

    def warn(self, text: str) -> None:
        """WARN()."""
        self.lines.append("WARNING: " + text)
        self.warnings.append(text)

    def warn_once(self, place: str, text: str) -> None:
        """WARN_ONCE() at ``place``: only the first is seen."""
        if place not in self._warned:
            self._warned.add(place)
            self.warn(text)

    def warn_on_once(self, place: str, held: str = "") -> None:
        """WARN_ON_ONCE() in the function ``place``: no text, only registers and a stack.

        ``held`` names the spinlock that the caller holds: all that is printed, is printed with it
        held, so every CPU that wants the lock waits for the console.
        """
        if place in self._warned:
            return
        self._warned.add(place)
        self.lines.append(f"WARNING: {WARN_SOURCE} at {place}")
        self.warnings.append(warned_under(place, held))
        if held:
            self.under_locks.append(warned_under(place, held))


def warned_under(place: str, held: str) -> str:
    """A WARN_ON_ONCE() in one sentence, with the spinlock under which it is printed."""
    under = f", printed while {held} is held: who wants it waits for the console" if held else ""
    return f"WARN_ON_ONCE in {place}{under}"


class RunningVcpu(Protocol):
    """What the core and the fault path reach of the VCPU that a CPU runs."""

    pamt_cache: "PamtCache"


class Cpu:
    """A logical processor of the host, with its way through the SEAMCALL wall."""

    __slots__ = ("bulk", "hkid_start_bit", "index", "package", "running_vcpu", "seamcall")

    def __init__(self, index: int, package: int, seamcall: SeamCall, hkid_start_bit: int) -> None:
        self.index = index
        self.package = package
        self.seamcall = seamcall
        self.hkid_start_bit = hkid_start_bit
        """Lowest address bit that carries a KeyID."""
        self.running_vcpu: RunningVcpu | None = None
        """The per-CPU variable behind kvm_get_running_vcpu()."""
        self.bulk: BulkSeamCalls | None = None
        """The wall for runs of pages, where whoever built the machine has given one."""


@dataclass(frozen=True, slots=True)
class PamtArea:
    """One contiguous PAMT allocation, that of a TDMR: first page, pages and bytes by level."""

    pfn: int
    pages: int
    bytes_4k: int
    bytes_2m: int
    bytes_1g: int


class Kernel:
    """One booted host.

    ``seamcalls`` is the wall, one entry for each logical processor; packages take CPUs in equal
    runs.  ``dynamic_pamt`` is set by init_tdx_module when design and module agree on it, and stays
    set when the initialisation fails: Linux asks its copy of the module's features at each call,
    and nothing clears that.
    """

    def __init__(
        self,
        machine: Machine,
        allocator: PageAllocator,
        memory: Memory,
        shared: Shared,
        seamcalls: Sequence[SeamCall],
        design: Design,
        behaviour: KernelBehaviour | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.machine = machine
        self.allocator = allocator
        self.memory = memory
        self.shared = shared
        self.design = design
        self.behaviour = behaviour if behaviour is not None else KernelBehaviour()
        self.progress = progress
        self.log = KernelLog()
        count, packages = len(seamcalls), machine.topology.packages
        self.cpus = tuple(
            Cpu(index, index * packages // count, call, machine.hkid_start_bit)
            for index, call in enumerate(seamcalls)
        )
        first, end = machine.private_keyids
        self.global_keyid = first
        self.guest_keyids = range(first + 1, end)
        self.keyid_words = shared.words("host.guest_keyids")
        """1 where a guest KeyID is in use."""
        self.vm_ids = shared.words("host.vm_ids").at(0)
        self.tdx_lock = shared.mutex("tdx_lock")
        self.dynamic_pamt = False
        self.pamt = PamtState(shared, design.dpamt_names)
        self.pamt_lock = self.pamt.lock
        self.rcu_heads = shared.words("host.rcu.heads")
        """First page that waits for its RCU callback, of each CPU; 0 for none."""
        self.rcu_next = shared.words("host.rcu.next")
        """The page that waits behind it, by page frame."""
        self.work_head = shared.words("host.work.head").at(0)
        """First item that waits for the worker, plus 1; 0 for none (host/core/workqueue.py)."""
        self.work_next = shared.words("host.work.next")
        """The item that waits behind it, plus 1, by item."""
        self.work_pending = shared.words("host.work.pending")
        """1 while an item is queued and not yet begun, by item."""
        self.pamt_refcounts = self.pamt.refcounts
        self.pamt_pairs = self.pamt.pair_count
        self.tdx_pamt_get = design.tdx_pamt_get
        self.tdx_pamt_put = design.tdx_pamt_put
        self.tdx_pamt_demote = design.tdx_pamt_demote
        self.refcount_pages: dict[int, int] = {}
        """Pages behind the counters: index of the page of counters to page frame."""
        self.sysinfo: TdxSysInfo | None = None
        self.memory_list: tuple[MemoryBlock, ...] = ()
        self.tdmrs: tuple[TdmrInfo, ...] = ()
        self.pamt_areas: tuple[PamtArea, ...] = ()
        self.tdmr_array: tuple[int, int] | None = None
        """(first page, order) of the TDMR_INFO array."""

    @property
    def dpamt_lock(self) -> SpinLock:
        """``pamt_lock`` by the name that it was merged with."""
        return self.pamt_lock

    @property
    def dpamt_refcounts(self) -> Words:
        """``pamt_refcounts`` by the name that they were merged with."""
        return self.pamt_refcounts

    def package_cpus(self) -> list[Cpu]:
        """The first CPU of each package."""
        firsts: dict[int, Cpu] = {}
        for cpu in self.cpus:
            firsts.setdefault(cpu.package, cpu)
        return list(firsts.values())

    def report(self, step: str, done: int, total: int) -> None:
        """Tell the progress callback, if any."""
        if self.progress is not None:
            self.progress(step, done, total)
