"""What every design is put through: the programs, with the granularity and the bounds of each."""

from collections.abc import Callable
from typing import Final, NamedTuple

from dpamt.host.core.kernel import KernelBehaviour
from dpamt.host.designs.base import Design
from dpamt.verify.programs.faults import faults
from dpamt.verify.programs.get_put import handed_over, regions, softirq, taken_again
from dpamt.verify.programs.ground import APART, CROSSED, OWN, STRADDLING, Choices
from dpamt.verify.programs.other_agent import PAIRS
from dpamt.verify.programs.own_pages import demote_and_get, own_pages
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS, Problem
from dpamt.verify.programs.refusals import BUILDING_LEAVES, MAPPING_LEAVES, SPLITTING_LEAVES
from dpamt.verify.programs.whole_tds import create, early_end, split, split_and_fault, teardown


class Trial(NamedTuple):
    """One search of the suite: its name, what it is about, its granularity and its problem."""

    name: str
    meaning: str
    granularity: str
    make: Callable[[Design], Problem]
    applies: Callable[[Design], bool] = lambda design: design.dynamic_pamt
    demotes: bool = False
    """It calls DEMOTE, under locks that a design of code that is not Python does not name."""
    by_name: bool = False
    """Only when it is asked for by name: it takes long, or asks more than a design must stand."""


