"""The plots of a plan have the numbers of the plan, in the unit that their axis names.

Read from plotly's figure, without a browser: test_plan_page.py draws them.
"""

import re
from functools import cache
from itertools import pairwise
from typing import Any

import plotly.graph_objects
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.plan.address_map import CELL_KINDS, KINDS, Cell
from dpamt.plan.ageing.both import BothAges, age_both
from dpamt.plan.ageing.tornado import Bar, Tornado
from dpamt.plan.fleet.both import BothFleets
from dpamt.plan.fleet.generate import Made, generate_vms
from dpamt.plan.fleet.hosts import HostType
from dpamt.plan.fleet.simulate import simulate_fleets
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import HostPlan, machine_named, plan_host
from dpamt.report.plan_plots import (
    ageing_figure,
    break_even_figure,
    coming_up_figure,
    fleet_figure,
    histogram_figure,
    map_figure,
    tornado_figure,
    unit_of,
)

from .read_back import UNITS, number, shows


@cache
def plan() -> HostPlan:
    return plan_host("8GiB", [parse_mix("3x1GiB@2M=50%")])


@cache
def aged(text: str = "4x256MiB@2M=50%") -> BothAges:
    return age_both(machine_named("4GiB"), [parse_mix(text)], 0.9, {}, 0.05, (0, 1), processes=1)


@cache
def fleets() -> BothFleets:
    hosts = [HostType("64GiB", machine_named("64GiB"), 3, max_tds=40)]
    both = simulate_fleets(generate_vms(Made(60, 3)), hosts, processes=1)
    return BothFleets(both[0], both[1], (), 0.9, True)


def tornado() -> Tornado:
    bars = (
        Bar("--life", "12", "168", 9 << 20, 40 << 20),
        Bar("--grouping", "page-block", "scattered", 31 << 20, 7 << 20),
    )
    return Tornado(30.5 * (1 << 20), 3 << 30, bars)


class Plot:
    """A figure, read back."""

    def __init__(self, figure: Any) -> None:
        assert isinstance(figure, plotly.graph_objects.Figure)
        self.figure = figure
        self.traces = list(figure.data)

    def line(self, name: str) -> Any:
        (found,) = [trace for trace in self.traces if trace.name == name]
        return found

    def unit(self, axis: str = "yaxis") -> int:
        found = re.search(r"\((\w+)\)$", self.figure.layout[axis].title.text)
        assert found is not None
        return UNITS[found[1]]

    def sizes(self, name: str) -> list[float]:
        """Bytes."""
        return [value * self.unit() for value in self.line(name).y]


ALL = {
    "break-even": lambda: break_even_figure(plan()),
    "coming up": lambda: coming_up_figure(plan()),
    "ageing": lambda: ageing_figure(aged()),
    "fleet": lambda: fleet_figure(fleets()),
}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_every_line_can_be_told_and_says_its_bytes(make: Any) -> None:
    """Colours and dashes differ; a pointer shows at each place the bytes that are drawn there."""
    plot = Plot(make())
    lines = [trace for trace in plot.traces if trace.name]
    assert len(lines) >= 3
    assert len({trace.line.color for trace in lines}) == len(lines)
    assert len({(trace.line.dash, trace.line.color) for trace in lines}) == len(lines)
    for trace in lines:
        assert (trace.mode, trace.line.width >= 2) == ("lines", True)
        assert re.fullmatch(r"#[0-9A-Fa-f]{6}", trace.line.color)
        assert trace.line.dash in ("solid", "dash", "dot", "dashdot")
        assert "%{text}" in trace.hovertemplate
        assert f"<extra>{trace.name}</extra>" in trace.hovertemplate
        assert len(trace.text) == len(trace.y) == len(trace.x)
        for text, size in zip(trace.text, plot.sizes(trace.name), strict=True):
            assert shows(text, round(size))
    layout = plot.figure.layout
    assert layout.yaxis.rangemode == "tozero"  # a line twice as high is twice the bytes
    assert layout.xaxis.title.text
    assert layout.legend.orientation == "h"
    assert layout.legend.y < 0  # below the plot, not on it
    assert layout.legend.yanchor == "top"
    assert layout.xaxis.fixedrange
    assert layout.yaxis.fixedrange
    assert layout.xaxis.automargin
    assert layout.yaxis.automargin
    assert layout.font.size >= 12
    assert layout.hoverlabel.font.size >= 12


