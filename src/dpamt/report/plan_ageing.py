"""A host that ages, today beside tomorrow, as text of at most 80 columns and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from dpamt.plan.ageing.both import BothAges
from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.ageing.tornado import Tornado, saved_by
from dpamt.report.plan_answer import saving
from dpamt.report.run_text import heading, paragraph
from dpamt.report.units import amount, bar, count, percent

_ROWS: Final = 14
_BAR_WIDTH: Final = 14
_TORNADO_WIDTH: Final = 10


def ageing_text(both: BothAges) -> str:
    """The section, ending with a line break."""
    return "\n".join(_lines(both)) + "\n"


def ageing_json(both: BothAges) -> dict[str, Any]:
    """Its part of the document of docs/plan.md; regions are counted, not listed."""
    return {
        "today": _json(both.today),
        "tomorrow": _json(both.tomorrow),
        "tornado": None if both.tornado is None else asdict(both.tornado),
    }


def _json(ageing: Ageing) -> dict[str, Any]:
    document = asdict(ageing)
    regions = document.pop("regions")
    names = ("free", "pair", "huge", "other")
    document["regions_at_end"] = {name: regions.count(kind) for kind, name in enumerate(names)}
    return document


def _lines(both: BothAges) -> Iterator[str]:
    now, then = both.today, both.tomorrow
    hours = now.times_hours[-1]
    yield from heading(f"{now.source} over {hours / 168:.3g} weeks")
    static = now.static_bytes
    for name, one in (("Today, 4K", now), ("With 2M (not merged)", then)):
        saved = round(saved_by(one))
        worst = static - round(max(one.dynamic_bytes.mean))
        yield from paragraph(
            f"{name}: Dynamic PAMT saves {saving(saved, static)} of static PAMT's "
            f"{amount(static)} on average, {saving(worst, static)} at its peak."
        )
    yield from _limit(now)
    seeds = len(now.seeds)
    how = (
        f"Mean of {seeds} seeds; ± is the 95 % confidence interval (Student's t)."
        if seeds > 1
        else "One seed: no confidence interval."
    )
    yield from paragraph(how)
    yield from paragraph(_drivers(both))
    yield ""
    head = f"{'today: 4K':>12}{'±':>11}{'2M':>12}{'±':>11}"
    yield f"  {'days':>6}{'TDs':>5}{head}  of static"
    step = max(1, len(now.times_hours) // _ROWS)
    moments = list(range(0, len(now.times_hours), step))
    if moments[-1] != len(now.times_hours) - 1:
        moments.append(len(now.times_hours) - 1)
    for at in moments:
        yield (
            f"  {now.times_hours[at] / 24:6.1f}{now.tds.mean[at]:5.0f}"
            f"{_with_spread(now, at)}{_with_spread(then, at)}"
            f"  {bar(round(now.dynamic_bytes.mean[at]), static, _BAR_WIDTH)}"
        ).rstrip()
    for name, one in (("Today", now), ("With 2M", then)):
        pairs, lonely = round(one.pairs.mean[-1]), round(one.pinned_by_one.mean[-1])
        yield from paragraph(
            f"{name}, at the end: {count(pairs)} pairs, {count(lonely)} "
            f"({percent(lonely, pairs)}) of them held by a single page; packed, the same pages "
            f"need {count(round(one.packed_pairs.mean[-1]))}.",
            "  ",
        )
    if both.tornado is not None:
        yield from _tornado(both.tornado)


def _tornado(told: Tornado) -> Iterator[str]:
    """Bars around the outcome, the longest first."""
    yield from heading("What moves what is saved today")
    yield from paragraph(
        f"With everything as given {saving(round(told.saved), told.static_bytes)} of static PAMT "
        "is saved on average; each driver alone set to its two ends gives:"
    )
    most = max((bar_.width for bar_ in told.bars), default=0.0)
    for one in told.bars:
        ends = f"{one.low} to {one.high}"
        sizes = f"{percent_of(one.saved_low, told)} to {percent_of(one.saved_high, told)}"
        drawn = bar(round(one.width), round(most), _TORNADO_WIDTH) if most else ""
        yield f"  {one.driver:22}{ends:25}{sizes:20}{drawn}".rstrip()


def percent_of(saved: float, told: Tornado) -> str:
    """A saving as a share of static PAMT."""
    return f"{100 * saved / told.static_bytes:.1f} %"


def _with_spread(ageing: Ageing, at: int) -> str:
    dynamic = ageing.dynamic_bytes
    half = (dynamic.high[at] - dynamic.low[at]) / 2
    return f"{amount(round(dynamic.mean[at])):>12}{amount(round(half)):>11}"


def _limit(ageing: Ageing) -> Iterator[str]:
    refused, without = ageing.refused.mean[0], ageing.without_keyid.mean[0]
    if round(refused) < 1:
        return
    most = f"{ageing.most_tds:,} TDs at once, one for each guest KeyID"
    if without >= refused / 2:
        yield from paragraph(
            f"KeyIDs limit this host: {most}; {round(without):,} of {round(refused):,} TDs that "
            "found no place found no KeyID."
        )
    else:
        yield from paragraph(
            f"Memory limits this host: {round(refused - without):,} of {round(refused):,} TDs that "
            "found no place found no memory."
        )


_GROUPED: Final = {
    "page-block": "together in page blocks, as Linux groups unmovable pages",
    "scattered": "each in a region of its own",
}


def _drivers(both: BothAges) -> str:
    work = both.workload
    return (
        f"Driven by (each an option): TDs in {100 * work.occupancy:g} % of memory (--occupancy), "
        f"life {work.mean_life_hours:g} h (--life), kernel pages after boot "
        f"{100 * work.fragmentation:g} % of the regions (--fragmentation), "
        f"{_GROUPED[work.grouping]} (--grouping), "
        f"{100 * work.converted_per_hour:g} % of ranges converted an hour (--conversions), pairs "
        f"{work.pairs} (--pair-pages), control pages {work.control} (--control-pages)."
    )
