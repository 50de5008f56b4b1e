"""One scenario on the kernel and on the model: SEAMCALLs by leaf, pairs and pages, phase by phase.

The model (`dpamt run`) gets the machine that the guest is, and 4K pages only, so that what differs
is what the kernel's KVM does otherwise; :mod:`dpamt.host.kvm.differences` knows why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dpamt.boot.kvm.stock import PhaseStock
from dpamt.host.kvm.differences import (
    CONTROL_PAGES,
    GUEST_PAGES,
    PAIRS,
    SEPT_PAGES,
    TDS,
    Difference,
    Phase,
    broken_laws,
    differences,
)
from dpamt.platform.machine import Machine
from dpamt.run.counter import SeamcallCounter
from dpamt.run.phases import phases_of
from dpamt.run.scenario import DEFAULT_DESIGN, Scenario, Side
from dpamt.run.story import run_on


@dataclass(frozen=True, slots=True)
class Compared:
    """``counts`` rows were held against each other; ``broken`` are balances that the kernel's own
    run breaks."""

    design: str
    counts: int
    different: tuple[Difference, ...]
    broken: tuple[str, ...]

    def findings(self) -> list[str]:
        """What no line of the kernel is known to explain, and what is out of balance."""
        unknown = [
            f"{one.phase}: {one.what}: {one.model:,} in dpamt run, {one.kernel:,} here, and no "
            "line of the kernel is known that explains it"
            for one in self.different
            if not one.because
        ]
        return unknown + [f"out of balance: {law}" for law in self.broken]


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
    model = phases_of(facts, facts.sides[0])
    kernel = tuple(_phase(stock) for stock in phases)
    return Compared(
        facts.sides[0].design,
        _rows(model, kernel),
        differences(model, kernel),
        broken_laws(kernel),
    )


def _phase(stock: PhaseStock) -> Phase:
    counter = SeamcallCounter()
    for (leaf, status), count in stock.seamcalls.items():
        counter.add(leaf, status, count)
    return Phase(
        stock.name,
        {(one.leaf, one.status): one.count for one in counter.take()},
        {
            PAIRS: stock.pairs,
            TDS: stock.tds,
            GUEST_PAGES: stock.guest_pages,
            SEPT_PAGES: stock.sept_pages,
            CONTROL_PAGES: stock.control_pages,
        },
    )


def _rows(model: Sequence[Phase], kernel: Sequence[Phase]) -> int:
    return sum(
        len(ours.counts.keys() | theirs.counts.keys()) + len(ours.ends.keys() | theirs.ends.keys())
        for ours, theirs in zip(model, kernel, strict=True)
    )
