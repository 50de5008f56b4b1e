"""Plans as one self-contained page with plots: no network, nothing beside it."""

import gzip
import json
from base64 import b85encode
from collections.abc import Iterator, Sequence
from datetime import date
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from dpamt import __version__
from dpamt.own_files import GENERATOR
from dpamt.plan.address_map import KINDS, Cell
from dpamt.plan.plan import HostPlan
from dpamt.report.plan_advice import advice
from dpamt.report.plan_answer import (
    by_the_map,
    columns,
    headline,
    limit_line,
    outlook_rows,
    sizes_of,
)
from dpamt.report.plan_plots import (
    ageing_figure,
    break_even_figure,
    coming_up_figure,
    graph_objects,
    map_figure,
    tornado_figure,
)
from dpamt.report.units import amount, count, percent

if TYPE_CHECKING:
    from dpamt.plan.ageing.both import BothAges

_CONFIG: Final = {"displaylogo": False, "responsive": True, "displayModeBar": False}


_NO_TAGS: Final = str.maketrans("<&", ",.")


class Page:
    """A page that grows by sections; figures are drawn when it is opened."""

    def __init__(self, title: str) -> None:
        graph_objects()  # says at once when there is no plotly
        self._title = title
        self._parts: list[str] = []
        self._figures: list[tuple[str, Any]] = []

    def html(self, text: str) -> None:
        """Add markup."""
        self._parts.append(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table of texts."""
        self._parts.append(_table(head, rows))

    def figure(self, figure: Any, description: str) -> None:
        """Add a figure, and a description for those who cannot see it."""
        name = f"plot-{len(self._figures) + 1}"
        self._figures.append((name, json.loads(figure.to_json())))
        self._parts.append(
            f'<div class="plot" role="img" aria-label="{escape(description)}">'
            f'<div id="{name}"></div></div>'
        )

    def text(self) -> str:
        """The whole document.

        plotly is packed (gzip, base 85) and unpacked by the browser when the page is opened, which
        takes more than half off its size; nothing is fetched.
        """
        from plotly.offline import get_plotlyjs

        folder = files("dpamt.report")
        template = (folder / "plan_page.html").read_text(encoding="utf-8")
        draw = (folder / "plan_page.js").read_text(encoding="utf-8")
        figures = json.dumps(self._figures, separators=(",", ":"))
        script = draw.replace("@FIGURES@", figures).replace("@CONFIG@", json.dumps(_CONFIG))
        code = f"{get_plotlyjs()}\n;{script}".encode()
        data = gzip.compress(code, 9, mtime=0)
        # Base 85 in whole groups, with nothing in it that HTML reads as a tag; gzip ignores no
        # bytes behind its end, so their number goes along.
        packed = f"{len(data)}/" + b85encode(data, pad=True).decode("ascii").translate(_NO_TAGS)
        filled = template.replace("@TITLE@", escape(self._title)).replace("@GENERATOR@", GENERATOR)
        before, _, after = filled.partition("@BODY@")
        middle, _, rest = after.partition("@PACKED@")
        return "".join((before, "\n".join(self._parts), middle, packed, rest))


def plan_page(
    plans: Sequence[HostPlan],
    maps: Sequence[tuple[Cell, ...]],
    aged: Sequence[tuple["BothAges", tuple[Cell, ...]]] = (),
) -> str:
    """The page of these plans; ``maps`` has the cells of each host, ``aged`` what came of age."""
    page = Page(page_title(plans))
    for number, (plan, cells) in enumerate(zip(plans, maps, strict=True)):
        page.html(f"<h2>{escape(plan.host.source)}</h2>")
        if aged:
            _aged_decision(page, plan, aged[number][0])
            _ageing(page, *aged[number])
            page.html("<h3>The same host when it is fresh, with the TDs as they were given</h3>")
            _outlook(page, plan)
        else:
            _decision(page, plan)
        _reasons(page, plan)
        _sizes(page, plan)
        _plots(page, plan, cells)
        _vintages(page, plan)
    return page.text()


def page_title(plans: Sequence[HostPlan]) -> str:
    """Hosts, TDs, version and date: what a printed page has to say of itself."""
    names = ", ".join(plan.host.source for plan in plans)
    mix = plans[0].mix if plans else None
    tds = ", ".join(str(part.mix) for part in mix.parts) if mix else "no TDs"
    return f"PAMT plan: {names}; {tds}; dpamt {__version__}, {date.today().isoformat()}"


def _decision(page: Page, plan: HostPlan) -> None:
    told = headline(plan)
    colour = "bad" if plan.found else "good"
    page.html(f'<p class="choice {colour}">{escape(told.sentence)}.</p>')
    page.html(f"<p><b>What to do:</b> {escape(told.todo)}.</p>")
    if sizes_of(plan):
        page.html(f"<p>{escape(sizes_of(plan))}</p>")
    _outlook(page, plan)


def _aged_decision(page: Page, plan: HostPlan, both: "BothAges") -> None:
    """The answer over the weeks."""
    from dpamt.report import plan_ageing as aged

    told = aged.aged_headline(plan, both)
    colour = "bad" if aged.aged_exit_code(plan, both) else "good"
    page.html(f'<p class="choice {colour}">{escape(told.sentence)}.</p>')
    page.html(f"<p><b>What to do:</b> {escape(told.todo)}.</p>")
    page.table(("", *columns(plan)), aged.aged_rows(plan, both))
    limit = aged.aged_limit(both)
    if limit:
        page.html(f"<p>{escape(limit)}.</p>")
    page.html(f"<p>{escape(aged.aged_drivers(both))}</p>")


def _outlook(page: Page, plan: HostPlan) -> None:
    """Today beside tomorrow, and what limits first."""
    page.table(("", *columns(plan)), outlook_rows(plan))
    limit = limit_line(plan)
    if limit:
        page.html(f"<p>{escape(limit)}.</p>")


def _reasons(page: Page, plan: HostPlan) -> None:
    why = advice(plan)
    items = [f"<li>{_sentence(reason)}</li>" for reason in why.reasons]
    items += [f'<li class="warning">{_sentence(warning)}</li>' for warning in why.warnings]
    items += [f'<li class="warning">{_sentence(note)}</li>' for note in plan.host.notes]
    page.html("<ul>" + "".join(items) + "</ul>")


def _sizes(page: Page, plan: HostPlan) -> None:
    host = plan.host
    rows: list[Sequence[str]] = [
        ["RAM", amount(host.memory_bytes), ""],
        ["static PAMT", amount(host.static.total), percent(host.static.total, host.memory_bytes)],
        [
            "Dynamic PAMT, idle",
            amount(host.dynamic.total),
            percent(host.dynamic.total, host.memory_bytes),
        ],
    ]
    for name, mix in (("today, 4K", plan.today), ("2M, not merged", plan.tomorrow)):
        if mix is not None:
            rows += [
                [f"Dynamic PAMT {name}: {how}", amount(size), percent(size, host.memory_bytes)]
                for how, size in (
                    ("packed", mix.dynamic.minimum),
                    ("fresh host", mix.dynamic.fresh),
                    ("scattered", mix.dynamic.scattered),
                    ("at worst", mix.dynamic.worst),
                )
            ]
    if plan.mix is not None:
        page.html("<p>TDs: " + escape(", ".join(str(part.mix) for part in plan.mix.parts)) + "</p>")
    page.table(("", "size", "of RAM"), rows)


def _plots(page: Page, plan: HostPlan, cells: tuple[Cell, ...]) -> None:
    host, mix = plan.host, plan.today
    if mix is not None:
        page.html("<h3>PAMT as the TDs come up</h3>")
        page.figure(
            coming_up_figure(plan),
            f"Static PAMT stays at {amount(host.static.total)}; Dynamic PAMT grows from "
            f"{amount(host.dynamic.total)} to {amount(mix.dynamic.fresh)} today on a fresh host, "
            f"at worst to {amount(mix.dynamic.worst)}.",
        )
    page.html("<h3>Break-even</h3>")
    page.figure(
        break_even_figure(plan),
        "Dynamic PAMT over the share of memory in 4K-mapped TDs, against static PAMT's "
        f"{amount(host.static.total)}.",
    )
    head = ("share at 4K", "whole 2M regions", "pages at random")
    rows = [
        [f"{100 * at.share:.0f} %", amount(at.packed), amount(at.scattered)]
        for at in plan.break_even.curve[::10]
    ]
    page.html(f"<details><summary>The same as a table</summary>{_table(head, rows)}</details>")
    page.html("<h3>Physical memory by 2M region, on a fresh host</h3>")
    _map(page, cells)


def _ageing(page: Page, both: "BothAges", cells: tuple[Cell, ...]) -> None:
    now = both.today
    weeks = now.times_hours[-1] / 168
    page.html(f"<h3>PAMT over {weeks:.3g} weeks</h3>")
    peak = round(max(now.dynamic_bytes.mean))
    page.figure(
        ageing_figure(both),
        f"Static PAMT stays at {amount(now.static_bytes)}; Dynamic PAMT is at most "
        f"{amount(peak)} today (mean of {len(now.seeds)} seeds; the band is the 95 % confidence "
        "interval).",
    )
    if both.tornado is not None:
        page.html("<h3>What moves what is saved today</h3>")
        page.figure(
            tornado_figure(both.tornado),
            "Bytes saved with each driver alone at its two ends, the one that moves most on top: "
            + "; ".join(f"{one.driver} {one.low} to {one.high}" for one in both.tornado.bars),
        )
    pairs, lonely = round(now.pairs.mean[-1]), round(now.pinned_by_one.mean[-1])
    page.html(
        f"<p>Today, at the end: {count(pairs)} page pairs, {count(lonely)} of them held by a "
        f"single page; packed, the same pages need "
        f"{count(round(now.packed_pairs.mean[-1]))}.</p>"
        f"<h3>Physical memory by 2M region, after {weeks:.3g} weeks, today</h3>"
    )
    _map(page, cells)


def _map(page: Page, cells: tuple[Cell, ...]) -> None:
    each = sum(cells[0].counts)
    page.html(
        f"<p>From low addresses, top left, to high ones; a cell is {count(each)} "
        f"region{'' if each == 1 else 's'}, coloured by its commonest use; addresses without "
        "memory are left out.</p>"
    )
    totals = [sum(cell.counts[kind] for cell in cells) for kind in range(len(KINDS))]
    told = ", ".join(f"{count(n)} {kind}" for n, kind in zip(totals, KINDS, strict=True))
    page.figure(map_figure(cells), f"2M regions by use: {told}.")


def _vintages(page: Page, plan: HostPlan) -> None:
    page.html("<h3>Does Linux initialise TDX here?</h3>")
    if by_the_map(plan):
        page.html(f"<p>{escape(by_the_map(plan))}</p>")
    rows = [
        [
            verdict.about,
            f"{verdict.pamt} PAMT" if verdict.initialises else f"no: {verdict.reason}",
            str(verdict.pamt_kib) if verdict.initialises else "-",
            "-"
            if verdict.reserved_used is None
            else f"{verdict.reserved_used} of {verdict.reserved_max}",
        ]
        for verdict in plan.host.vintages
    ]
    page.table(("kernel", "TDX comes up", "KB for PAMT", "reserved areas"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(_table_parts(head, rows))


def _table_parts(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr>'
    yield from (f"<th>{escape(cell)}</th>" for cell in head)
    yield "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _sentence(text: str) -> str:
    return escape(f"{text[:1].upper()}{text[1:]}.")
