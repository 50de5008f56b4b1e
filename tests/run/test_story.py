"""Runs: numbers against documented ones and against laws that hold whatever happens."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from dpamt.errors import InputError
from dpamt.run.api import run_scenario
from dpamt.run.facts import RunFacts, SideFacts, Snapshot
from dpamt.run.failures import HostTooSmall, KernelFailed
from dpamt.run.machine_of import machine_of
from dpamt.run.scenario import scenario_from_text
from dpamt.run.world import World

from .story_texts import CHURN, SIDES, scenarios

GIB = 1 << 30


@pytest.fixture(scope="module")
def churn() -> RunFacts:
    return run_scenario(CHURN)


@pytest.fixture(scope="module")
def real_host() -> RunFacts:
    return run_scenario('title = "boot"\n[host]\nmachine = "host-1tib"\npackages = 2\n')


def calls(snapshot: Snapshot, leaf: str) -> int:
    return sum(
        row.count
        for row in snapshot.seamcalls
        if row.leaf == leaf and row.status.startswith("TDX_SUCCESS")
    )


def side_of(facts: RunFacts, name: str) -> SideFacts:
    return next(side for side in facts.sides if side.name == name)


def test_the_real_host_boots_as_its_log_says(real_host: RunFacts) -> None:
    static, dynamic = real_host.sides
    assert [(end - base) // GIB for base, end in static.tdmrs] == [2, 254, 256, 256, 256]
    assert static.tdmrs == dynamic.tdmrs
    assert static.pamt_kib == real_host.host.recorded_pamt_kib == 4202516
    assert dynamic.pamt_kib == 40980
    assert static.snapshots[0].pamt.boot == 4202516 << 10
    assert dynamic.snapshots[0].pamt.boot == 40980 << 10
    assert "virt/tdx: 4202516 KB allocated for PAMT" in static.snapshots[0].log
    assert "virt/tdx: Enable Dynamic PAMT" in dynamic.snapshots[0].log
    assert "virt/tdx: Enable Dynamic PAMT" not in static.snapshots[0].log
    assert real_host.clean


def test_each_side_of_the_real_host_computes_the_other(real_host: RunFacts) -> None:
    static, dynamic = (side.snapshots[0] for side in real_host.sides)
    assert static.other_pamt == dynamic.pamt
    assert dynamic.other_pamt == static.pamt


def test_a_full_host_at_4k_pays_a_pair_for_each_region(real_host: RunFacts) -> None:
    all_4k, mostly_2m, all_2m = real_host.full_host
    regions = -(-real_host.host.tdx_bytes // (2 << 20))
    assert all_4k.dynamic - all_2m.dynamic == regions * 8192
    assert mostly_2m.dynamic - all_2m.dynamic == pytest.approx(regions * 819.2, rel=1e-4)
    assert all_2m.dynamic < all_4k.static < all_4k.dynamic
    assert {row.static for row in real_host.full_host} == {4202516 << 10}


def test_tdmr_init_takes_1024_pages_a_call(real_host: RunFacts) -> None:
    for side in real_host.sides:
        assert calls(side.snapshots[0], "TDH.SYS.TDMR.INIT") == 1024 * GIB // (4 << 20)
        assert calls(side.snapshots[0], "TDH.SYS.KEY.CONFIG") == 2


def check_laws(facts: RunFacts) -> None:
    """What holds in any run, by counting calls."""
    for side in facts.sides:
        total: Counter[str] = Counter()
        for snapshot in side.snapshots:
            for row in snapshot.seamcalls:
                if row.status.startswith("TDX_SUCCESS"):
                    total[row.leaf.removeprefix("TDH.")] += row.count
            tds = snapshot.tds
            split = total["MEM.PAGE.DEMOTE"]
            mapped = total["MEM.PAGE.ADD"] + total["MEM.PAGE.AUG"] - total["MEM.PAGE.REMOVE"]
            assert tds.guest_4k + tds.guest_2m == mapped + 511 * split
            assert tds.alive == total["MNG.CREATE"] - total["MNG.KEY.FREEID"]
            installed = total["PHYMEM.PAMT.ADD"] - total["PHYMEM.PAMT.REMOVE"]
            if side.pamt == "dynamic":
                assert snapshot.pairs == installed + split
                assert snapshot.pamt.level_4k == 0
            else:
                assert snapshot.pairs == installed == 0
                assert snapshot.pamt.bitmap == snapshot.pamt.refcounts == 0
            assert snapshot.pamt.pairs == snapshot.pairs * 8192 == snapshot.tdx_kib << 10
            if snapshot.meminfo is not None:
                assert snapshot.meminfo.split() == ["TDX:", str(snapshot.tdx_kib), "kB"]
        assert total["MR.EXTEND"] == 16 * total["MEM.PAGE.ADD"]
        last = side.snapshots[-1]
        assert last.tds.alive == last.pairs == 0
        assert last.free_pages == side.free_pages_at_boot
        assert side.findings == ()
    assert facts.clean


def test_churn_obeys_the_laws(churn: RunFacts) -> None:
    check_laws(churn)
    assert any(calls(snapshot, "TDH.MEM.PAGE.DEMOTE") for snapshot in churn.sides[0].snapshots)


def test_designs_give_guests_the_same(churn: RunFacts) -> None:
    static, v2, merged = churn.sides
    for a, b, c in zip(static.snapshots, v2.snapshots, merged.snapshots, strict=True):
        assert a.tds.guest_bytes == b.tds.guest_bytes == c.tds.guest_bytes
        assert b.pairs == c.pairs


def test_only_v2_prints_the_meminfo_line(churn: RunFacts) -> None:
    assert all(snapshot.meminfo for snapshot in side_of(churn, "v2").snapshots)
    for name in ("static", "merged"):
        assert not any(snapshot.meminfo for snapshot in side_of(churn, name).snapshots)


def test_the_same_seed_gives_the_same_facts(churn: RunFacts) -> None:
    again = run_scenario(CHURN.replace(SIDES, '[[side]]\nname = "merged"\n'))
    assert again.sides == (side_of(churn, "merged"),)


def test_the_json_document_has_every_fact(churn: RunFacts) -> None:
    document = json.loads(json.dumps(churn.to_json()))
    assert document["format"] == 1
    assert document["clean"] is True
    for side, facts in zip(document["sides"], churn.sides, strict=True):
        for row, snapshot in zip(side["snapshots"], facts.snapshots, strict=True):
            assert row["pamt"]["total"] == snapshot.pamt.total
            assert row["tds"]["guest_bytes"] == snapshot.tds.guest_bytes


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(scenarios())
def test_any_small_scenario_ends_as_it_began_in_every_design(text: str) -> None:
    check_laws(run_scenario(text))


def test_without_2m_blocks_everything_is_4k() -> None:
    text = CHURN.replace("[host]\n", "[host]\nfragmentation = 1.0\n")
    text = text.replace(SIDES, '[[side]]\nname = "merged"\n').replace("8MiB", "4MiB")
    facts = run_scenario(text)
    assert not any(snapshot.tds.guest_2m for side in facts.sides for snapshot in side.snapshots)
    check_laws(facts)


def test_memory_is_fragmented_after_boot_unless_at_boot_is_asked_for() -> None:
    spoiled = "fragmentation = 1.0\n"
    facts = run_scenario(one_td("1GiB", "4MiB", 1, spoiled))
    static, _dynamic = facts.sides
    assert static.pamt_kib == 4096 + 8 + 4
    for side in facts.sides:
        assert side.snapshots[1].tds.guest_2m == 0
        assert side.free_pages_at_boot == side.snapshots[0].free_pages
    check_laws(facts)
    with pytest.raises(HostTooSmall, match='side "static" got no memory for PAMT'):
        run_scenario(one_td("1GiB", "4MiB", 1, spoiled + 'fragmented = "at-boot"'))


def test_what_is_left_is_shut_down_in_a_phase_of_its_own() -> None:
    text = CHURN[: CHURN.index('[[phase]]\nname = "down"')]
    facts = run_scenario(text, pamt="static")
    assert [phase.name for phase in facts.phases] == ["module init", "up", "churn", "end"]
    check_laws(facts)


ONE_TD = """
[host]
machine = "{host}"
{more}
[[td]]
name = "a"
count = {count}
memory = "{memory}"
share_2m = 0.5
image = "8KiB"
[[phase]]
name = "p"
steps = [{{ do = "build" }}, {{ do = "fault" }}]
"""


def one_td(host: str, memory: str, count: int = 1, more: str = "") -> str:
    return ONE_TD.format(host=host, memory=memory, count=count, more=more)


def test_a_td_larger_than_the_host() -> None:
    with pytest.raises(InputError, match=r"scenario:8: td\[0\].memory: 2GiB is larger"):
        run_scenario(one_td("1GiB", "2GiB"))


def test_tds_that_together_ask_too_much() -> None:
    with pytest.raises(HostTooSmall, match=r"scenario:13: phase\[0\].steps\[1\]: fault: the TDs"):
        run_scenario(one_td("1GiB", "512MiB", 3))


FEW_KEYIDS = "keyid_bits = 3\nmax_pa_bits = 46"


def test_more_tds_than_keyids() -> None:
    with pytest.raises(HostTooSmall, match="5 TDs are alive then; expected at most 3"):
        run_scenario(one_td("1GiB", "2MiB", 5, FEW_KEYIDS))
    check_laws(run_scenario(one_td("1GiB", "2MiB", 3, FEW_KEYIDS)))


def test_memory_that_runs_out_on_the_way() -> None:
    with pytest.raises(HostTooSmall, match=r"fault of a \(TD 1\).*-ENOMEM \(-12\); not one page"):
        run_scenario(one_td("64MiB", "62MiB"), pamt="static")


DESIGN = """
from dpamt.host.designs import merged
from dpamt.host.designs.merged import tdx_pamt_put


