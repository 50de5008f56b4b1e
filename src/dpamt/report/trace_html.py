"""A judged recording as one self-contained page with plots: no network, nothing beside it."""

from html import escape
from typing import Any, Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import STATUS_NAMES
from dpamt.report.plan_html import Page
from dpamt.report.plan_plots import DYNAMIC, SCATTERED, STATIC, graph_objects
from dpamt.report.trace_text import duration_name, headline, notes
from dpamt.report.units import amount, count
from dpamt.trace.judge.findings import ABOUT
from dpamt.trace.judge.result import Judgement
from dpamt.trace.recording.model import seconds
from dpamt.trace.recording.read import FORMATS

_HEIGHT: Final = 400
_MOST_LEAVES: Final = 12


def trace_page(judged: Judgement) -> str:
    """The page."""
    page = Page(f"SEAMCALLs of {judged.name}")
    health = judged.health
    kind = "choice" if judged.clean else "warning"
    page.html(f'<p class="{kind}">{escape(headline(judged))}</p>')
    page.html("".join(f"<p>Note: {escape(note)}</p>" for note in notes(judged)))
    page.html(
        f"<p>{escape(FORMATS[judged.form])}: {count(health.lines)} lines, {amount(health.bytes)}, "
        f"{judged.seconds:.3f} seconds; {count(health.calls)} SEAMCALLs, {count(health.ops)} gets "
        "and puts.</p>"
    )
    if judged.findings.counts:
        page.html("<h2>Findings</h2>")
        _findings(page, judged)
    page.html("<h2>Page pairs over time</h2>")
    page.figure(_series_figure(judged), "page pairs and 4K pages in use over time")
    if judged.by_leaf:
        page.html("<h2>How long SEAMCALLs took</h2>")
        page.figure(_times_figure(judged), "share of the calls of a leaf done within a time")
    page.html("<h2>SEAMCALLs</h2>")
    page.table(
        ("leaf", "status", "count"),
        [
            (
                LEAF_NAMES.get(leaf, f"leaf {leaf}"),
                "no answer" if status == -1 else STATUS_NAMES.get(status, f"{status:#018x}"),
                count(number),
            )
            for (leaf, status), number in sorted(judged.statuses.items())
        ],
    )
    if judged.contention:
        page.html("<h2>Locks that were busy, and who can have held them</h2>")
        page.table(
            ("leaf", "operand", "held by", "count"),
            [(*key, count(number)) for key, number in judged.contention.most_common()],
        )
    return page.text()


def _findings(page: Page, judged: Judgement) -> None:
    for kind, total in sorted(judged.findings.counts.items()):
        page.html(f"<h3>{escape(kind)} ({count(total)})</h3><p>{escape(ABOUT[kind])}</p>")
        page.table(
            ("at (s)", "CPU", "what", "why", "from"),
            [
                (seconds(one.at), str(one.cpu), one.what, one.because, one.caller)
                for one in judged.findings.first
                if one.kind == kind
            ],
        )


def _series_figure(judged: Judgement) -> Any:
    go = graph_objects()
    first = judged.series[0][0] if judged.series else 0
    times = [(point[0] - first) / 1e9 for point in judged.series]
    figure = go.Figure()
    for index, (name, colour) in enumerate(
        (("page pairs", DYNAMIC), ("4K pages in use", SCATTERED)), 1
    ):
        figure.add_scatter(
            x=times,
            y=[point[index] for point in judged.series],
            name=name,
            line={"color": colour, "shape": "hv"},
            yaxis="y" if index == 1 else "y2",
        )
    for finding in judged.findings.first:
        figure.add_vline(x=(finding.at - first) / 1e9, line={"color": STATIC, "width": 1})
    figure.update_layout(
        height=_HEIGHT,
        template="plotly_white",
        xaxis_title="seconds",
        yaxis_title="page pairs",
        yaxis2={"title": "4K pages in use", "overlaying": "y", "side": "right"},
        legend={"orientation": "h"},
    )
    return figure


def _times_figure(judged: Judgement) -> Any:
    go = graph_objects()
    figure = go.Figure()
    chosen = sorted(judged.by_leaf.items(), key=lambda item: -item[1].count)[:_MOST_LEAVES]
    rows = [(duration_name(leaf), histogram) for leaf, histogram in chosen]
    for name, histogram in [*rows, *sorted(judged.ops.items())]:
        xs, ys, seen = [], [], 0
        for _lowest, highest, number in histogram.buckets():
            seen += number
            xs.append(min(highest, histogram.largest) / 1000)
            ys.append(100 * seen / histogram.count)
        figure.add_scatter(x=xs, y=ys, name=name, line={"shape": "hv"})
    figure.update_layout(
        height=_HEIGHT,
        template="plotly_white",
        xaxis={"title": "microseconds", "type": "log"},
        yaxis={"title": "% of the calls", "range": [0, 101]},
    )
    return figure
