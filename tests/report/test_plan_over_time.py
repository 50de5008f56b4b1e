"""A host over weeks and a fleet: the numbers of the text are those of the document."""

import json
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from dpamt.plan.ageing.both import BothAges, age_both
from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.ageing.tornado import Bar, Tornado
from dpamt.plan.confidence import Interval
from dpamt.plan.fleet.both import BothFleets
from dpamt.plan.fleet.generate import Made, generate_vms
from dpamt.plan.fleet.hosts import HostType
from dpamt.plan.fleet.results import Fleet
from dpamt.plan.fleet.simulate import simulate_fleets
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import HostPlan, machine_named, plan_host
from dpamt.report.plan_ageing import aged_headline, aged_lines, ageing_json
from dpamt.report.plan_fleet import fleet_json, fleet_text

from .read_back import cells, number, row, saving, section, shows

PERCENTILES = {1: -3.5 * 2**20, 50: 40.0 * 2**20, 99: 99.0 * 2**20}


@cache
def small() -> tuple[HostPlan, BothAges]:
    mix = parse_mix("4x256MiB@2M=50%")
    both = age_both(machine_named("4GiB"), [mix], 0.9, {}, 0.05, (0, 1), processes=1)
    return plan_host("4GiB", [mix]), both


def said(lines: Any) -> str:
    return " ".join(" ".join(lines).split())


def aged(plan: HostPlan, both: BothAges) -> tuple[list[str], list[str], Any]:
    """First screen, what is below it, document."""
    told = aged_lines(plan, both)
    return list(told.first), list(told.rest), json.loads(json.dumps(ageing_json(plan, both)))


def test_the_first_screen_of_a_host_that_ages() -> None:
    plan, both = small()
    first, _, document = aged(plan, both)
    static, ways = both.today.static_bytes, [document["answer"][w] for w in ("today", "tomorrow")]
    of_static, *sizes = row(first, "PAMT on average")
    assert shows(of_static, static)
    for at, way in enumerate(ways):
        assert shows(sizes[at], way["dynamic"])
        assert saving(row(first, "Dynamic PAMT saves")[at], way["saved"], static)
        assert saving(row(first, "in its worst hour")[at], way["saved_worst"], static)
        assert shows(row(first, "of RAM")[at], way["saved"] / plan.host.memory_bytes)
        assert shows(row(first, "TDs on average")[at], way["tds"])
    assert document["answer"]["sentence"] in said(first)
    assert f"What to do: {document['answer']['todo']}." in said(first)
    work = both.workload
    driven = said(first).partition("Driven by (each an option): ")[2]
    numbers = re.match(
        r"TDs in (\S+) % of memory \(--occupancy\), life (\S+) h \(--life\), kernel pages "
        r"after boot (\S+) % of the regions \(--fragmentation\), together in page blocks, .* "
        r"\(--grouping\), (\S+) % of ranges converted an hour \(--conversions\), pairs single "
        r"\(--pair-pages\), control pages single \(--control-pages\)\.",
        driven,
    )
    assert numbers is not None
    occupancy, life, fragmentation, converted = map(float, numbers.groups())
    assert occupancy == pytest.approx(100 * work.occupancy)
    assert life == pytest.approx(work.mean_life_hours)
    assert fragmentation == pytest.approx(100 * work.fragmentation)
    assert converted == pytest.approx(100 * work.converted_per_hour)
    apart = replace(both, workload=replace(work, grouping="scattered"))
    assert "each in a region of its own (--grouping)" in said(aged(plan, apart)[0])


