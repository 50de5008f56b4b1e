"""A side of a run in the form in which it is held against a real kernel's run."""

from dpamt.host.kvm.differences import (
    CONTROL_PAGES,
    GUEST_PAGES,
    PAIRS,
    SEPT_PAGES,
    TDS,
    Phase,
)
from dpamt.run.facts import RunFacts, SideFacts


def phases_of(facts: RunFacts, side: SideFacts) -> tuple[Phase, ...]:
    """Its phases, module initialisation first, each with its SEAMCALLs and what is there then."""
    return tuple(
        Phase(
            phase.name,
            {(row.leaf, row.status): row.count for row in snapshot.seamcalls},
            {
                PAIRS: snapshot.pairs,
                TDS: snapshot.tds.alive,
                GUEST_PAGES: snapshot.tds.guest_4k,
                SEPT_PAGES: snapshot.tds.sept,
                CONTROL_PAGES: snapshot.tds.control,
            },
        )
        for phase, snapshot in zip(facts.phases, side.snapshots, strict=True)
    )
