"""One scenario on the kernel and on the model: SEAMCALLs by leaf, pairs and pages, phase by phase.

The model (`dpamt run`) gets the machine that the guest is, so that what differs is what the
kernel's KVM does otherwise, and each such difference has a reason with its place in the kernel.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final, Literal

from dpamt.boot.kvm.stock import PhaseStock
from dpamt.platform.machine import Machine
from dpamt.run.counter import SeamcallCounter
from dpamt.run.facts import Snapshot
from dpamt.run.scenario import DEFAULT_DESIGN, Scenario, Side
from dpamt.run.story import run_on

Key = tuple[str, str]
"""Names of a leaf and of a status."""


@dataclass(frozen=True, slots=True)
class Row:
    """A count that both have, and why it differs (empty: nothing known explains it)."""

    phase: str
    what: str
    model: int
    kernel: int
    why: str = ""

    @property
    def differs(self) -> bool:
        """Whether the two disagree."""
        return self.model != self.kernel


@dataclass(frozen=True, slots=True)
class Compared:
    """Every count of every phase."""

    design: str
    rows: tuple[Row, ...]

    @property
    def different(self) -> tuple[Row, ...]:
        """Those that disagree."""
        return tuple(row for row in self.rows if row.differs)

    @property
    def unexplained(self) -> tuple[Row, ...]:
        """Those that disagree, and no line of the kernel is known to explain it."""
        return tuple(row for row in self.different if not row.why)


def compare(
    scenario: Scenario, machine: Machine, release: str, dynamic: bool, phases: list[PhaseStock]
) -> Compared:
    """Run the scenario on the model of this machine and hold the kernel's phases against it.

    Raises InputError and findings as :func:`dpamt.run.story.run`.
    """
    mode: Literal["dynamic", "static"] = "dynamic" if dynamic else "static"
    side = Side(mode, mode, DEFAULT_DESIGN if dynamic else "static")
    host = replace(scenario.host, fragmentation=0.0, module=release, inject=())
    groups = tuple(replace(group, share_2m=0.0) for group in scenario.tds)
    facts = run_on(replace(scenario, host=host, sides=(side,), tds=groups), machine)
    rows: list[Row] = []
    for phase, snapshot, stock in zip(facts.phases, facts.sides[0].snapshots, phases, strict=False):
        rows += _rows(phase.name, snapshot, stock, dynamic)
    return Compared(facts.sides[0].design, tuple(rows))


def _rows(phase: str, snapshot: Snapshot, stock: PhaseStock, dynamic: bool) -> list[Row]:
    model = Counter({(one.leaf, one.status): one.count for one in snapshot.seamcalls})
    kernel = _named(stock.seamcalls)
    rows = [
        Row(phase, _label(key), model[key], kernel[key], _why(key, phase))
        for key in sorted(model.keys() | kernel.keys())
    ]
    pairs = (("page pairs", snapshot.pairs, stock.pairs),) if dynamic else ()
    ends = (
        *pairs,
        ("TDs", snapshot.tds.alive, stock.tds),
        ("guest pages", snapshot.tds.guest_4k, stock.guest_pages),
        ("S-EPT pages", snapshot.tds.sept, stock.sept_pages),
        ("control pages", snapshot.tds.control, stock.control_pages),
    )
    return rows + [Row(phase, what, m, k, WHY_PAGES.get(what, "")) for what, m, k in ends]


def _named(seamcalls: dict[tuple[int, int], int]) -> Counter[Key]:
    """Counts by leaf and status as `dpamt run` names them."""
    counter = SeamcallCounter()
    for (leaf, status), count in seamcalls.items():
        counter.add(leaf, status, count)
    return Counter({(one.leaf, one.status): one.count for one in counter.take()})


def _label(key: Key) -> str:
    leaf, status = key
    return leaf if status == "TDX_SUCCESS" else f"{leaf}: {status}"


def _why(key: Key, phase: str) -> str:
    return ""


WHY_PAGES: Final[dict[str, str]] = {}