def test_the_weeks_row_by_row() -> None:
    plan, both = small()
    _, rest, document = aged(plan, both)
    head = next(n for n, line in enumerate(rest) if line.startswith("    days"))
    assert "Mean of 2 seeds; ± is the 95 % confidence interval" in said(rest[:head])
    rows = [line for line in rest[head + 1 :] if re.match(r" +\d+\.\d ", line)]
    moments = both.today.times_hours
    assert len(rows) == len(moments) <= 14
    for at, line in enumerate(rows):
        days, tds, *sizes = (
            line[2:8],
            line[8:13],
            line[13:25],
            line[25:36],
            line[36:48],
            line[48:59],
        )
        assert number(days).stands_for(moments[at] / 24)
        assert float(tds) == pytest.approx(document["today"]["tds"]["mean"][at], abs=0.5)
        for (mean, half), when in zip((sizes[:2], sizes[2:]), ("today", "tomorrow"), strict=True):
            of = document[when]["dynamic_bytes"]
            assert shows(mean, round(of["mean"][at]))
            assert shows(half, round((of["high"][at] - of["low"][at]) / 2))
        drawn = line[59:].strip()
        share = both.today.dynamic_bytes.mean[at] / both.today.static_bytes
        eighths = 8 * drawn.count("█") + sum("▏▎▍▌▋▊▉".find(mark) + 1 for mark in drawn)
        assert eighths == pytest.approx(8 * 14 * share, abs=1)
    for name, when in (("Today", "today"), ("With 2M", "tomorrow")):
        found = re.search(
            rf"{name}, at the end: ([\d,]+) pairs, ([\d,]+) \((\S+ %)\) of them held by a single "
            r"page; packed, the same pages need ([\d,]+)\.",
            said(rest),
        )
        assert found is not None
        of = document[when]
        pairs, lonely = round(of["pairs"]["mean"][-1]), round(of["pinned_by_one"]["mean"][-1])
        assert shows(found[1], pairs)
        assert shows(found[2], lonely)
        assert shows(found[3], lonely / pairs)
        assert shows(found[4], round(of["packed_pairs"]["mean"][-1]))
    for when, one in (("today", both.today), ("tomorrow", both.tomorrow)):
        kinds = document[when]["regions_at_end"]
        assert kinds == {name: one.regions.count(n) for n, name in
                         enumerate(("free", "pair", "huge", "other"))}  # fmt: skip
        assert sum(kinds.values()) == len(one.regions)


def flat(value: float, times: int) -> Interval:
    return Interval(*[(value,) * times] * 3)


def longer(one: Ageing, hours: int) -> Ageing:
    """The same with other moments, and nothing that changes."""
    names = ("dynamic_bytes", "pairs", "packed_pairs", "pinned_by_one", "td_bytes", "tds")
    kept: dict[str, Any] = {name: flat(getattr(one, name).mean[0], hours + 1) for name in names}
    return replace(one, times_hours=tuple(float(hour) for hour in range(hours + 1)), **kept)


@pytest.mark.parametrize(
    ("hours", "words"),
    [(1, "1 hour"), (5, "5 hours"), (24, "1 day"), (36, "1.5 days"), (168, "1 week"),
     (252, "1.5 weeks"), (672, "4 weeks")],
)  # fmt: skip
def test_how_long_it_was(hours: int, words: str) -> None:
    plan, both = small()
    long = replace(both, today=longer(both.today, hours), tomorrow=longer(both.tomorrow, hours))
    first, rest, _ = aged(plan, long)
    assert f"over {words} of TDs that come and go" in said(first)
    assert f"4GiB over {words}" in rest
    shown = [float(line.split()[0]) for line in rest if re.match(r" +\d+\.\d ", line)]
    assert (shown[0], shown[-1]) == (0, round(hours / 24, 1))
    assert len(shown) <= 30
    if hours >= 168:
        steps = {round(after - before, 1) for before, after in pairwise(shown[:-1])}
        assert len(shown) >= 14
        assert max(steps) - min(steps) <= 0.2


def test_one_seed_has_no_interval() -> None:
    plan, both = small()
    one = replace(both, today=replace(both.today, seeds=(3,)))
    assert "One seed: no confidence interval." in aged(plan, one)[1]


@pytest.mark.parametrize(
    ("refused", "without", "line"),
    [
        (0.4, 0.4, ""),
        (1234.0, 617.0, "KeyIDs, 31 TDs at once, one for each guest KeyID; 617 of 1,234 TDs that "
         "found no place found no KeyID."),
        (1234.0, 616.0, "memory; 618 of 1,234 TDs that found no place found no memory."),
    ],
)  # fmt: skip
def test_what_limits(refused: float, without: float, line: str) -> None:
    plan, both = small()
    now = replace(both.today, refused=flat(refused, 1), without_keyid=flat(without, 1), most_tds=31)
    first, _, document = aged(plan, replace(both, today=now))
    found = said(first).partition("What limits: ")[2]
    assert found.startswith(line) if line else not found
    assert document["answer"]["limit"] == line[:6]