def test_break_even() -> None:
    plot, host, curve = Plot(break_even_figure(plan())), plan().host, plan().break_even.curve
    packed, scattered = "Dynamic, whole 2M regions", "Dynamic, pages at random"
    for name, sizes in (
        (packed, [at.packed for at in curve]),
        (scattered, [at.scattered for at in curve]),
        ("static PAMT", [host.static.total] * len(curve)),
    ):
        assert plot.sizes(name) == pytest.approx(sizes, abs=0.5)
        assert list(plot.line(name).x) == pytest.approx([100 * at.share for at in curve])
    assert list(plot.line(packed).x)[-1] == 100
    # The wide one lies below, so that both are seen where they meet.
    drawn = [(trace.name, trace.line.width) for trace in plot.traces]
    assert drawn.index((scattered, 9)) < drawn.index((packed, 4))
    (line,) = plot.figure.layout.shapes
    assert line.x0 == line.x1
    (note,) = plot.figure.layout.annotations
    assert (note.x, note.xanchor, note.yanchor) == (line.x0, "right", "bottom")
    point = plan().break_even.packed
    assert point is not None
    assert shows(note.text.removeprefix("break-even "), point)
    # There the line of whole regions meets that of static PAMT.
    x, y = plot.line(packed).x, plot.sizes(packed)
    before = max(n for n, share in enumerate(x) if share <= line.x0)
    part = (line.x0 - x[before]) / (x[before + 1] - x[before])
    met = y[before] + part * (y[before + 1] - y[before])
    assert met == pytest.approx(host.static.total, rel=0.01)


@given(st.integers(0, 1 << 50))
def test_a_unit_leaves_a_number_that_can_be_read(size: int) -> None:
    name, unit = unit_of(size)
    assert unit == UNITS[name]
    assert size < 1024 * unit or name == "TiB"
    assert size >= unit or name == "B"


def test_coming_up() -> None:
    """Straight lines from idle with no TD to what the plan says with all of them."""
    plot, now, then, host = (
        Plot(coming_up_figure(plan())),
        plan().today,
        plan().tomorrow,
        plan().host,
    )
    assert now is not None
    assert then is not None
    ends = {
        "static PAMT": (host.static.total, host.static.total),
        "Dynamic today, fresh host": (host.dynamic.total, now.dynamic.fresh),
        "Dynamic today, worst case": (host.dynamic.total, now.dynamic.worst),
        "Dynamic, 2M (not merged)": (host.dynamic.total, then.dynamic.fresh),
    }
    assert [trace.name for trace in plot.traces] == list(ends)
    for name, (first, last) in ends.items():
        steps = list(plot.line(name).x)
        assert steps == [0, 1, 2, 3]
        wanted = [first + (last - first) * step / 3 for step in steps]
        assert plot.sizes(name) == pytest.approx(wanted, abs=1)


def test_coming_up_has_a_hundred_steps_at_most() -> None:
    many = plan_host("8GiB", [parse_mix("600x4MiB")])
    steps = list(Plot(coming_up_figure(many)).traces[0].x)
    assert (steps[0], steps[-1], len(steps)) == (0, 600, 101)
    assert {after - before for before, after in pairwise(steps)} == {6}


