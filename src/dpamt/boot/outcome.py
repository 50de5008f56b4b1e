"""What a boot is asked for, and what came of it: values, nothing that runs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dpamt.boot.call import Call
from dpamt.boot.console import Complaint
from dpamt.boot.delays import DelayRule
from dpamt.boot.exerciser import Exercise, Told
from dpamt.boot.forced import ForcedRule
from dpamt.boot.hold import HoldRule
from dpamt.boot.interventions import Change, Place
from dpamt.boot.kvm.allocations import Allocations
from dpamt.boot.kvm.coverage import Coverage
from dpamt.boot.kvm.prepare import KvmOptions, PreparedKvm
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.sweep import Sweep
from dpamt.boot.kvm.told import VmmTold
from dpamt.boot.page_state import Kept
from dpamt.boot.schedule import Followed
from dpamt.module.injection_rules import Rule
from dpamt.module.module import TdxModule
from dpamt.module.releases import WITH_SYS_DISABLE
from dpamt.platform.machine import Machine

MAILBOX: Final = "mailbox"
GDB: Final = "gdb"
STATIC: Final = "static"
DYNAMIC: Final = "dynamic"
INITIALIZED: Final = "TDX-Module initialized"


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
    release: str = f"2.0.18{WITH_SYS_DISABLE}"
    inject: tuple[Rule, ...] = ()
    forced: tuple[ForcedRule, ...] = ()
    delays: tuple[DelayRule, ...] = ()
    hold: tuple[HoldRule, ...] = ()
    append: str = ""
    timeout: float = 120.0
    build: Path | None = None
    """The kernel's build tree, to build the exerciser against."""
    exercise: Exercise | None = None
    replay: Mapping[str, Any] | None = None
    """A counterexample of `dpamt verify` whose schedule the exerciser follows."""
    core_at: int | None = None
    """The number of the SEAMCALL, from 1, before which a core is written; None: when the guest has
    ended."""
    kvm: KvmOptions | None = None
    """Load KVM and run TDs with it."""
    tdx: bool = True
    """False: the guest finds no TDX; for comparison of boot times."""


@dataclass(slots=True)
class RefcountAudit:
    """The kernel's own counters held against the module's page pairs."""

    name: str = ""
    """Of the counters; empty: this kernel has none, or they are not found."""
    not_found: str = ""
    """Why the counters of a kernel with Dynamic PAMT cannot be read."""
    points: int = 0
    """How often the lock was free and they were looked at."""
    wrong: int = 0
    """Contradictions found."""


@dataclass(slots=True)
class Booted:
    """What came of it."""

    places: list[Place]
    changes: list[Change]
    audit: RefcountAudit = field(default_factory=RefcountAudit)
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
    prepared: PreparedKvm | None = None
    """What KVM's modules are and what was changed in them."""
    phases: list[PhaseStock] = field(default_factory=list)
    """Of a run with KVM: what each phase of its scenario came to."""
    vmm: VmmTold | None = None
    """What the VMM said."""
    guests_refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(What the guests of TDs asked, answer) of what did not succeed."""
    sweep: Sweep | None = None
    """What came of each SEAMCALL that failed in its turn."""
    allocations: Allocations | None = None
    """What came of each allocation that failed in its turn."""
    checks: dict[str, list[str]] | None = None
    """Of checks of KVM: by name, what is wrong."""
    coverage: Coverage | None = None
    """Lines of KVM's TDX code that ran."""
    told: Told | None = None
    """What the exerciser said."""
    followed: Followed | None = None
    """How far the schedule of a counterexample was followed."""
    injected: list[tuple[str, int, int]] = field(default_factory=list)
    """By injection rule: its text, calls looked at, calls hit."""
    core: tuple[int, int] | None = None
    """Of the core that was written: bytes of memory in it, SEAMCALLs before it."""
    pamt_kept: list[Kept] = field(default_factory=list)
    """Where the module was not initialised: the PAMT of TDMRs that SYS.CONFIG was given and that
    the kernel did not give back."""

    @property
    def clean(self) -> bool:
        """Whether the module was initialised and nobody complains."""
        return self.initialized is not None and not self.complaints and not self.findings