def test_what_2m_pages_would_cost_is_not_said_to_be_saved() -> None:
    plan, both = small()
    static = both.today.static_bytes
    times = len(both.tomorrow.times_hours)
    for tomorrow, verb in (
        (static - (9 << 20), "saves 9 MiB"),
        (static + (9 << 20), "costs 9 MiB"),
    ):
        then = replace(both.tomorrow, dynamic_bytes=flat(tomorrow, times))
        now = replace(both.today, dynamic_bytes=flat(static + (30 << 20), times))
        told = aged_headline(plan, replace(both, today=now, tomorrow=then))
        assert told.todo.endswith(f"with 2M guest memory (a series not merged) it {verb}")
        assert "Dynamic PAMT costs 30 MiB today on average" in told.sentence
    lost = re.search(r", (\S+ %) of static PAMT, (\S+ %) of RAM$", told.sentence)
    assert lost is not None
    assert shows(lost[1], (30 << 20) / static)
    assert shows(lost[2], (30 << 20) / plan.host.memory_bytes)


def test_a_tornado_has_its_longest_bar_first() -> None:
    plan, both = small()
    bars = (
        Bar("--occupancy", "0.5", "0.95", 9 << 20, 40 << 20),
        Bar("--life", "12", "168", 20 << 20, (20 << 20) + (31 << 18)),
        Bar("--grouping", "page-block", "scattered", -(1 << 20), -(1 << 20)),
    )
    told = Tornado(25.5 * (1 << 20), 1 << 30, bars)
    _, rest, document = aged(plan, replace(both, tornado=told))
    lines = section("\n".join(rest), "What moves what is saved today")
    everything = re.search(r"With everything as given (.*?) of static PAMT is saved", said(lines))
    assert everything is not None
    assert saving(everything[1], told.saved, told.static_bytes)
    rows = [line for line in lines if line.startswith("  --")]
    for bar, line, whole in zip(bars, rows, (10, 2, 0), strict=True):
        driver, ends, sizes, *drawn = cells(line)
        assert driver == bar.driver
        assert ends == f"{bar.low} to {bar.high}"
        low, high = sizes.split(" to ")
        assert shows(low, bar.saved_low / told.static_bytes)
        assert shows(high, bar.saved_high / told.static_bytes)
        assert "".join(drawn).count("█") == whole
    assert len(document["tornado"]["bars"]) == 3
    assert aged(plan, both)[2]["tornado"] is None
    assert not any("What moves" in line for line in aged(plan, both)[1])


@cache
def fleets() -> BothFleets:
    hosts = [HostType("64GiB", machine_named("64GiB"), 3, max_tds=40)]
    both = simulate_fleets(generate_vms(Made(60, 3)), hosts, processes=1)
    return BothFleets(
        both[0], both[1], ((both[0], both[1]),), 0.9, True, driven_by="what drives it"
    )


def spread(**changed: Any) -> BothFleets:
    """Facts that the small fleet does not have."""
    both = fleets()
    now = replace(both.today, saved_percentiles=PERCENTILES, hosts_losing=2, turned_away_static=7,
                  turned_away_dynamic=5, **changed)  # fmt: skip
    return replace(both, today=now, tomorrow=replace(both.tomorrow, saved_percentiles=PERCENTILES))


def texts(both: BothFleets) -> tuple[str, Any]:
    return fleet_text(both, "mine.csv"), json.loads(json.dumps(fleet_json(both)))["fleet"]


