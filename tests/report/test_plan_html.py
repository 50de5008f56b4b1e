"""The page of a plan, read back without a browser: its tables, descriptions and packed figures."""

import gzip
import json
import re
from base64 import b85decode
from functools import cache
from html import unescape
from typing import Any

import pytest

from dpamt.plan.address_map import KINDS, Cell
from dpamt.plan.ageing.both import BothAges, age_both
from dpamt.plan.ageing.tornado import Bar, Tornado
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import HostPlan, machine_named, map_host, plan_host
from dpamt.report.plan_answer import columns, headline, outlook_rows
from dpamt.report.plan_html import Page, page_title, plan_page

from .read_back import number, shows

MIX = "3x256MiB/2vcpu@2M=50%"


@cache
def planned(host: str, mix: str = MIX) -> tuple[HostPlan, tuple[Cell, ...]]:
    plan = plan_host(host, [parse_mix(mix)] if mix else [])
    return plan, map_host(host, plan)


@cache
def page(host: str, mix: str = MIX) -> str:
    plan, cells = planned(host, mix)
    return plan_page([plan], [cells])


@cache
def aged() -> tuple[BothAges, str]:
    both = age_both(machine_named("4GiB"), [parse_mix(MIX)], 0.9, {}, 0.05, (0, 1), processes=1)
    bars = (Bar("--life", "12", "168", 9 << 20, 40 << 20),)
    both = BothAges(both.today, both.tomorrow, both.workload, Tornado(1e6, 1 << 24, bars))
    plan, cells = planned("4GiB")
    return both, plan_page([plan], [cells], [(both, cells)])


def tables(text: str) -> list[list[list[str]]]:
    found = re.findall(r"<table>.*?</table>", text, re.DOTALL)
    rows = [re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL) for table in found]
    cell = re.compile(r"<t[hd]>(.*?)</t[hd]>", re.DOTALL)
    return [[[unescape(part) for part in cell.findall(row)] for row in table] for table in rows]


def described(text: str) -> list[str]:
    return [unescape(label) for label in re.findall(r'role="img" aria-label="(.*?)"', text)]


def unpacked(text: str) -> str:
    """What the browser makes of the packed script: plan_page.js says how."""
    found = re.search(r"(\d+)/([!-;=-~]{1000,})", text)
    assert found is not None
    assert "&" not in found[2]
    data = b85decode(found[2].translate(str.maketrans(",.", "<&")))[: int(found[1])]
    return gzip.decompress(data).decode()


def figures(text: str) -> list[Any]:
    script = unpacked(text)
    start = script.rindex('[["plot-1",')
    found: list[Any] = json.JSONDecoder().raw_decode(script[start:])[0]
    return found


def test_the_script_is_plotly_and_the_figures() -> None:
    text = page("4GiB")
    drawn = figures(text)
    assert [name for name, _ in drawn] == ["plot-1", "plot-2", "plot-3"]
    assert all(f'<div id="{name}">' in text for name, _ in drawn)
    assert "@FIGURES@" not in unpacked(text)
    assert "@CONFIG@" not in unpacked(text)
    assert re.search(r'"displayModeBar": ?false', unpacked(text))
    assert len(text) < len(unpacked(text)) / 2
    assert [len(figure["data"]) for _, figure in drawn][:2] == [4, 3]
    assert drawn[2][1]["data"][0]["type"] == "heatmap"


def test_the_same_plan_is_the_same_page() -> None:
    plan, cells = planned("4GiB")
    assert plan_page([plan], [cells]) == page("4GiB")


@pytest.mark.parametrize(
    ("host", "mix", "colour"),
    [("4GiB", MIX, "good"), ("reserved-areas", MIX, "bad"), ("4GiB", "40x64MiB", "bad")],
)
def test_the_decision_is_that_of_the_text(host: str, mix: str, colour: str) -> None:
    plan, _ = planned(host, mix)
    text = page(host, mix)
    (found,) = re.findall(r'<p class="choice (\w+)">(.*?)</p>', text)
    assert (found[0], unescape(found[1])) == (colour, f"{headline(plan).sentence}.")
    assert f"<p><b>What to do:</b> {headline(plan).todo}.</p>" in unescape(text)
    assert ("Sizes for when it comes up:" in text) == (host == "reserved-areas")
    outlook = tables(text)[0]
    assert outlook == [["", *columns(plan)], *map(list, outlook_rows(plan))]
    assert "What limits first: " in text
    assert f"<h2>{plan.host.source}</h2>" in text
    doubt = "own log says that TDX did not come up" in text
    assert doubt == (host == "reserved-areas")