def test_ageing() -> None:
    both = aged()
    plot, now, then = Plot(ageing_figure(both)), both.today, both.tomorrow
    pair = 2 * 4096
    wanted = {
        "static PAMT": [now.static_bytes] * len(now.times_hours),
        "Dynamic PAMT today": now.dynamic_bytes.mean,
        "the same pages, packed": [now.idle_bytes + n * pair for n in now.packed_pairs.mean],
        "Dynamic PAMT, 2M (not merged)": then.dynamic_bytes.mean,
    }
    assert [trace.name for trace in plot.traces if trace.name] == list(wanted)
    for name, sizes in wanted.items():
        assert plot.sizes(name) == pytest.approx(list(sizes), abs=0.5)
        assert [24 * day for day in plot.line(name).x] == pytest.approx(list(now.times_hours))
    # The band: its upper edge, then its lower one, which is filled up to the one before.
    upper, lower = [trace for trace in plot.traces if not trace.name]
    assert [y * plot.unit() for y in upper.y] == pytest.approx(list(now.dynamic_bytes.high))
    assert [y * plot.unit() for y in lower.y] == pytest.approx(list(now.dynamic_bytes.low))
    assert (upper.fill, lower.fill) == (None, "tonexty")
    for edge in (upper, lower):
        assert [24 * day for day in edge.x] == pytest.approx(list(now.times_hours))
        assert (edge.mode, edge.line.width) == ("lines", 0)
        assert (edge.hoverinfo, edge.showlegend) == ("skip", False)
    # In the colour of the line that it belongs to, and seen through.
    red, green, blue, alpha = map(float, re.findall(r"[\d.]+", lower.fillcolor))
    line = plot.line("Dynamic PAMT today").line.color
    assert f"#{int(red):02X}{int(green):02X}{int(blue):02X}" == line
    assert 0 < alpha < 0.5


def test_ageing_without_2m_has_no_line_for_it() -> None:
    only = aged("4x256MiB@2M=0%")
    assert only.today is only.tomorrow
    names = [trace.name for trace in Plot(ageing_figure(only)).traces]
    assert "Dynamic PAMT, 2M (not merged)" not in names


def test_tornado() -> None:
    """Each bar from its smaller end to its larger one; the first of the list is drawn on top."""
    plot = Plot(tornado_figure(tornado()))
    (trace,) = plot.traces
    unit = plot.unit("xaxis")
    assert trace.orientation == "h"
    assert list(trace.y) == ["--grouping", "--life"]  # plotly begins at the bottom
    assert [base * unit for base in trace.base] == [7 << 20, 9 << 20]
    assert [x * unit for x in trace.x] == [24 << 20, 31 << 20]
    assert list(trace.text) == ["page-block to scattered", "12 to 168"]
    assert "%{text}" in trace.hovertemplate
    (line,) = plot.figure.layout.shapes
    assert line.x0 * unit == line.x1 * unit == 30.5 * (1 << 20)
    assert plot.figure.layout.showlegend is False


def test_fleet() -> None:
    both = fleets()
    plot, now = Plot(fleet_figure(both)), both.today
    wanted = {
        "static PAMT": [now.static_bytes] * len(now.moments),
        "Dynamic PAMT today": [one.dynamic_bytes for one in now.moments],
        "Dynamic today, worst case": [now.static_bytes - one.saved_low for one in now.moments],
        "Dynamic PAMT, 2M (not merged)": [one.dynamic_bytes for one in both.tomorrow.moments],
    }
    assert [trace.name for trace in plot.traces] == list(wanted)
    for name, sizes in wanted.items():
        assert plot.sizes(name) == pytest.approx(sizes, abs=0.5)
        assert [24 * x for x in plot.line(name).x] == pytest.approx([m.hours for m in now.moments])


CELL = st.lists(st.integers(0, 3), min_size=len(KINDS), max_size=len(KINDS)).filter(any)