def test_the_table_of_a_fleet() -> None:
    both = spread()
    text, document = texts(both)
    lines = text.split("\n")
    ways: list[Fleet] = [both.today, both.tomorrow]
    static = both.today.static_bytes
    for label, name in (
        ("Dynamic PAMT saves on average", "mean_saved"),
        ("at most", "peak_saved"),
        ("at least", "least_saved"),
    ):
        for cell, one in zip(row(lines, label), ways, strict=True):
            assert saving(cell, getattr(one, name), static)
    for at, size in PERCENTILES.items():
        for cell in row(lines, f"a host, percentile {at}"):
            assert shows(cell, round(size))
    for label, name in (
        ("page pairs of all hosts, at most", "most_pairs"),
        ("hosts that lose at some moment", "hosts_losing"),
        ("hosts that lose on average", "hosts_losing_on_average"),
        ("VMs without a host, static PAMT", "turned_away_static"),
        ("VMs without a host, Dynamic PAMT", "turned_away_dynamic"),
    ):
        shown = [number(cell).value for cell in row(lines, label)]
        assert shown == [getattr(one, name) for one in ways]
    assert shows(row(lines, "static PAMT of all hosts")[0], static)
    assert row(lines, "hosts") == [str(len(both.today.hosts))]
    assert row(lines, "VMs") == [f"{both.today.vms:,}"]
    days = (both.today.moments[-1].hours - both.today.moments[0].hours) / 24
    assert shows(row(lines, "days")[0], days)
    assert "of them TDs" not in text
    assert "of them on static PAMT" not in text
    assert "worth a month" not in text
    assert (document["seeds"], document["driven_by"]) == (1, "what drives it")
    assert "Driven by (each an option): what drives it." in text
    assert "2M: 90% assumed" in text
    assert "90 % at 2M is an assumption" in text
    assert "One seed: how far the numbers spread is not known" in text
    told = replace(both, share_assumed=False, notes=("one line was odd",))
    assert "assum" not in texts(told)[0]
    assert "2M (not merged)" in texts(told)[0]
    assert "Note: one line was odd." in texts(told)[0]
    assert texts(told)[1]["notes"] == ["one line was odd"]


def test_a_fleet_with_other_vms_static_hosts_and_a_price() -> None:
    both = spread(tds=fleets().today.vms - 5)
    first, *others = both.today.hosts
    hosts = (replace(first, idle_bytes=first.static_bytes), *others)
    now = replace(both.today, hosts=hosts, mean_saved=1234.0 * (1 << 30))
    lines = texts(replace(both, today=now, price=2.5))[0].split("\n")
    assert row(lines, "of them TDs") == [f"{now.vms - 5:,}"]
    assert row(lines, "of them on static PAMT") == ["1"]
    then = both.tomorrow.mean_saved / (1 << 30) * 2.5
    assert row(lines, "worth a month") == ["3,085", f"{then:,.0f}"]


def test_sizes_of_tds_in_a_fleet() -> None:
    both = spread()
    lines = section(texts(both)[0], "TDs by size")
    assert cells(lines[0]) == ["VCPUs", "memory", "TDs", "static", "today: 4K", "2M"]
    for line, now, then in zip(lines[1:], both.today.kinds, both.tomorrow.kinds, strict=True):
        values = re.findall(r"[\d,.]+(?: \w?i?B)?", line)
        wanted = (
            now.vcpus,
            now.memory_bytes,
            now.vms,
            now.static_bytes,
            now.pair_bytes,
            then.pair_bytes,
        )
        for cell, value in zip(values, wanted, strict=True):
            assert shows(cell, value)
        assert len(line) == len(lines[0])


@pytest.mark.parametrize(
    "saved",
    [[5.0] * 4, [0.0, 1.0, 2.0, 10.0, 9.99], [-7e9, 3e9, 3e9, 3e9], [2.0 * n for n in range(41)]],
)
def test_hosts_by_what_they_save(saved: list[float]) -> None:
    """Ten equal parts from the least to the most; each host is in one of them."""
    both = spread()
    hosts = tuple(replace(both.today.hosts[0], host=n, mean_saved=mean * (1 << 20) if abs(mean) < 99
                          else mean) for n, mean in enumerate(saved))  # fmt: skip
    both = replace(both, today=replace(both.today, hosts=hosts))
    lines = section(texts(both)[0], "Hosts by what each saves")
    sizes = [host.mean_saved for host in hosts]
    counts = []
    for line in lines:
        found = re.fullmatch(r" +(\S+ \w+) to +(\S+ \w+)  ([█▏▎▍▌▋▊▉]*) +([\d,]+)", line)
        assert found is not None
        counts.append((number(found[1]), number(found[2]), found[3], int(found[4])))
    assert len(counts) == (1 if min(sizes) == max(sizes) else 10)
    assert sum(inside for *_, inside in counts) == len(hosts)
    assert counts[0][0].stands_for(round(min(sizes)))
    assert counts[-1][1].stands_for(round(max(sizes)))
    most = max(inside for *_, inside in counts)
    for low, high, drawn, inside in counts:
        between = [s for s in sizes if low.value - low.half <= s <= high.value + high.half]
        assert inside <= len(between)
        assert drawn.count("█") == pytest.approx(36 * inside / most, abs=1)


