"""TDs made, ended and split beside faults: what each design makes of it, in KVM's own way."""

import json
from collections.abc import Callable
from functools import cache

import pytest

from dpamt.abi.leaves import LEAF_NAMES, TDH_MEM_PAGE_DEMOTE
from dpamt.host.core.kernel import KernelBehaviour
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.evidence.replay import replay
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.ground import CROSSED, Choices
from dpamt.verify.programs.other_agent import PAIRS
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, Problem
from dpamt.verify.programs.suite import SUITE
from dpamt.verify.programs.whole_tds import create, split, split_and_fault, teardown
from dpamt.verify.properties.named import (
    AT_REST,
    BAD_REMOVE,
    BUSY,
    KERNEL,
    LEAK,
    MISSING,
    properties,
)
from dpamt.verify.verdict import Verdict, verify

TRIALS = {trial.name: trial for trial in SUITE}


@cache
def verdict(design: str, trial: str) -> Verdict:
    loaded = load_design(design)
    searched = TRIALS[trial]
    return verify(searched.make(loaded), properties(loaded.tolerated), searched.granularity)


def broken(design: str, trial: str) -> set[str]:
    return {name for name, said in verdict(design, trial).properties.items() if said == "fails"}


def calls(problem: Problem) -> set[str]:
    """Names of the SEAMCALLs that the threads make, in any schedule."""
    search = search_of(problem, properties(), SEAMCALL)
    search.explore()
    return {
        LEAF_NAMES[event.subject]  # type: ignore[index]
        for automaton in search.automata
        for node in automaton.nodes
        for _, events in node.edges.values()
        for event in events
        if event.kind == "seamcall"
    }


def test_a_td_that_ends_goes_the_whole_way() -> None:
    assert calls(teardown(load_design("merged"))) == {
        "TDH.MEM.PAGE.AUG",
        "TDH.MEM.RANGE.BLOCK",
        "TDH.MEM.TRACK",
        "TDH.MEM.PAGE.REMOVE",
        "TDH.PHYMEM.PAGE.WBINVD",
        "TDH.VP.FLUSH",
        "TDH.MNG.VPFLUSHDONE",
        "TDH.PHYMEM.CACHE.WB",
        "TDH.MNG.KEY.FREEID",
        "TDH.PHYMEM.PAGE.RECLAIM",
        "TDH.PHYMEM.PAMT.ADD",
        "TDH.PHYMEM.PAMT.REMOVE",
    }


def test_a_td_that_is_made_goes_the_whole_way() -> None:
    assert calls(create(load_design("merged"))) >= {
        "TDH.MNG.CREATE",
        "TDH.MNG.KEY.CONFIG",
        "TDH.MNG.ADDCX",
        "TDH.MNG.INIT",
        "TDH.VP.CREATE",
        "TDH.VP.ADDCX",
        "TDH.VP.INIT",
        "TDH.VP.FLUSH",
        "TDH.PHYMEM.PAGE.RECLAIM",
        "TDH.MEM.PAGE.AUG",
        "TDH.MEM.PAGE.REMOVE",
    }


@pytest.mark.parametrize("make", [split, split_and_fault])
def test_a_page_that_is_split_goes_the_whole_way(make: Callable[[Design], Problem]) -> None:
    assert calls(make(load_design("merged"))) >= {
        "TDH.MEM.RANGE.BLOCK",
        "TDH.MEM.TRACK",
        "TDH.MEM.PAGE.DEMOTE",
        "TDH.MEM.PAGE.AUG",
        "TDH.MEM.PAGE.REMOVE",
    }


CAUGHT = [
    # hazard, design, trial, properties that must be broken, among others
    ("H25 a split forgets its S-EPT page", "v5", "split", {MISSING, KERNEL, BAD_REMOVE}),
    ("H25 the count is one too low", "v5", "split, pairs", {AT_REST}),
    ("H25 another VCPU of the TD", "v5", "split, same TD", {MISSING, KERNEL, BAD_REMOVE}),
    ("H23 KVM's split against ADD", "merged", "split, no lock", {BUSY, KERNEL, LEAK}),
    ("H23 KVM's split against ADD, v5", "v5", "split, pairs", {BUSY, KERNEL}),
    ("H23 KVM's split against ADD, per region", "per-2m-lock", "split, pairs", {BUSY, KERNEL}),
    ("two puts through one window, a TD that ends", "v1", "teardown", {BAD_REMOVE}),
    ("two puts through one window, a TD that ends", "v2", "teardown", {BAD_REMOVE, AT_REST}),
    ("two puts through one window, a TD that ends", "v3", "teardown", {BAD_REMOVE, AT_REST}),
    ("two puts through one window, a TD that ends", "v4", "teardown", {BAD_REMOVE, AT_REST}),
    ("two puts through one window, a TD that ends", "v5", "teardown", {BAD_REMOVE, AT_REST}),
    ("two puts through one window, a TD that is made", "v4", "create", {BAD_REMOVE, AT_REST}),
    ("H7b", "v3-simple", "teardown", {BAD_REMOVE}),
    ("H7b, the region of a split's pages", "v3-simple", "split", {BAD_REMOVE, MISSING}),
    ("an ADD under the read lock, split", "global-rwlock", "split", {BUSY, KERNEL, LEAK}),
    ("one BUSY of the guest opens the window of put", "v4", "busy guest", {MISSING, KERNEL}),
    ("H7 an ADD that fails is called success", "v3", "busy pair", {MISSING, KERNEL}),
    ("H7 an ADD that fails is called success", "v4", "busy pair", {MISSING, KERNEL}),
    ("H6 a REMOVE that fails leaves count 0 and a pair", "v1", "busy pair", {AT_REST, LEAK}),
]