SUITE: Final = (
    Trial("one region", "4 CPUs in one region", SEAMCALL, lambda d: regions(d, (4,))),
    Trial("two regions", "2 + 2 CPUs in two regions", SEAMCALL, lambda d: regions(d, (2, 2))),
    Trial("words", "2 CPUs in one region", WORDS, lambda d: regions(d, (2,))),
    Trial(
        "handed over",
        "2 CPUs in one region; one puts the page that the other got; then both get again",
        SEAMCALL,
        handed_over,
    ),
    Trial(
        "own pair",
        "2 CPUs in one region; its pair lies in the region itself",
        WORDS,
        lambda d: regions(d, (2,), OWN),
    ),
    Trial(
        "crossed pairs",
        "1 + 1 CPUs in two regions; the pair of each lies in the other",
        WORDS,
        lambda d: regions(d, (1, 1), CROSSED),
    ),
    Trial(
        "straddling pairs",
        "1 + 1 + 1 CPUs in three regions; one page of the first one's pair and one of the third "
        "one's lie in the second",
        LOCKS,
        lambda d: regions(d, (1, 1, 1), STRADDLING),
    ),
    Trial(
        "pages",
        "2 CPUs in one region, each with pages of its own; one allocation or SEAMCALL fails",
        SEAMCALL,
        own_pages,
    ),
    Trial(
        "no memory",
        "3 CPUs in one region; one allocation fails",
        SEAMCALL,
        lambda d: regions(d, (3,), APART, Choices(1)),
    ),
    Trial(
        "demote",
        "DEMOTE on one CPU; get and put on another, in the region where a page of its pair lies; "
        "one allocation or SEAMCALL fails",
        WORDS,
        demote_and_get,
        demotes=True,
    ),
    Trial(
        "faults",
        "2 TDs run; each faults and zaps once",
        WORDS,
        lambda d: faults(d, 2),
    ),
    Trial(
        "softirq",
        "a put from an RCU callback on top of a task's get and put",
        SEAMCALL,
        softirq,
        lambda design: design.dynamic_pamt and design.sept_put == "rcu",
    ),
    Trial(
        "softirq, same region",
        "the same, both pages in one region",
        SEAMCALL,
        lambda d: softirq(d, same_region=True),
        lambda design: design.dynamic_pamt and design.sept_put == "rcu",
    ),
    Trial(
        "taken again",
        "get, use, put beside a CPU that does the same again and again",
        SEAMCALL,
        taken_again,
        lambda design: design.dynamic_pamt and design.tdx_pamt_missing is not None,
    ),
    Trial(
        "early end",
        "a TD ends on one CPU; its VCPU was never initialised",
        SEAMCALL,
        early_end,
    ),
    Trial(
        "split",
        "a hole is punched into a 2M page; another TD faults and zaps where the new pages lie",
        LOCKS,
        split,
        lambda design: design.dynamic_pamt and design.counts != "none",
        demotes=True,
    ),
    Trial(
        "split, pairs",
        "the same, but the new S-EPT page lies elsewhere",
        LOCKS,
        lambda d: split(d, sept_elsewhere=True),
        lambda design: design.dynamic_pamt and design.counts != "none",
        demotes=True,
    ),
    Trial(
        "split, same TD",
        "a hole is punched into a 2M page; a VCPU of the same TD faults on it or on the next page",
        LOCKS,
        split_and_fault,
        demotes=True,
    ),
    Trial(
        "teardown",
        "a TD ends; another one faults in the same region, and ends",
        SEAMCALL,
        teardown,
        by_name=True,
    ),
    Trial(
        "create",
        "a TD and its VCPU are made, and given up; another TD faults and zaps in the same region",
        SEAMCALL,
        create,
        by_name=True,
    ),
    Trial(
        "create, refused",
        "as create on one CPU alone; a SEAMCALL that takes a control page is refused",
        SEAMCALL,
        lambda d: create(d, Choices(1, refused=BUILDING_LEAVES, memory=False), alone=True),
        by_name=True,
    ),
    Trial(
        "faults, refused",
        "as faults; an allocation fails, or PAMT.ADD, PAMT.REMOVE, SEPT.ADD or AUG",
        SEAMCALL,
        lambda d: faults(d, 2, choices=Choices(1, refused=MAPPING_LEAVES)),
        by_name=True,
    ),
    Trial(
        "split, refused",
        "as split; an allocation fails, or PAMT.ADD, PAMT.REMOVE or DEMOTE",
        LOCKS,
        lambda d: split(d, Choices(1, refused=SPLITTING_LEAVES)),
        lambda design: design.dynamic_pamt and design.counts != "none",
        by_name=True,
        demotes=True,
    ),
    Trial(
        "create, no memory",
        "as create, and one allocation fails",
        SEAMCALL,
        lambda d: create(d, Choices(1)),
        by_name=True,
    ),
    Trial(
        "teardown, no memory",
        "as teardown, and one allocation fails",
        SEAMCALL,
        lambda d: teardown(d, Choices(1)),
        by_name=True,
    ),
    Trial(
        "teardown, own pair",
        "as teardown, pairs from the region itself",
        SEAMCALL,
        lambda d: teardown(d, placement=OWN),
        by_name=True,
    ),
    Trial(
        "split, no memory",
        "as split, and one allocation fails",
        LOCKS,
        lambda d: split(d, Choices(1)),
        lambda design: design.dynamic_pamt and design.counts != "none",
        by_name=True,
        demotes=True,
    ),
    Trial(
        "busy guest",
        "as faults; one SEAMCALL of a fault or zap meets a lock that a VCPU in the guest holds",
        SEAMCALL,
        lambda d: faults(d, 2, choices=Choices(busy=1)),
        by_name=True,
    ),
    Trial(
        "busy pair",
        "as faults; one PAMT.ADD or REMOVE meets a lock, which Linux does not expect",
        SEAMCALL,
        lambda d: faults(d, 2, choices=Choices(busy=1, holds=PAIRS)),
        by_name=True,
    ),
    Trial(
        "demote, no lock",
        "as demote, with DEMOTE under no lock, as posted with huge pages on 2026-01-06 (H23)",
        WORDS,
        lambda d: demote_and_get(d, KernelBehaviour(demote_lock="none"), Choices()),
        by_name=True,
        demotes=True,
    ),
    Trial(
        "split, no lock",
        'as "split, pairs", with DEMOTE under no lock (H23)',
        LOCKS,
        lambda d: split(d, None, KernelBehaviour(demote_lock="none"), sept_elsewhere=True),
        lambda design: design.dynamic_pamt and design.counts != "none",
        by_name=True,
        demotes=True,
    ),
)
"""All trials; those that do not apply to a design are left out.

`[PATCH v3 00/24] KVM: TDX huge page support for private memory` (2026-01-06) had DEMOTE under no
lock.
"""

TOO_HARD: Final = frozenset({"busy pair", "demote, no lock", "split, no lock"})
"""Trials that no design is asked to stand: what matters is what a design makes of them."""


def trials_of(design: Design, by_name: bool = False) -> list[Trial]:
    """The trials that a design is put through; with ``by_name`` those too that must be named."""
    return [
        trial
        for trial in SUITE
        if trial.applies(design)
        and (by_name or not trial.by_name)
        and not (trial.demotes and design.code is not None and not design.code.shares_pamt_lock)
    ]
