"""A host that ages, as text of at most 80 columns and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from dpamt.plan.ageing.simulate import Ageing
from dpamt.report.run_text import heading, paragraph
from dpamt.report.units import amount, bar, count, percent

_ROWS: Final = 14
_BAR_WIDTH: Final = 22


def ageing_text(ageing: Ageing) -> str:
    """The section, ending with a line break."""
    return "\n".join(_lines(ageing)) + "\n"


def ageing_json(ageing: Ageing) -> dict[str, Any]:
    """Its part of the document of docs/plan.md; regions are counted, not listed."""
    document = asdict(ageing)
    regions = document.pop("regions")
    names = ("free", "pair", "huge", "other")
    document["regions_at_end"] = {name: regions.count(kind) for kind, name in enumerate(names)}
    return document


def _lines(ageing: Ageing) -> Iterator[str]:
    hours = ageing.times_hours[-1]
    seeds = len(ageing.seeds)
    yield from heading(f"Ageing: {hours / 168:.3g} weeks of {ageing.source}")
    yield from paragraph(
        f"{count(ageing.page_events)} page events over {seeds} seed{'' if seeds == 1 else 's'}; "
        "means, and the 95 % confidence interval of Dynamic PAMT.  A full bar is static PAMT, "
        f"{amount(ageing.static_bytes)}; idle, Dynamic PAMT takes {amount(ageing.idle_bytes)}.",
        "  ",
    )
    head = f"{'TDs':>5}{'their memory':>14}{'Dynamic PAMT':>14}{'+/-':>10}"
    yield f"  {'day':>6}{head}"
    last = len(ageing.times_hours) - 1
    for at in sorted({round(last * row / _ROWS) for row in range(_ROWS + 1)}):
        size = ageing.dynamic_bytes.mean[at]
        half = ageing.dynamic_bytes.high[at] - size
        yield (
            f"  {ageing.times_hours[at] / 24:6.1f}{ageing.tds.mean[at]:5.0f}"
            f"{amount(round(ageing.td_bytes.mean[at])):>14}{amount(round(size)):>14}"
            f"{amount(round(half)):>10}  {bar(round(size), ageing.static_bytes, _BAR_WIDTH)}"
        ).rstrip()
    pairs, packed = ageing.pairs.mean[-1], ageing.packed_pairs.mean[-1]
    lonely = ageing.pinned_by_one.mean[-1]
    peak = max(ageing.dynamic_bytes.mean)
    yield from paragraph(
        f"At the end {count(round(pairs))} pairs, of which {count(round(lonely))} "
        f"({percent(round(lonely), round(pairs))}) are held by a single page; packed, the same "
        f"pages need {count(round(packed))}.  At its peak Dynamic PAMT takes "
        f"{amount(round(peak))}, {percent(round(peak), ageing.static_bytes)} of static PAMT.  "
        f"{count(round(ageing.refused.mean[0]))} TDs found no room.",
        "  ",
    )