def tdx_pamt_get(kernel, cpu, pfn, cache):
    error = merged.tdx_pamt_get(kernel, cpu, pfn, cache)
    return {instead}
"""


@pytest.mark.parametrize(
    ("instead", "raised", "message"),
    [
        ("error or -5", KernelFailed, "creation failed: -ENOMEM .* although memory is free"),
        ("error or cache and tdx_pamt_get(kernel, cpu, pfn, cache) or 0", KernelFailed, "-ENOMEM"),
        (
            "exit(3)",
            InputError,
            r"mine.py:8: tdx_pamt_get: SystemExit: 3; expected a design that runs",
        ),
        (
            "tdx_pamt_get(kernel, cpu, pfn, cache)",
            InputError,
            "mine.py:7: tdx_pamt_get: RecursionError",
        ),
        ("None", InputError, "mine.py:6: tdx_pamt_get returned None; expected 0 or a negative"),
    ],
)
def test_a_faulty_design_is_not_taken_for_a_small_host(
    instead: str, raised: type[Exception], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DESIGN.format(instead=instead))
    with pytest.raises(raised, match=message) as caught:
        run_scenario(one_td("1GiB", "2MiB"), design=str(file), pamt="dynamic")
    assert not isinstance(caught.value, HostTooSmall)
    if raised is KernelFailed:
        assert 'side "dynamic": build of ' in str(caught.value)


def test_the_host_says_how_its_memory_was_fragmented() -> None:
    for when in ("at-boot", "after-boot"):
        text = one_td("1GiB", "2MiB", 1, f'fragmentation = 0.25\nfragmented = "{when}"')
        host = run_scenario(text, pamt="static").host
        assert (host.fragmentation, host.fragmented) == (0.25, when)


def test_a_module_without_dynamic_pamt() -> None:
    off = "module_dynamic_pamt = false"
    with pytest.raises(InputError, match="TDX_FEATURES0 bit 36 is 0"):
        run_scenario(one_td("1GiB", "2MiB", 1, off))
    auto = off + '\n[[side]]\nname = "auto"\npamt = "auto"\n'
    facts = run_scenario(one_td("1GiB", "2MiB", 1, auto))
    assert facts.sides[0].pamt == "static"
    check_laws(facts)


def test_addresses_too_wide_for_dynamic_pamt() -> None:
    wide = 'dynamic_pamt_check = "{check}"\nmax_pa_bits = 52\nkeyid_bits = 3'
    with pytest.raises(InputError, match="KeyIDs start at address bit 49"):
        run_scenario(one_td("1GiB", "2MiB", 1, wide.format(check="feature-bit-and-pa-width")))
    with pytest.raises(KernelFailed, match="TDX-Module initialization failed"):
        run_scenario(one_td("1GiB", "2MiB", 1, wide.format(check="feature-bit")))


def test_reserved_areas_run_out_between_memory_blocks_but_not_between_cmrs() -> None:
    text = '[host]\nmachine = "reserved-areas"\ntdmr_holes = "{holes}"\n'
    with pytest.raises(KernelFailed) as caught:
        run_scenario(text.format(holes="memory-blocks"), pamt="static")
    assert (
        "virt/tdx: initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted."
        in caught.value.log
    )
    assert caught.value.log[-1] == "virt/tdx: TDX-Module initialization failed (-28)"
    world = World(
        scenario := scenario_from_text(text.format(holes="cmrs"), "f.toml"),
        scenario.sides[0],
        machine_of(scenario),
    )
    world.boot()
    assert world.log[-1] == "virt/tdx: TDX-Module initialized"


def test_progress_is_told_and_reaches_its_end() -> None:
    told: list[tuple[str, str, str, int, int]] = []
    run_scenario(one_td("1GiB", "8MiB"), watch=lambda *words: told.append(words))
    assert {(phase, side) for phase, side, *_rest in told} >= {
        ("module init", "static"),
        ("p", "dynamic"),
        ("end", "dynamic"),
    }
    assert all(0 < done <= total for *_where, done, total in told)
    by_step = {words[:3]: words[3:] for words in told}
    assert all(done == total for done, total in by_step.values())
