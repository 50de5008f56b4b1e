"""A fleet as text of at most 80 columns, as JSON, and as one page with plots."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from dpamt.plan.fleet.results import Fleet
from dpamt.report.plan_html import Page
from dpamt.report.plan_json import JSON_FORMAT
from dpamt.report.plan_plots import fleet_figure, histogram_figure
from dpamt.report.run_text import heading, paragraph
from dpamt.report.side_table import LABEL_WIDTH
from dpamt.report.units import amount, bar, count, percent

_BINS: Final = 10
_BAR_WIDTH: Final = 36


def fleet_json(fleet: Fleet) -> dict[str, Any]:
    """The document of docs/plan.md."""
    document = asdict(fleet)
    document["newly_fitting_tds"] = fleet.newly_fitting_tds
    return {"format": JSON_FORMAT, "fleet": document}


def fleet_text(fleet: Fleet, source: str) -> str:
    """The report, ending with a line break."""
    return "\n".join(_lines(fleet, source)) + "\n"


def fleet_page(fleet: Fleet, source: str) -> str:
    """The page: what is saved over time, and by how many hosts."""
    page = Page(f"PAMT of a fleet: {source}")
    page.table(("", ""), _rows(fleet))
    page.html("<h3>PAMT of the whole fleet over time</h3>")
    page.figure(
        fleet_figure(fleet),
        f"Static PAMT stays at {_signed(fleet.static_bytes)}; Dynamic PAMT saves "
        f"{_signed(fleet.mean_saved)} of it on average, {_signed(fleet.least_saved)} at least.",
    )
    page.html("<h3>What each host saves on average</h3>")
    saved = [round(host.mean_saved) for host in fleet.hosts]
    page.figure(
        histogram_figure(saved, "saved on a host (GiB)"),
        f"From {_signed(min(saved))} to {_signed(max(saved))} a host; half of the hosts save "
        f"{_signed(fleet.saved_percentiles[50])} or more.",
    )
    return page.text()


def _lines(fleet: Fleet, source: str) -> Iterator[str]:
    title = paragraph(f"PAMT of a fleet: {source}")
    yield from title
    yield "=" * max(map(len, title))
    for label, value in _rows(fleet):
        yield f"  {label:{LABEL_WIDTH + 8}}{value:>30}"
    yield from heading("Hosts by what each saves on average")
    saved = [host.mean_saved for host in fleet.hosts]
    low, high = min(saved), max(saved)
    width = (high - low) / _BINS
    bins = [0] * _BINS
    for size in saved:
        bins[min(int((size - low) / width), _BINS - 1) if width else 0] += 1
    for index, number in enumerate(bins if width else bins[:1]):
        first, last = low + index * width, low + (index + 1) * width
        drawn = bar(number, max(bins), _BAR_WIDTH)
        yield (
            f"  {_signed(first):>10} to {_signed(last):>10}  {drawn:{_BAR_WIDTH}}{count(number):>8}"
        )


def _rows(fleet: Fleet) -> Sequence[tuple[str, str]]:
    static = fleet.static_bytes
    percentiles = fleet.saved_percentiles
    hours = fleet.moments[-1].hours
    return (
        ("hosts", count(len(fleet.hosts))),
        ("VMs", count(fleet.vms)),
        ("days", f"{hours / 24:.1f}"),
        ("static PAMT of all hosts", amount(static)),
        ("Dynamic PAMT saves on average", _share(fleet.mean_saved, static)),
        ("  at most", _share(fleet.peak_saved, static)),
        ("  at least", _share(fleet.least_saved, static)),
        *(
            (f"  a host on average, percentile {at}", _signed(size))
            for at, size in percentiles.items()
            if at in (1, 25, 50, 75, 99)
        ),
        ("hosts that lose at some moment", count(fleet.hosts_losing)),
        ("hosts that lose on average", count(fleet.hosts_losing_on_average)),
        ("TDs that found no host, static PAMT", count(fleet.turned_away_static)),
        ("TDs that found no host, Dynamic PAMT", count(fleet.turned_away_dynamic)),
        ("TDs that newly fit", count(fleet.newly_fitting_tds)),
    )


def _share(size: float, whole: int) -> str:
    sign = "-" if size < 0 else ""
    return f"{_signed(size)} ({sign}{percent(abs(round(size)), whole)})"


def _signed(size: float) -> str:
    return amount(round(size)) if size >= 0 else f"-{amount(round(-size))}"