@pytest.mark.parametrize(("host", "mix"), [("4GiB", MIX), ("4GiB", ""), ("reserved-areas", MIX)])
def test_the_tables_have_the_numbers_of_the_plan(host: str, mix: str) -> None:
    plan, _ = planned(host, mix)
    text = page(host, mix)
    _, sizes, curve, vintages = tables(text)
    ram = plan.host.memory_bytes
    wanted: list[tuple[str, int]] = [
        ("RAM", ram),
        ("static PAMT", plan.host.static.total),
        ("Dynamic PAMT, idle", plan.host.dynamic.total),
    ]
    for when, size_of in (("today, 4K", plan.today), ("2M, not merged", plan.tomorrow)):
        if size_of is not None:
            dynamic = size_of.dynamic
            wanted += [
                (f"Dynamic PAMT {when}: packed", dynamic.minimum),
                (f"Dynamic PAMT {when}: fresh host", dynamic.fresh),
                (f"Dynamic PAMT {when}: scattered", dynamic.scattered),
                (f"Dynamic PAMT {when}: at worst", dynamic.worst),
            ]
    assert sizes[0] == ["", "size", "of RAM"]
    for cells, (label, size) in zip(sizes[1:], wanted, strict=True):
        assert cells[0] == label
        assert shows(cells[1], size)
        assert cells[2] == "" if label == "RAM" else shows(cells[2], size / ram)
    points = plan.break_even.curve[::10]
    assert curve[0] == ["share at 4K", "whole 2M regions", "pages at random"]
    assert [cells[0] for cells in curve[1:]] == [f"{share} %" for share in range(0, 101, 10)]
    for cells, at in zip(curve[1:], points, strict=True):
        assert shows(cells[0], at.share)
        assert shows(cells[1], at.packed)
        assert shows(cells[2], at.scattered)
    assert vintages[0] == ["kernel", "TDX comes up", "KB for PAMT", "reserved areas"]
    for cells, one in zip(vintages[1:], plan.host.vintages, strict=True):
        up = one.initialises
        used = one.reserved_used
        assert cells == [
            one.about,
            f"{one.pamt} PAMT" if up else f"no: {one.reason}",
            str(one.pamt_kib) if up else "-",
            "-" if used is None else f"{used} of {one.reserved_max}",
        ]
    assert (f"<p>TDs: {plan.mix.parts[0].mix}</p>" in text) if plan.mix else "<p>TDs:" not in text
    items = [unescape(item) for item in re.findall(r"<li[^>]*>(.*?)</li>", text)]
    assert all(item[0].upper() == item[0] and item.endswith(".") for item in items)
    warned = len(re.findall(r'<li class="warning">', text))
    notes = [f"{note[0].upper()}{note[1:]}." for note in plan.host.notes]
    assert set(notes) <= set(items)
    assert warned >= len(notes)


def test_figures_are_described_for_those_who_do_not_see_them() -> None:
    plan, cells = planned("4GiB")
    up, even, mapped = described(page("4GiB"))
    assert plan.today is not None
    sizes = [number(text) for text in re.findall(r"\S+ \wiB", up)]
    static, dynamic = plan.host.static.total, plan.host.dynamic.total
    wanted = (static, dynamic, plan.today.dynamic.fresh, plan.today.dynamic.worst)
    assert all(size.stands_for(value) for size, value in zip(sizes, wanted, strict=True))
    assert shows(re.findall(r"\S+ \wiB", even)[0], static)
    totals = [sum(cell.counts[kind] for cell in cells) for kind in range(len(KINDS))]
    told = ", ".join(f"{total:,} {kind}" for total, kind in zip(totals, KINDS, strict=True))
    assert mapped == f"2M regions by use: {told}."
    assert len(described(page("4GiB", ""))) == 2


@pytest.mark.parametrize(
    ("host", "said"), [("4GiB", "a cell is 1 region, "), ("64GiB", "regions, ")]
)
def test_what_a_cell_of_the_map_is(host: str, said: str) -> None:
    _, cells = planned(host, "")
    each = sum(cells[0].counts)
    plural = "" if each == 1 else "s"
    assert f"a cell is {each:,} region{plural}, coloured" in page(host, "")
    assert said in page(host, "")


def test_a_host_that_has_aged() -> None:
    both, text = aged()
    now = both.today
    assert "<h3>PAMT over 0.0476 weeks</h3>" in text
    assert "after 0.0476 weeks, today</h3>" in text
    ageing, bars, *others = described(text)
    assert len(others) == 4  # the map then, and the three plots of the fresh host
    sizes = [number(size) for size in re.findall(r"\S+ \wiB", ageing)]
    assert sizes[0].stands_for(now.static_bytes)
    assert sizes[1].stands_for(round(max(now.dynamic_bytes.mean)))
    assert "mean of 2 seeds" in ageing
    assert bars.endswith("--life 12 to 168")
    found = re.search(
        r"<p>Today, at the end: ([\d,]+) page pairs, ([\d,]+) of them held by a single page; "
        r"packed, the same pages need ([\d,]+)\.</p>",
        text,
    )
    assert found is not None
    for shown, series in zip(
        found.groups(), (now.pairs, now.pinned_by_one, now.packed_pairs), strict=True
    ):
        assert shows(shown, round(series.mean[-1]))
    assert "The same host when it is fresh" in text
    assert text.index("PAMT on average") < text.index("The same host when it is fresh")
    assert "Driven by (each an option): " in text
    assert len(re.findall(r'<p class="choice', text)) == 1


def test_markup_in_a_name_stays_text() -> None:
    made = Page('a <b> & "c"')
    made.html("<p>mine</p>")
    made.table(("<h>",), [("<i>x</i>", "&")])
    text = made.text()
    assert "<title>a &lt;b&gt; &amp; &quot;c&quot;</title>" in text
    assert tables(text) == [[["<h>"], ["<i>x</i>", "&"]]]
    assert "<i>" not in text
    assert "<p>mine</p>\n" in text


def test_the_title_says_hosts_tds_and_version() -> None:
    plans = [planned("4GiB")[0], planned("64GiB", "")[0]]
    assert re.fullmatch(
        r"PAMT plan: 4GiB, 64GiB; 3x256MiB/2vcpu@2M=50%; dpamt [\d.]+\w*, \d{4}-\d\d-\d\d",
        page_title(plans),
    )
    assert "; no TDs; " in page_title(plans[1:])
    assert page_title([]).startswith("PAMT plan: ; no TDs; ")
