"""A fleet as text of at most 80 columns, as JSON, and as one page with plots."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import Any, Final

from dpamt.plan.fleet.both import BothFleets
from dpamt.plan.fleet.results import Fleet
from dpamt.report.plan_answer import saving, signed
from dpamt.report.plan_html import Page
from dpamt.report.plan_json import JSON_FORMAT
from dpamt.report.plan_plots import fleet_figure, histogram_figure, unit_of
from dpamt.report.run_text import heading, paragraph
from dpamt.report.units import amount, bar, count, percent

_GIB: Final = 1 << 30
_BINS: Final = 10
_BAR_WIDTH: Final = 36


def fleet_json(both: BothFleets) -> dict[str, Any]:
    """The document of docs/plan.md."""
    document: dict[str, Any] = {
        "kind": both.kind,
        "sentence": _sentence(both),
        "todo": _todo(both),
        "exit_code": both.exit_code,
        "share_2m": both.share_2m,
        "share_assumed": both.share_assumed,
        "seeds": len(both.seeds),
        "driven_by": both.driven_by,
        "notes": list(both.notes),
        "today": asdict(both.today),
        "tomorrow": asdict(both.tomorrow),
    }
    for name, today in (("today", True), ("tomorrow", False)):
        for key, value in _OVER_SEEDS.items():
            found = both.over_seeds(value, today)
            document[name][f"{key}_over_seeds"] = (
                None
                if found is None
                else {"mean": found.mean[0], "low": found.low[0], "high": found.high[0]}
            )
    return {"format": JSON_FORMAT, "fleet": document}


_OVER_SEEDS: Final[dict[str, Callable[[Fleet], float]]] = {
    "mean_saved": lambda fleet: fleet.mean_saved,
    "newly_fitting_tds": lambda fleet: float(fleet.newly_fitting_tds),
}
"""What has a spread once there are several seeds."""


def fleet_text(both: BothFleets, source: str) -> str:
    """The report, ending with a line break."""
    return "\n".join(_lines(both, source)) + "\n"


def fleet_page(both: BothFleets, source: str) -> str:
    """The page: the answer, what is saved over time, and by how many hosts."""
    page = Page(f"PAMT of a fleet: {source}")
    colour = "bad" if both.exit_code else "good"
    page.html(f'<p class="choice {colour}">{escape(_sentence(both))}.</p>')
    page.html(f"<p><b>What to do:</b> {escape(_todo(both))}.</p>")
    page.table(("", *_columns(both)), _rows(both))
    for line in (*_driven(both), *(f"Note: {note}." for note in both.notes)):
        page.html(f"<p>{escape(line)}</p>")
    now = both.today
    page.html("<h3>PAMT of the whole fleet over time</h3>")
    page.figure(
        fleet_figure(both),
        f"Static PAMT stays at {signed(now.static_bytes)}; Dynamic PAMT saves "
        f"{signed(round(now.mean_saved))} of it on average today, "
        f"{signed(round(now.least_saved))} at least.",
    )
    page.html("<h3>What each host saves on average, today</h3>")
    saved = [round(host.mean_saved) for host in now.hosts]
    unit = unit_of(max(map(abs, saved)))
    page.figure(
        histogram_figure(saved, f"saved on a host ({unit[0]})", unit[1]),
        f"From {signed(min(saved))} to {signed(max(saved))} a host; half of the hosts save "
        f"{signed(round(now.saved_percentiles[50]))} or more.",
    )
    return page.text()


def _sentence(both: BothFleets) -> str:
    now = both.today
    saved = round(now.mean_saved)
    ram = f"{percent(abs(saved), now.memory_bytes)} of RAM"
    share = percent(abs(saved), now.static_bytes)
    if both.kind == "does-not-fit":
        away = min(now.turned_away_static, now.turned_away_dynamic)
        return (
            f"The fleet is too small for these VMs: {count(away)} of {count(now.vms)} found no host"
        )
    if both.kind == "marginal":
        verb = "saves" if saved >= 0 else "costs"
        return (
            f"Today (4K guest memory, as merged) Dynamic PAMT {verb} next to nothing on this "
            f"fleet: {amount(abs(saved))}, {share} of static PAMT, {ram}"
        )
    if both.kind == "costs":
        return (
            f"Today (4K guest memory, as merged) Dynamic PAMT costs {amount(-saved)} on this "
            f"fleet, {share} of static PAMT, {ram}"
        )
    losing = ""
    if both.kind == "hosts-lose":
        losing = f", but {count(now.hosts_losing_on_average)} of {count(len(now.hosts))} hosts lose"
    return (
        f"Today (4K guest memory, as merged) Dynamic PAMT saves {amount(saved)} on this fleet, "
        f"{share} of static PAMT, {ram}{losing}"
    )


def _todo(both: BothFleets) -> str:
    saved = round(both.tomorrow.mean_saved)
    then = percent(abs(saved), both.tomorrow.static_bytes)
    verb = "saves" if saved >= 0 else "costs"
    later = f"with 2M guest memory (a series not merged) it {verb} {then}"
    if both.kind == "does-not-fit":
        return (
            "Add hosts or larger ones, or raise the KeyIDs of each (--max-tds says what they are)"
        )
    if both.kind == "costs":
        return f"Stay on a kernel or module without Dynamic PAMT; {later}"
    if both.kind == "marginal":
        return f"Marginal: memory is no reason to change kernels today; {later}"
    if both.kind == "hosts-lose":
        return f"Use Dynamic PAMT on the hosts that win only; {later}"
    return f"Use Dynamic PAMT; {later}"


def _lines(both: BothFleets, source: str) -> Iterator[str]:
    title = paragraph(f"PAMT of a fleet: {source}")
    yield from title
    yield "=" * max(map(len, title))
    yield from paragraph(f"{_sentence(both)}.")
    yield from paragraph(f"What to do: {_todo(both)}.")
    for line in _driven(both):
        yield from paragraph(line)
    for note in both.notes:
        yield from paragraph(f"Note: {note}.")
    yield ""
    yield f"  {'':34}" + "".join(f"{name:>22}" for name in _columns(both))
    for label, *cells in _rows(both):
        yield (f"  {label:34}" + "".join(f"{cell:>22}" for cell in cells)).rstrip()
    if both.share_assumed:
        yield from paragraph(
            f"{100 * both.share_2m:g} % at 2M is an assumption, for VMs that do not say "
            "(--share-2m); no merged kernel maps guest memory at 2M.",
            "  ",
        )
    if len(both.seeds) == 1:
        yield from paragraph("One seed: how far the numbers spread is not known (--seeds).", "  ")
    yield from heading("TDs by size: what the page pairs of one take")
    yield f"  {'VCPUs':>7}{'memory':>11}{'TDs':>11}{'static':>14}{'today: 4K':>14}{'2M':>14}"
    for now, then in zip(both.today.kinds, both.tomorrow.kinds, strict=True):
        yield (
            f"  {now.vcpus:>7}{amount(now.memory_bytes):>11}{count(now.vms):>11}"
            f"{amount(now.static_bytes):>14}{amount(now.pair_bytes):>14}"
            f"{amount(then.pair_bytes):>14}"
        )
    yield from heading("Hosts by what each saves on average, today")
    saved = [host.mean_saved for host in both.today.hosts]
    low, high = min(saved), max(saved)
    width = (high - low) / _BINS
    bins = [0] * _BINS
    for size in saved:
        bins[min(int((size - low) / width), _BINS - 1) if width else 0] += 1
    for index, number in enumerate(bins if width else bins[:1]):
        first, last = round(low + index * width), round(low + (index + 1) * width)
        drawn = bar(number, max(bins), _BAR_WIDTH)
        yield (
            f"  {signed(first):>10} to {signed(last):>10}  {drawn:{_BAR_WIDTH}}{count(number):>8}"
        )


def _driven(both: BothFleets) -> Iterator[str]:
    """What drives the outcome."""
    if both.driven_by:
        yield f"Driven by (each an option): {both.driven_by}."


def _columns(both: BothFleets) -> tuple[str, str]:
    assumed = f"2M: {100 * both.share_2m:g}% assumed" if both.share_assumed else "2M (not merged)"
    return "today: 4K", assumed


def _rows(both: BothFleets) -> Sequence[tuple[str, str, str]]:
    fleets = (both.today, both.tomorrow)
    now = both.today
    static = now.static_bytes

    def row(label: str, value: Callable[[Fleet], str]) -> tuple[str, str, str]:
        return label, value(fleets[0]), value(fleets[1])

    def size(value: Callable[[Fleet], float]) -> Callable[[Fleet], str]:
        return lambda fleet: saving(round(value(fleet)), static)

    rows = [
        row("Dynamic PAMT saves on average", size(lambda fleet: fleet.mean_saved)),
        *_spread_rows(both),
        row("  at most", size(lambda fleet: fleet.peak_saved)),
        row("  at least", size(lambda fleet: fleet.least_saved)),
        *(
            row(
                f"  a host, percentile {at}",
                lambda fleet, at=at: signed(round(fleet.saved_percentiles[at])),  # type: ignore[misc]
            )
            for at in (1, 50, 99)
        ),
        row("page pairs of all hosts, at most", lambda fleet: count(fleet.most_pairs)),
        row("hosts that lose at some moment", lambda fleet: count(fleet.hosts_losing)),
        row("hosts that lose on average", lambda fleet: count(fleet.hosts_losing_on_average)),
        row("VMs without a host, static PAMT", lambda fleet: count(fleet.turned_away_static)),
        row("VMs without a host, Dynamic PAMT", lambda fleet: count(fleet.turned_away_dynamic)),
        ("static PAMT of all hosts", amount(static), ""),
        ("hosts", count(len(now.hosts)), ""),
        *([("  of them on static PAMT", count(now.static_hosts), "")] if now.static_hosts else []),
        ("VMs", count(now.vms), ""),
        *([("  of them TDs", count(now.tds), "")] if now.tds < now.vms else []),
        ("days", f"{(now.moments[-1].hours - now.moments[0].hours) / 24:.1f}", ""),
    ]
    if both.price is not None:
        price = both.price
        rows.insert(
            1, row("  worth a month", lambda fleet: f"{fleet.mean_saved / _GIB * price:,.0f}")
        )
    return rows


def _spread_rows(both: BothFleets) -> Iterator[tuple[str, str, str]]:
    """Means over seeds and their intervals, where there are several."""
    ways = [both.over_seeds(_OVER_SEEDS["mean_saved"], today) for today in (True, False)]
    if ways[0] is None or ways[1] is None:
        return
    static = both.today.static_bytes
    seeds = len(both.seeds)
    yield (
        f"  mean of {seeds} seeds, ± 95 %",
        *(
            f"{100 * one.mean[0] / static:.2f} ± {50 * (one.high[0] - one.low[0]) / static:.2f} %"
            for one in ways
            if one is not None
        ),
    )  # type: ignore[misc]
    fits = [both.over_seeds(_OVER_SEEDS["newly_fitting_tds"], today) for today in (True, False)]
    yield (
        "VMs that newly fit, ± 95 %",
        *(
            f"{one.mean[0]:,.1f} ± {(one.high[0] - one.low[0]) / 2:,.1f}"
            for one in fits
            if one is not None
        ),
    )  # type: ignore[misc]