def test_seeds_and_their_spread() -> None:
    both = fleets()
    seeds = []
    for n in range(3):
        placed: dict[str, Any] = {"placed_dynamic": 1000 + 7 * n * n, "placed_static": 0}
        ways = [
            replace(one, mean_saved=one.static_bytes * (0.5 + 0.1 * n), **placed)
            for one in (both.today, both.tomorrow)
        ]
        seeds.append((ways[0], ways[1]))
    text, document = texts(replace(both, seeds=tuple(seeds)))
    lines = text.split("\n")
    # Student's t at two degrees of freedom, 4.303; the deviation of 0.5, 0.6, 0.7 is 0.1.
    half = 4.303 * 0.1 / 3**0.5
    (cell, other) = row(lines, "mean of 3 seeds, ± 95 %")
    assert cell == other == f"{60:.2f} ± {100 * half:.2f} %"
    fits = [1000, 1007, 1028]
    mean = sum(fits) / 3
    half = 4.303 * (sum((fit - mean) ** 2 for fit in fits) / 2) ** 0.5 / 3**0.5
    assert row(lines, "VMs that newly fit, ± 95 %")[0] == f"{mean:,.1f} ± {half:,.1f}"
    over = document["today"]["newly_fitting_tds_over_seeds"]
    assert over["mean"] == pytest.approx(mean)
    assert (over["high"] - over["low"]) / 2 == pytest.approx(half)
    assert document["tomorrow"]["mean_saved_over_seeds"]["mean"] == pytest.approx(
        0.6 * both.tomorrow.static_bytes
    )
    assert "One seed" not in text
    single = texts(both)[1]
    assert single["today"]["mean_saved_over_seeds"] is None
    assert not any("95 %" in line for line in texts(both)[0].split("\n"))


@pytest.mark.parametrize(
    ("changed", "kind", "sentence", "todo", "code"),
    [
        ({"mean_saved": 3.0 * 2**30}, "saves", "saves 3 GiB on this fleet, ",
         "Use Dynamic PAMT; ", 0),
        ({"mean_saved": 2.0**20}, "marginal", "saves next to nothing on this fleet: 1 MiB, ",
         "Marginal: ", 0),
        ({"mean_saved": -(2.0**20)}, "marginal", "costs next to nothing on this fleet: 1 MiB, ",
         "Marginal: ", 0),
        ({"mean_saved": -3.0 * 2**30}, "costs", "costs 3 GiB on this fleet, ", "Stay on ", 1),
        ({"mean_saved": 3.0 * 2**30, "hosts_losing_on_average": 2}, "hosts-lose",
         "but 2 of 3 hosts lose", "Use Dynamic PAMT on the hosts that win only; ", 1),
        ({"turned_away_static": 31, "turned_away_dynamic": 29, "vms": 240}, "does-not-fit",
         "The fleet is too small for these VMs: 29 of 240 found no host", "Add hosts", 1),
    ],
)  # fmt: skip
def test_the_answer_to_a_fleet(
    changed: dict[str, Any], kind: str, sentence: str, todo: str, code: int
) -> None:
    both = fleets()
    then = replace(both.tomorrow, mean_saved=0.25 * both.tomorrow.static_bytes)
    one = replace(both, today=replace(both.today, **changed), tomorrow=then)
    text, document = texts(one)
    assert (document["kind"], document["exit_code"]) == (kind, code)
    assert sentence in document["sentence"]
    assert document["todo"].startswith(todo)
    assert f"{document['sentence']}." in said(text.split("\n"))
    assert f"What to do: {document['todo']}." in said(text.split("\n"))
    if kind == "does-not-fit":
        return
    assert document["todo"].endswith("(a series not merged) it saves 25.0 %")
    lost = replace(then, mean_saved=-0.125 * then.static_bytes)
    assert texts(replace(one, tomorrow=lost))[1]["todo"].endswith(
        "(a series not merged) it costs 12.5 %"
    )
    found = re.search(r"(\S+ %) of static PAMT, (\S+ %) of RAM", document["sentence"])
    assert found is not None
    saved = abs(changed["mean_saved"])
    assert shows(found[1], saved / both.today.static_bytes)
    assert shows(found[2], saved / both.today.memory_bytes)
