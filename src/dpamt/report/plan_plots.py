"""The plots of a plan, as plotly figures: colours that colour-blind people can tell apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from dpamt.errors import InputError
from dpamt.plan.address_map import CELL_KINDS, KINDS, Cell
from dpamt.plan.host_size import PAIR_BYTES
from dpamt.plan.plan import HostPlan
from dpamt.report.units import amount, count

if TYPE_CHECKING:
    from dpamt.plan.ageing.both import BothAges
    from dpamt.plan.ageing.tornado import Tornado
    from dpamt.plan.fleet.both import BothFleets

# Okabe and Ito's palette.
STATIC: Final = "#D55E00"
DYNAMIC: Final = "#0072B2"
SCATTERED: Final = "#CC79A7"
LARGE: Final = "#009E73"
_KIND_COLOURS: Final = (
    *("#E5E5E5", "#D55E00", "#0072B2", "#009E73", "#8A8A8A"),
    "#56B4E9",
)

_HEIGHT: Final = 400
_COLUMNS: Final = 64
_GAPS_UP_TO: Final = 512
"""Cells, beyond which lines between them would be all that is seen."""
_GIB: Final = 1 << 30


def graph_objects() -> Any:
    """plotly's figures.  Raises InputError where plotly is not installed."""
    try:
        import plotly.graph_objects
    except ImportError:
        raise InputError(
            "--html: plotly is not installed; expected it for plots (pip install 'dpamt[plots]')"
        ) from None
    return plotly.graph_objects


def break_even_figure(plan: HostPlan) -> Any:
    """PAMT over the share of memory that is in 4K-mapped TDs.

    Pages at random soon cost what static PAMT does, so the lines differ in width: the wide one lies
    below, and both are seen.
    """
    curve = plan.break_even.curve
    shares = [100 * at.share for at in curve]
    static = plan.host.static.total
    unit = unit_of(static)
    figure = _figure("share of the memory in 4K-mapped TDs (%)", f"PAMT ({unit[0]})")
    scattered = [at.scattered for at in curve]
    _line(figure, shares, scattered, "Dynamic, pages at random", SCATTERED, "solid", unit, 9)
    packed = [at.packed for at in curve]
    _line(figure, shares, packed, "Dynamic, whole 2M regions", DYNAMIC, "solid", unit, 4)
    _line(figure, shares, [static] * len(curve), "static PAMT", STATIC, "dash", unit, 2)
    point = plan.break_even.packed
    if point:
        figure.add_vline(
            x=100 * point,
            line={"color": "#8a8a8a", "width": 1},
            annotation_text=f"break-even {100 * point:.1f} %",
            annotation_position="bottom left",
        )
    return figure


def unit_of(size: int) -> tuple[str, int]:
    """Name and bytes of the unit for an axis up to ``size``."""
    units = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
    return next((unit for unit in units if size >= unit[1]), ("B", 1))


def coming_up_figure(plan: HostPlan) -> Any:
    """PAMT as the TDs come up one after another: static against dynamic, today and with 2M."""
    now, then, host = plan.today, plan.tomorrow, plan.host
    assert now is not None
    assert then is not None
    tds = now.pages.tds
    steps = sorted({round(tds * index / 100) for index in range(101)})
    idle = host.dynamic.total
    unit = unit_of(host.static.total)
    figure = _figure("TDs up, all of their memory in use", f"PAMT ({unit[0]})")
    _line(figure, steps, [host.static.total] * len(steps), "static PAMT", STATIC, "dash", unit)
    for name, size, colour, dash in (
        ("Dynamic today, fresh host", now.dynamic.fresh, DYNAMIC, "solid"),
        ("Dynamic today, worst case", now.dynamic.worst, SCATTERED, "dot"),
        ("Dynamic, 2M (not merged)", then.dynamic.fresh, LARGE, "dashdot"),
    ):
        sizes = [idle + round((size - idle) * step / tds) for step in steps]
        _line(figure, steps, sizes, name, colour, dash, unit)
    return figure


def ageing_figure(both: "BothAges") -> Any:
    """PAMT over time: static, Dynamic today with its confidence interval, packed, and with 2M."""
    ageing = both.today
    days = [hours / 24 for hours in ageing.times_hours]
    unit = unit_of(ageing.static_bytes)
    figure = _figure("days", f"PAMT ({unit[0]})")
    dynamic = ageing.dynamic_bytes
    for edge, fill in ((dynamic.high, None), (dynamic.low, "tonexty")):
        figure.add_scatter(
            x=days,
            y=[size / unit[1] for size in edge],
            mode="lines",
            line={"width": 0},
            fill=fill,
            fillcolor="rgba(0, 114, 178, 0.2)",
            hoverinfo="skip",
            showlegend=False,
        )
    _line(figure, days, [ageing.static_bytes] * len(days), "static PAMT", STATIC, "dash", unit)
    _line(
        figure,
        days,
        [round(size) for size in dynamic.mean],
        "Dynamic PAMT today",
        DYNAMIC,
        "solid",
        unit,
    )
    packed = [round(ageing.idle_bytes + pairs * PAIR_BYTES) for pairs in ageing.packed_pairs.mean]
    _line(figure, days, packed, "the same pages, packed", SCATTERED, "dot", unit)
    if both.tomorrow is not both.today:
        then = [round(size) for size in both.tomorrow.dynamic_bytes.mean]
        _line(figure, days, then, "Dynamic PAMT, 2M (not merged)", LARGE, "dashdot", unit)
    return figure


