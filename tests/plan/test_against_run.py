"""On any small host, with any TDs that it can carry, the plan says what `dpamt run` arrives at."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.module.releases import release_named
from dpamt.plan.host_size import PAIR_BYTES
from dpamt.plan.mix import TdMix
from dpamt.plan.plan import DEFAULT_MODULE, plan_host
from dpamt.plan.ran import PEAK, scenario_text
from dpamt.platform.machine import Machine
from dpamt.run.scenario import scenario_from_text
from dpamt.run.story import run_on
from dpamt.run.world import World

from .hosts import hosts, mixes


@settings(max_examples=200, deadline=None)
@given(hosts(), mixes())
def test_the_plan_is_what_a_run_arrives_at(host: Machine, kinds: list[TdMix]) -> None:
    plan = plan_host(host, kinds)
    scenario = scenario_from_text(scenario_text(kinds, DEFAULT_MODULE, "memory-blocks"), "drawn")
    facts = run_on(scenario.with_options(pamt="dynamic"), host)
    (dynamic,) = facts.sides
    peak = [phase.name for phase in facts.phases].index(PEAK)
    boot, full = dynamic.snapshots[0], dynamic.snapshots[peak]
    size, mix = plan.host, plan.mix
    assert mix is not None
    assert (size.dynamic, size.static) == (boot.pamt, boot.other_pamt)
    assert [(tdmr.base, tdmr.end) for tdmr in size.tdmrs] == list(dynamic.tdmrs)
    assert size.verdict("merged").pamt_kib == dynamic.pamt_kib
    assert size.verdict("merged").refcount_bytes == dynamic.refcount_bytes
    assert (mix.pages.tds, mix.pages.control, mix.pages.sept) == (
        full.tds.alive,
        full.tds.control,
        full.tds.sept,
    )
    assert (mix.pages.guest_4k, mix.pages.guest_2m) == (full.tds.guest_4k, full.tds.guest_2m)
    assert mix.pages.bytes == full.tds.guest_bytes + (
        full.tds.control + full.tds.sept << PAGE_SHIFT
    )
    assert mix.pairs.minimum <= full.pairs <= mix.pairs.worst
    # Which pages the allocator gives for pools and pairs, and which for TDs, is not known: each may
    # be a crumb of memory with a region of its own.
    others = mix.pages.vcpus * 15 + 2 * max(mix.pairs.fresh, full.pairs)
    assert abs(mix.pairs.fresh - full.pairs) <= others
    assert mix.dynamic.fresh - mix.pairs.fresh * PAIR_BYTES == boot.pamt.total


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 300), st.integers(1, 3), mixes())
def test_pairs_of_a_fresh_host_without_crumbs(mib: int, nodes: int, kinds: list[TdMix]) -> None:
    plan = plan_host(f"{mib}MiB,nodes={nodes}", kinds, run=True)
    assert plan.mix is not None
    assert plan.ran is not None
    assert plan.ran.clean
    assert abs(plan.mix.pairs.fresh - plan.ran.pairs) <= 1


@settings(max_examples=100, deadline=None)
@given(hosts())
def test_boot_is_the_same_in_both_modes(host: Machine) -> None:
    scenario = scenario_from_text(scenario_text([], DEFAULT_MODULE, "memory-blocks"), "drawn")
    plan = plan_host(host, module=release_named(DEFAULT_MODULE))
    for side, vintage in zip(scenario.sides, ("linux-7.3.4", "merged"), strict=True):
        world = World(scenario, side, host)
        world.boot()
        verdict = plan.host.verdict(vintage)
        sizes = plan.host.static if side.pamt == "static" else plan.host.dynamic
        assert world.snapshot().pamt == sizes
        assert verdict.pamt_kib << 10 == sizes.boot
        assert [area.used for area in verdict.reserved] == [
            len(tdmr.reserved) for tdmr in world.kernel.tdmrs
        ]
        assert verdict.reserved_used == max(len(tdmr.reserved) for tdmr in world.kernel.tdmrs)
