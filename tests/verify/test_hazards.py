"""Hazards of the mailing list: the variant that has one is caught by name, the fixed one passes."""

from functools import cache

import pytest

from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.programs.suite import SUITE, TOO_HARD, Trial, trials_of
from dpamt.verify.properties.named import (
    AT_REST,
    BAD_REMOVE,
    BUSY,
    DEADLOCK,
    DOUBLE_ADD,
    FATAL,
    KERNEL,
    LEAK,
    LIVELOCK,
    MISSING,
    PAGE,
    PROPERTY_NAMES,
    properties,
)
from dpamt.verify.verdict import Verdict, verify

TRIALS = {trial.name: trial for trial in SUITE}
SOUND = ("v6", "merged")


@cache
def verdict(design: str, trial: str, tolerate: bool = True) -> Verdict:
    loaded = load_design(design)
    judged = properties(loaded.tolerated if tolerate else frozenset())
    searched: Trial = TRIALS[trial]
    return verify(searched.make(loaded), judged, searched.granularity)


def broken(design: str, trial: str) -> set[str]:
    return {name for name, said in verdict(design, trial).properties.items() if said == "fails"}


STOOD = [trial.name for trial in SUITE if trial.name not in TOO_HARD]


@pytest.mark.parametrize(
    ("design", "trial"),
    [
        (design, trial)
        for design in SOUND
        for trial in STOOD
        if trial != "create, refused" or design == "merged"  # half a minute, and no design's code
    ],
)
def test_sound_designs_stand_every_trial(design: str, trial: str) -> None:
    if not TRIALS[trial].applies(load_design(design)):
        pytest.skip("does not apply to the design")
    said = verdict(design, trial)
    assert said.verdict == "holds", said.counterexamples[0]
    assert set(said.properties) == set(PROPERTY_NAMES)
    assert said.ends >= 1


HAZARDS = [
    # hazard, design, trial, properties that must be broken, among others
    ("L2 BUSY everywhere", "lazy", "words", {BUSY}),
    ("L3 a removal that fails leaves its pair", "lazy", "words", {LEAK}),
    ("REMOVE between type and count", "lazy", "words", {FATAL}),
    ("H7b the first put removes the pair under the second", "v3-simple", "words", {BAD_REMOVE}),
    ("H7b then a user meets no pair", "v3-simple", "one region", {MISSING}),
    ("H17 the pair's first page is lost", "v3", "no memory", {LEAK}),
    ("H6 a REMOVE that fails leaves count 0 and a pair", "v1", "pages", {AT_REST}),
    ("H7 an ADD that fails is called success", "v3", "pages", {MISSING, AT_REST}),
    ("H7 an ADD that fails is called success", "v4", "pages", {MISSING, AT_REST}),
    ("H17 the pair's first page is lost, by name", "v3", "demote", {LEAK}),
    ("H18 a VCPU that was never initialised", "v3", "early end", {KERNEL}),
    ("H18 a VCPU that was never initialised", "v3-simple", "early end", {KERNEL}),
    ("H29 a pair is not reset", "lazy", "pages", {PAGE}),
    ("H29 a pair is not reset", "v1", "pages", {PAGE}),
    ("H29 a pair is not reset", "v2", "pages", {PAGE}),
    ("H21 one page of the pair in another region", "per-2m-lock", "straddling pairs", {BUSY}),
    ("H23 DEMOTE against ADD, v5", "v5", "demote", {BUSY}),
    ("L1 a pair is taken out between ADD and use", "lazy", "taken again", {LIVELOCK}),
    ("H21 pair pages in another region that is added to", "per-2m-lock", "crossed pairs", {BUSY}),
    ("H22 locks of two regions, crossed", "per-2m-rwlock", "crossed pairs", {DEADLOCK}),
    ("H23 DEMOTE against ADD", "merged", "demote, no lock", {BUSY}),
    ("H23 DEMOTE against ADD, per region", "per-2m-lock", "demote", {BUSY}),
    ("an ADD under the read lock meets WBINVD", "global-rwlock", "faults", {BUSY, KERNEL, LEAK}),
    ("H27 put from an RCU callback", "v5", "softirq", {DEADLOCK}),
    ("two puts through one window", "v1", "one region", {BAD_REMOVE}),
    ("two puts through one window", "v2", "one region", {BAD_REMOVE, MISSING, AT_REST, LEAK}),
    ("two puts through one window", "v3", "one region", {BAD_REMOVE, MISSING, AT_REST, LEAK}),
    ("two puts through one window", "v4", "one region", {BAD_REMOVE, MISSING, AT_REST, LEAK}),
    ("two puts through one window", "v5", "one region", {BAD_REMOVE, MISSING, AT_REST, LEAK}),
]