def tornado_figure(told: "Tornado") -> Any:
    """What is saved with each driver at its two ends, the widest bar on top."""
    unit = unit_of(told.static_bytes)
    figure = _figure(f"saved on average ({unit[0]})", "")
    bars = told.bars[::-1]
    figure.add_bar(
        orientation="h",
        y=[bar.driver for bar in bars],
        base=[min(bar.saved_low, bar.saved_high) / unit[1] for bar in bars],
        x=[bar.width / unit[1] for bar in bars],
        marker={"color": DYNAMIC},
        text=[f"{bar.low} to {bar.high}" for bar in bars],
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    figure.add_vline(x=told.saved / unit[1], line={"color": "#8a8a8a", "width": 1})
    figure.update_layout(showlegend=False)
    return figure


def fleet_figure(both: "BothFleets") -> Any:
    """PAMT of a whole fleet over time, today and with 2M."""
    fleet = both.today
    days = [moment.hours / 24 for moment in fleet.moments]
    unit = unit_of(fleet.static_bytes)
    figure = _figure("days", f"PAMT ({unit[0]})")
    _line(figure, days, [fleet.static_bytes] * len(days), "static PAMT", STATIC, "dash", unit)
    dynamic = [round(moment.dynamic_bytes) for moment in fleet.moments]
    _line(figure, days, dynamic, "Dynamic PAMT today", DYNAMIC, "solid", unit)
    worst = [round(fleet.static_bytes - moment.saved_low) for moment in fleet.moments]
    _line(figure, days, worst, "Dynamic today, worst case", SCATTERED, "dot", unit)
    then = [round(moment.dynamic_bytes) for moment in both.tomorrow.moments]
    _line(figure, days, then, "Dynamic PAMT, 2M (not merged)", LARGE, "dashdot", unit)
    return figure


def map_figure(cells: Sequence[Cell]) -> Any:
    """Physical memory by 2M region: rows from low addresses at the top to high ones."""
    columns = min(_COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    texts = [[_told(cell) for cell in row] for row in rows]
    kinds: list[list[int | None]] = [[cell.kind for cell in row] for row in rows]
    kinds[-1] += [None] * (columns - len(kinds[-1]))
    texts[-1] += [""] * (columns - len(texts[-1]))
    last = len(CELL_KINDS)
    gap = 1 if len(cells) <= _GAPS_UP_TO else 0
    scale = [
        stop
        for kind, colour in enumerate(_KIND_COLOURS)
        for stop in ((kind / last, colour), ((kind + 1) / last, colour))
    ]
    figure = _figure("", "")
    figure.add_heatmap(
        z=kinds,
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        zmin=-0.5,
        zmax=last - 0.5,
        colorscale=scale,
        showscale=False,
        xgap=gap,
        ygap=gap,
    )
    present = {cell.kind for cell in cells}
    for kind, (name, colour) in enumerate(zip(CELL_KINDS, _KIND_COLOURS, strict=True)):
        if kind not in present:
            continue
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 12, "symbol": "square"},
        )
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(
        autorange="reversed",
        fixedrange=True,
        tickvals=[0, len(rows) - 1],
        ticktext=[f"{rows[0][0].start:#x}", f"{rows[-1][0].start:#x}"],
    )
    return figure


def _told(cell: Cell) -> str:
    parts = [
        f"{count(number)} x {name}"
        for number, name in zip(cell.counts, KINDS, strict=True)
        if number
    ]
    return f"[{cell.start:#x}, {cell.end:#x})<br>" + "<br>".join(parts)


def histogram_figure(values: Sequence[int], axis: str, unit: int = _GIB) -> Any:
    """How many hosts have which value (bytes, shown in ``unit``)."""
    figure = _figure(axis, "hosts")
    figure.add_histogram(
        x=[value / unit for value in values],
        name="hosts",
        marker={"color": DYNAMIC, "line": {"color": "#fff", "width": 1}},
        hovertemplate="%{x}: %{y} hosts<extra></extra>",
    )
    figure.update_layout(showlegend=False)
    return figure


def _figure(x_title: str, y_title: str) -> Any:
    figure = graph_objects().Figure()
    figure.update_layout(
        template="plotly_white",
        height=_HEIGHT,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        font={"size": 14, "color": "#1a1a1a"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0},
        hoverlabel={"font": {"size": 14}},
    )
    figure.update_xaxes(title=x_title, automargin=True, fixedrange=True)
    figure.update_yaxes(title=y_title, automargin=True, fixedrange=True, rangemode="tozero")
    return figure


def _line(
    figure: Any,
    x: Sequence[float],
    sizes: Sequence[int],
    name: str,
    colour: str,
    dash: str,
    unit: tuple[str, int],
    width: int = 3,
) -> None:
    figure.add_scatter(
        x=list(x),
        y=[size / unit[1] for size in sizes],
        mode="lines",
        name=name,
        line={"color": colour, "width": width, "dash": dash},
        text=[amount(size) for size in sizes],
        hovertemplate="%{x:.4~g}: %{text}<extra>" + name + "</extra>",
    )
