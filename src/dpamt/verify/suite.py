"""What every design is put through: the programs, with the granularity and the bounds of each."""

from collections.abc import Callable
from typing import Final, NamedTuple

from dpamt.host.core.kernel import KernelBehaviour
from dpamt.host.designs.base import SEPT_CACHE_PAGES, Design
from dpamt.verify.kvm_programs import faults
from dpamt.verify.programs import (
    APART,
    CROSSED,
    OWN,
    Choices,
    demote_and_get,
    regions,
    softirq,
)
from dpamt.verify.setting import SEAMCALL, WORDS, Setting


class Trial(NamedTuple):
    """One search of the suite: its name, what it is about, its granularity and its setting."""

    name: str
    meaning: str
    granularity: str
    make: Callable[[Design], Setting]
    applies: Callable[[Design], bool] = lambda design: design.dynamic_pamt


SUITE: Final = (
    Trial("one region", "4 CPUs in one region", SEAMCALL, lambda d: regions(d, (4,))),
    Trial("two regions", "2 + 2 CPUs", SEAMCALL, lambda d: regions(d, (2, 2))),
    Trial("words", "2 CPUs in one region, every shared word", WORDS, lambda d: regions(d, (2,))),
    Trial(
        "own pair",
        "2 CPUs, the pair from the region itself, every shared word",
        WORDS,
        lambda d: regions(d, (2,), OWN),
    ),
    Trial(
        "crossed pairs",
        "1 + 1 CPUs, each pair from the other's region, every shared word",
        WORDS,
        lambda d: regions(d, (1, 1), CROSSED),
    ),
    Trial(
        "no memory",
        "3 CPUs in one region, one allocation fails",
        SEAMCALL,
        lambda d: regions(d, (3,), APART, Choices(1)),
    ),
    Trial(
        "demote",
        "DEMOTE on one CPU, get and put on another where its pair lies, every shared word",
        WORDS,
        demote_and_get,
    ),
    Trial(
        "faults",
        "2 TDs that run: a fault and a zap each, every shared word",
        WORDS,
        lambda d: faults(d, 2),
        lambda design: (
            design.dynamic_pamt
            and design.counts != "none"
            and design.sept_cache_pages <= SEPT_CACHE_PAGES
        ),
    ),
    Trial(
        "softirq",
        "a put from an RCU callback on top of a task's get and put",
        SEAMCALL,
        softirq,
        lambda design: design.dynamic_pamt and design.sept_put == "rcu",
    ),
)
"""Trials that a design has to stand; those that do not apply to it are left out."""

DEMOTE_WITHOUT_LOCK: Final = Trial(
    "demote, no lock",
    "as demote, DEMOTE under no lock: as posted with huge pages, 2026-01-06",
    WORDS,
    lambda d: demote_and_get(d, KernelBehaviour(demote_lock="none")),
)
"""What `[PATCH v3 00/24] KVM: TDX huge page support for private memory` did (H23)."""


def trials_of(design: Design) -> list[Trial]:
    """The trials that a design is put through."""
    return [trial for trial in SUITE if trial.applies(design)]