@pytest.mark.parametrize(("hazard", "design", "trial", "expected"), HAZARDS)
def test_the_variant_that_has_a_hazard_is_caught(
    hazard: str, design: str, trial: str, expected: set[str]
) -> None:
    assert expected <= broken(design, trial), hazard
    for found in verdict(design, trial).counterexamples:
        assert found.steps


@pytest.mark.parametrize(
    ("hazard", "fixed", "trial", "gone"),
    [
        ("H7b", "v4", "one region", set[str]()),
        ("H21", "merged", "crossed pairs", {BUSY}),
        ("H22", "global-rwlock", "crossed pairs", {DEADLOCK, BUSY}),
        ("H23", "merged", "demote", {BUSY}),
        ("H17", "v4", "no memory", {FATAL}),
        ("H6", "v2", "demote", {AT_REST, LEAK}),
        ("H7", "v5", "pages", {MISSING}),
        ("H18", "v4", "early end", {KERNEL}),
        ("H29", "v3", "pages", {PAGE}),
        ("H27", "v5", "softirq, same region", {DEADLOCK}),
    ],
)
def test_the_variant_that_fixed_it_passes(
    hazard: str, fixed: str, trial: str, gone: set[str]
) -> None:
    assert not gone & broken(fixed, trial), hazard


@pytest.mark.parametrize("design", ["v2", "v3", "v4", "v5"])
def test_the_window_of_put_is_met_where_it_is_tolerated(design: str) -> None:
    """H1: a get finds the pair in place; v6 and merged never do."""
    assert DOUBLE_ADD in {
        name
        for name, said in verdict(design, "one region", tolerate=False).properties.items()
        if said == "fails"
    }
    assert DOUBLE_ADD not in broken(design, "one region")


@pytest.mark.parametrize("design", ["v6", "merged"])
def test_the_window_of_put_is_closed(design: str) -> None:
    assert DOUBLE_ADD not in broken(design, "one region")
    assert not load_design(design).tolerated


def test_h23_gives_the_code_that_was_seen_in_test() -> None:
    """Y. Zhao, 2026-06-11: ADD failed with 0x8000020000000001 (operand RCX).

    v6 prints the status; what was merged warns without it.
    """
    found = {c.broken: c.text for c in verdict("v6", "demote, no lock").counterexamples}
    assert "0x8000020000000001" in found["kernel"]


@pytest.mark.parametrize(
    "trial",
    [
        "one region",
        "two regions",
        "words",
        "own pair",
        "crossed pairs",
        "straddling pairs",
        "pages",
        "no memory",
        "demote",
    ],
)
def test_the_reserve_idea_stands_what_only_gets_and_puts(trial: str) -> None:
    assert verdict("global-rwlock", trial).verdict == "holds"


def test_two_puts_remove_one_pair_through_kvms_own_paths() -> None:
    """Two TDs that run, each with a fault and a zap."""
    assert BAD_REMOVE in broken("v2", "faults")


def test_every_design_is_put_through_its_trials() -> None:
    for name in SHIPPED:
        design = load_design(name)
        names = [trial.name for trial in trials_of(design)]
        assert bool(names) == design.dynamic_pamt
        assert ("softirq" in names) == (design.sept_put == "rcu")