@pytest.mark.parametrize(("hazard", "design", "trial", "expected"), CAUGHT)
def test_the_variant_that_has_a_hazard_is_caught(
    hazard: str, design: str, trial: str, expected: set[str]
) -> None:
    assert expected <= broken(design, trial), hazard


@pytest.mark.parametrize(
    ("hazard", "fixed", "trial", "gone"),
    [
        ("H25", "v6", "split", {MISSING, KERNEL, BAD_REMOVE, AT_REST, LEAK}),
        ("H23", "merged", "split, pairs", {BUSY, KERNEL, LEAK}),
        ("H7", "v5", "busy pair", {MISSING}),
        ("H7", "v6", "busy pair", {MISSING, BAD_REMOVE}),
        ("H7", "merged", "busy pair", {MISSING, BAD_REMOVE}),
    ],
)
def test_the_variant_that_fixed_it_passes(
    hazard: str, fixed: str, trial: str, gone: set[str]
) -> None:
    assert not gone & broken(fixed, trial), hazard


@pytest.mark.parametrize("design", ["merged", "v6"])
def test_demote_needs_no_lock_where_its_s_ept_page_lies_with_its_pair(design: str) -> None:
    """H23: the split's own get keeps the region's count above 0."""
    loaded = load_design(design)
    problem = split(loaded, behaviour=KernelBehaviour(demote_lock="none"))
    assert verify(problem, properties(), LOCKS).verdict == "holds"


@pytest.mark.parametrize("design", ["merged", "v6"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_demote_that_fails_takes_nothing_from_others(design: str, elsewhere: bool) -> None:
    """H24: refused twice, the VM is bugged; pair and count of the region are others' as before."""
    refused = Choices(busy=2, holds=((TDH_MEM_PAGE_DEMOTE, ("RCX",)),))
    problem = split(load_design(design), refused, sept_elsewhere=elsewhere)
    said = verify(problem, properties(), LOCKS)
    assert {name for name, how in said.properties.items() if how == "fails"} == {KERNEL}
    assert "TDH.MEM.PAGE.DEMOTE" in said.counterexamples[0].text


def rest_of(design: str, trial: str) -> str:
    return {c.broken: c.text for c in verdict(design, trial).counterexamples}[AT_REST]


def test_a_remove_that_fails_leaves_what_each_series_says() -> None:
    """H6: v1 has a pair that nobody counts; from v2 on the count stays and says so."""
    assert "refcount 0, but its pair is installed" in rest_of("v1", "busy pair")
    for design in ("v2", "v6", "merged"):
        assert "refcount 1, but 0 4K pages in TDX use" in rest_of(design, "busy pair")


def test_a_put_after_an_add_that_failed_takes_the_count_below_zero() -> None:
    """H7c, after H7."""
    assert "refcount -1" in rest_of("v4", "busy pair")


@pytest.mark.parametrize("design", ["merged", "v6"])
def test_busy_twice_is_more_than_linux_stands(design: str) -> None:
    """The zap tries again once: a lock that stays held is a bug of the VM, and nothing else."""
    from dpamt.verify.programs.faults import faults

    loaded = load_design(design)
    problem = faults(loaded, 1, choices=Choices(busy=2))
    said = verify(problem, properties(), SEAMCALL)
    assert {name for name, how in said.properties.items() if how == "fails"} == {KERNEL}
    assert "TDH.MEM.RANGE.BLOCK" in said.counterexamples[0].text


@pytest.mark.parametrize(
    ("design", "trial"),
    [("v4", "teardown"), ("v4", "create"), ("v5", "split"), ("v4", "busy guest")],
)
def test_counterexamples_are_the_same_on_threads(design: str, trial: str) -> None:
    loaded = load_design(design)
    judged = properties(loaded.tolerated)
    for found in verdict(design, trial).counterexamples:
        kept = json.loads(json.dumps(found.as_json()))
        said = replay(TRIALS[trial].make(loaded), judged, kept)
        assert not said.departure
        assert found.broken in said.broken


def test_a_page_that_is_kept_when_all_tds_are_gone_is_told() -> None:
    """The question about what is left can be answered with no."""
    loaded = load_design("merged")

    problem = teardown(loaded)
    world = problem.world
    assert world is not None
    pages = world.shared.array("verify.pages")
    pages.at(world.free_region(0) + 39).store(1)  # somebody took a page and never gives it back
    said = verify(problem, properties(), SEAMCALL)
    assert {name for name, how in said.properties.items() if how == "fails"} == {LEAK}
    assert "not given back" in said.counterexamples[0].text
    assert f"{world.free_region(0) + 39:#x}" in said.counterexamples[0].text


def test_bounds_say_what_was_chosen() -> None:
    said = create(load_design("v5"), Choices(1, 1, PAIRS), CROSSED).bounds
    assert said["allocations that fail"] == "at most 1"
    assert said["SEAMCALLs that meet a lock of nobody here"] == "at most 1"
    assert said["S-EPT pages in a VCPU's pool"] == "5, not the 40 of the design"


def test_trials_by_name_are_left_out_unless_they_are_named() -> None:
    from dpamt.verify.programs.suite import trials_of

    for name in SHIPPED:
        design = load_design(name)
        told = {trial.name for trial in trials_of(design)}
        every = {trial.name for trial in trials_of(design, True)}
        assert told <= every
        assert ("create" in every - told) == design.dynamic_pamt
