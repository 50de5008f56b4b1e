"""What a run has found out: plain numbers, from which both the text and the JSON are made."""

from dataclasses import asdict, dataclass
from typing import Any, Final

JSON_FORMAT: Final = 1
"""Raised when a key of the JSON document changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The machine, the same on all sides.  Ranges are (first byte, end exclusive[, node])."""

    source: str
    memory_bytes: int
    """All RAM in memory blocks."""
    tdx_bytes: int
    """RAM from 1 MiB up: what TDs can get."""
    max_pfn: int
    packages: int
    cpus: int
    fragmentation: float
    fragmented: str
    """When: ``after-boot`` or ``at-boot``."""
    cmrs: tuple[tuple[int, int], ...]
    memory: tuple[tuple[int, int, int], ...]
    guest_keyids: int
    """TDs that can live at once."""
    recorded_pamt_kib: int | None
    """What the host's own log said."""
    recorded_module: str | None
    """Version of the module that it ran, as the log has it."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeamcallCount:
    """How often a leaf returned a status; ``status`` is its name."""

    leaf: str
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class PamtFacts:
    """Bytes of PAMT by kind; ``level_4k`` or ``bitmap`` is 0, according to the mode."""

    level_1g: int
    level_2m: int
    level_4k: int
    bitmap: int
    pairs: int
    refcounts: int

    @property
    def boot(self) -> int:
        """What the kernel log counts as "allocated for PAMT"."""
        return self.level_1g + self.level_2m + self.level_4k + self.bitmap

    @property
    def total(self) -> int:
        """All of it."""
        return self.boot + self.pairs + self.refcounts


@dataclass(frozen=True, slots=True)
class TdFacts:
    """What the module says is in TDs: 4K pages by type, larger guest pages."""

    alive: int
    guest_4k: int
    guest_2m: int
    sept: int
    control: int
    """TDR, TDCX and TDVPR pages."""

    @property
    def guest_bytes(self) -> int:
        """Private memory in use."""
        return (self.guest_4k << 12) + (self.guest_2m << 21)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One side at the end of one phase."""

    seamcalls: tuple[SeamcallCount, ...]
    """Those of this phase."""
    pairs: int
    """Pairs installed, as the module has them."""
    pamt: PamtFacts
    other_pamt: PamtFacts
    """What the other mode would take for the same pages, region by region (arithmetic)."""
    tds: TdFacts
    meminfo: str | None
    """The line of /proc/meminfo; None where the kernel has none."""
    tdx_kib: int
    """The number that such a line shows, whether the kernel shows it or not."""
    free_pages: int
    log: tuple[str, ...]
    """Kernel log lines of this phase."""
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InjectedCall:
    """A call that a rule hit: the ``call``-th it looked at, and what that answered."""

    leaf: str
    call: int
    status: str


@dataclass(frozen=True, slots=True)
class InjectionFacts:
    """What came of an injection rule: calls it looked at, calls it hit, what those answered.

    And what became of those it hit: they went ``through`` nevertheless; or failed, and the host
    made them ``again``, or gave up with the VM ``bugged``, ``warned`` otherwise or ``silent``.
    """

    rule: str
    seen: int
    hits: int
    answers: tuple[SeamcallCount, ...]
    first_hits: tuple[InjectedCall, ...]
    """The first of them, at most 16."""
    through: int
    again: int
    bugged: int
    warned: int
    silent: int


@dataclass(frozen=True, slots=True)
class SideFacts:
    """One side from boot to end; ``snapshots`` go with the phases of the run."""

    name: str
    pamt: str
    """The mode it runs in: static or dynamic."""
    design: str
    module: str
    tdmrs: tuple[tuple[int, int], ...]
    pamt_kib: int
    """KB that the kernel log says are allocated for PAMT."""
    refcount_bytes: int
    free_pages_at_boot: int
    snapshots: tuple[Snapshot, ...]
    """The first one is after module initialisation, before any phase of the scenario."""
    findings: tuple[str, ...]
    """What the final audit found, on a host with no TD left."""
    injected: tuple[InjectionFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class FullHost:
    """Arithmetic: bytes of PAMT with every page that TDs can get in use, ``share_2m`` at 2M."""

    share_2m: float
    static: int
    dynamic: int


@dataclass(frozen=True, slots=True)
class PhaseFacts:
    """A phase's name, and its steps in words."""

    name: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A whole run."""

    title: str
    seed: int
    host: HostFacts
    phases: tuple[PhaseFacts, ...]
    sides: tuple[SideFacts, ...]
    full_host: tuple[FullHost, ...]

    @property
    def clean(self) -> bool:
        """No audit, in no phase and on no side, found anything."""
        return not any(
            side.findings or any(snapshot.findings for snapshot in side.snapshots)
            for side in self.sides
        )

    def to_json(self) -> dict[str, Any]:
        """The document of docs/json-run.md."""
        document = {"format": JSON_FORMAT, "clean": self.clean, **asdict(self)}
        for side in document["sides"]:
            for snapshot in side["snapshots"]:
                for key in ("pamt", "other_pamt"):
                    facts = PamtFacts(**snapshot[key])
                    snapshot[key] |= {"boot": facts.boot, "total": facts.total}
                snapshot["tds"]["guest_bytes"] = TdFacts(**snapshot["tds"]).guest_bytes
        return document