@settings(max_examples=25)
@given(st.lists(CELL, min_size=1, max_size=150))
def test_the_map_has_each_cell_in_the_colour_of_its_kind(counts: list[list[int]]) -> None:
    size = 1 << 21
    cells = [Cell(n * size, (n + 1) * size, tuple(each)) for n, each in enumerate(counts)]
    plot = Plot(map_figure(cells))
    heat, *legend = plot.traces
    assert max(len(line) for line in heat.z) <= 64
    assert {len(line) for line in heat.z} == {len(heat.z[0])}
    drawn = [kind for line in heat.z for kind in line]
    texts = [text for line in heat.text for text in line]
    assert drawn[: len(cells)] == [cell.kind for cell in cells]
    assert set(drawn[len(cells) :]) <= {None}
    assert set(texts[len(cells) :]) <= {""}
    for text, cell in zip(texts, cells, strict=False):
        place, *parts = text.split("<br>")
        assert place == f"[{cell.start:#x}, {cell.end:#x})"
        told = dict(reversed(part.split(" x ")) for part in parts)
        assert told == {name: str(n) for name, n in zip(KINDS, cell.counts, strict=True) if n}
    # The legend has the kinds that are there, each with the colour that the scale gives it.
    named = {trace.name: trace.marker.color for trace in legend}
    assert set(named) == {CELL_KINDS[cell.kind] for cell in cells}
    for kind in {cell.kind for cell in cells}:
        assert named[CELL_KINDS[kind]] == scaled(heat, kind)
    assert len(set(named.values())) == len(named)
    assert all(trace.marker.symbol == "square" for trace in legend)
    assert all((list(trace.x), list(trace.y), trace.mode) == ([None], [None], "markers")
               for trace in legend)  # fmt: skip
    assert heat.showscale is False
    assert heat.xgap == heat.ygap == 1
    assert "%{text}" in heat.hovertemplate
    axis = plot.figure.layout.yaxis
    assert axis.autorange == "reversed"  # low addresses at the top
    assert [int(text, 16) for text in axis.ticktext] == [
        0,
        cells[len(heat.z[0]) * axis.tickvals[-1]].start,
    ]
    assert axis.tickvals[-1] == len(heat.z) - 1
    assert plot.figure.layout.xaxis.visible is False
    assert axis.fixedrange
    assert plot.figure.layout.xaxis.fixedrange


def scaled(heat: Any, value: float) -> str:
    """The colour of a value by plotly's rule: its place between zmin and zmax, in the scale."""
    place = (value - heat.zmin) / (heat.zmax - heat.zmin)
    below = [colour for at, colour in heat.colorscale if at <= place]
    above = [colour for at, colour in heat.colorscale if at >= place]
    assert below[-1] == above[0], "a value between two colours"
    assert isinstance(below[-1], str)
    return below[-1]


def test_a_map_of_many_cells_has_no_lines_between_them() -> None:
    for many, gap in ((512, 1), (513, 0)):
        cells = [Cell(n << 21, (n + 1) << 21, (1, 0, 0, 0, 0)) for n in range(many)]
        (heat, *_) = map_figure(cells).data
        assert (heat.xgap, heat.ygap) == (gap, gap)


@settings(max_examples=15)
@given(st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1), st.sampled_from([1 << 20, 1 << 30]))
def test_histogram(values: list[int], unit: int) -> None:
    plot = Plot(histogram_figure(values, "saved (unit)", unit))
    (trace,) = plot.traces
    assert [x * unit for x in trace.x] == pytest.approx(values)
    assert plot.figure.layout.xaxis.title.text == "saved (unit)"
    assert plot.figure.layout.yaxis.title.text == "hosts"
    assert plot.figure.layout.showlegend is False
    assert "%{x}: %{y} hosts" in trace.hovertemplate
    assert trace.marker.color != trace.marker.line.color


def test_a_histogram_is_in_gib_where_nothing_is_said() -> None:
    assert list(histogram_figure([3 << 29], "saved").data[0].x) == [1.5]


def test_numbers_are_read_back() -> None:
    assert number("-1,234.5 MiB").stands_for(-1234.46 * (1 << 20))
    assert not number("42 MiB").stands_for((42 << 20) + 1)
    assert number("0.391 %").stands_for(0.00391)
