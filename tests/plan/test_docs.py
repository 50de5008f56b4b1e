"""docs/plan.md names exactly the keys that the document has."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpamt.plan.ageing.both import age_both
from dpamt.plan.ageing.tornado import Bar, Tornado
from dpamt.plan.counted import in_use_now
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import machine_named, plan_host
from dpamt.report.plan_ageing import ageing_json
from dpamt.report.plan_counted import counted_json
from dpamt.report.plan_json import plan_json
from dpamt.trace.judge.counts import Counters

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(keys_of(inner) for inner in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(keys_of(inner) for inner in value)) if value else set()
    return set()


def test_the_page_names_exactly_the_keys_there_are() -> None:
    mix = parse_mix("1x4MiB")
    ageing = age_both(machine_named("1GiB"), [mix], 0.9, {}, 1 / 168, (0,), 1)
    bars = Tornado(0.0, 1, (Bar("--life", "1 h", "2 h", 0.0, 0.0),))
    ageing = replace(ageing, tornado=bars)
    plans = [plan_host("1GiB", [mix], run=True), plan_host("reserved-areas")]
    document = plan_json(plans, [ageing_json(plan, ageing) for plan in plans])
    counters = Counters({2049: 5}, ())
    document["hosts"][0]["in_use_now"] = counted_json(in_use_now(counters, plans[0].host), "counts")
    text = PAGE.read_text(encoding="utf-8").partition("## The JSON document")[2]
    named = {part for name in re.findall(r"`([a-z][a-z0-9_.]*)`", text) for part in name.split(".")}
    assert named - {"neither", "fleet"} == keys_of(document)


def test_the_table_of_the_cover_has_our_own_figures() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| 2"]
    assert len(rows) == 2
    for row, size in zip(rows, (256, 2048), strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        # A size has its hole for devices below 4 GiB, which changes the counters only.
        host = plan_host(f"{size}GiB,nodes=1").host
        gib = 1 << 30
        assert abs(host.static.total / gib - float(cells[2])) < 0.001
        assert abs(host.dynamic.total / gib - float(cells[4])) < 0.0001
        assert abs(host.static.total / host.dynamic.total - float(cells[6])) < 0.1
        assert abs(host.tops[-1].total / gib - float(cells[8])) < 0.001
