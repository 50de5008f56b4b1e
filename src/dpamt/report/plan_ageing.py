"""A host that ages, today beside tomorrow, as text of at most 80 columns and as JSON."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from dpamt.plan.ageing.answer import AgedAnswer, AgedOutlook, aged_answer
from dpamt.plan.ageing.both import BothAges
from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.ageing.tornado import Tornado
from dpamt.plan.plan import HostPlan
from dpamt.report.plan_answer import (
    NOT_UP,
    TODO,
    Headline,
    columns,
    headline,
    saving,
    sizes_of,
    up_sentence,
    use_it,
)
from dpamt.report.plan_text import log_failures
from dpamt.report.run_text import heading, paragraph
from dpamt.report.units import amount, bar, count, percent

_ROWS: Final = 14
_BAR_WIDTH: Final = 14
_TORNADO_WIDTH: Final = 10


@dataclass(frozen=True, slots=True)
class AgedLines:
    """What is said of a host that ages: the first screen, and what stands below it."""

    first: tuple[str, ...]
    rest: tuple[str, ...]


def aged_lines(plan: HostPlan, both: BothAges) -> AgedLines:
    """The answer over the weeks, and the weeks."""
    return AgedLines(tuple(_answer(plan, both)), tuple(_lines(both)))


def aged_headline(plan: HostPlan, both: BothAges) -> Headline:
    """The answer over the weeks in words."""
    told, now = _of(plan, both), both.today
    static = now.static_bytes
    fresh = headline(plan)
    if told.kind in (*NOT_UP, "no-dynamic-pamt"):
        return fresh
    over = f"{up_sentence(plan.host)}; over {_duration(now)} of TDs that come and go"
    if told.kind == "does-not-fit":
        return Headline(f"{over} hardly one finds room", "Take smaller TDs, or add memory")
    saved, later = told.today.saved, told.tomorrow.saved
    size = f"{percent(abs(saved), static)} of static PAMT"
    ram = f"{percent(abs(saved), plan.host.memory_bytes)} of RAM"
    verb = "saves" if saved >= 0 else "costs"
    if told.kind == "marginal":
        verb += f" next to nothing today on average: {amount(abs(saved))}"
    else:
        verb += f" {amount(abs(saved))} today on average"
    sentence = f"{over} Dynamic PAMT {verb}, {size}, {ram}"
    then = (
        f"with 2M guest memory (a series not merged) it {'saves' if later > 0 else 'costs'} "
        f"{amount(abs(later))}"
    )
    if told.kind == "marginal":
        todo = f"Marginal: memory is no reason to change a kernel today; {then}"
    elif told.kind == "costs":
        todo = f"{TODO['costs']}; {then}"
    else:
        todo = use_it(plan)
        if told.today.saved_worst < 0:
            todo += f"; in its worst hour it costs {amount(-told.today.saved_worst)}"
    return Headline(sentence, todo)


def aged_rows(plan: HostPlan, both: BothAges) -> list[tuple[str, str, str, str]]:
    """Label, static, today, tomorrow."""
    told, static = _of(plan, both), both.today.static_bytes
    ways = (told.today, told.tomorrow)

    def row(label: str, of_static: str, cell: Callable[[AgedOutlook], str]) -> Row:
        return (label, of_static, *(cell(one) for one in ways))  # type: ignore[return-value]

    return [
        row("PAMT on average", amount(static), lambda one: amount(one.dynamic)),
        row("Dynamic PAMT saves", "", lambda one: saving(one.saved, static)),
        row(
            "  of RAM",
            "",
            lambda one: (
                ("-" if one.saved < 0 else "") + percent(abs(one.saved), plan.host.memory_bytes)
            ),
        ),
        row("  in its worst hour", "", lambda one: saving(one.saved_worst, static)),
        row("TDs on average", "", lambda one: f"{one.tds:.1f}"),
    ]


def aged_limit(both: BothAges) -> str:
    """What limits the host, or empty; without its full stop."""
    return next(_limit(both.today), "")


def aged_drivers(both: BothAges) -> str:
    """What drives the outcome, as a sentence."""
    return _drivers(both)


Row = tuple[str, str, str, str]


def _duration(ageing: Ageing) -> str:
    """How long it was, in the unit that fits."""
    hours = ageing.times_hours[-1]
    for unit, size in (("week", 168.0), ("day", 24.0), ("hour", 1.0)):
        if hours >= size or unit == "hour":
            number = f"{hours / size:.3g}"
            return f"{number} {unit}{'' if number == '1' else 's'}"
    raise AssertionError


def _of(plan: HostPlan, both: BothAges) -> AgedAnswer:
    return aged_answer(plan.answer, both, plan.host.memory_bytes)


def _answer(plan: HostPlan, both: BothAges) -> Iterator[str]:
    told = aged_headline(plan, both)
    yield from paragraph(f"{told.sentence}.")
    log = plan.host.log
    if plan.answer.kind == "failed-in-its-log" and log is not None:
        yield from log_failures(log)
    yield from paragraph(f"What to do: {told.todo}.")
    if sizes_of(plan):
        yield from paragraph(sizes_of(plan))
    yield f"  {'':19}" + "".join(f"{name:>19}" for name in columns(plan))
    for label, *cells in aged_rows(plan, both):
        yield (f"  {label:19}" + "".join(f"{cell:>19}" for cell in cells)).rstrip()
    limit = aged_limit(both)
    if limit:
        yield from paragraph(f"{limit}.")
    yield from paragraph(_drivers(both))


def ageing_json(plan: HostPlan, both: BothAges) -> dict[str, Any]:
    """Its part of the document of docs/plan.md; regions are counted, not listed."""
    told, said = _of(plan, both), aged_headline(plan, both)
    return {
        "answer": {
            "kind": told.kind,
            "sentence": said.sentence,
            "todo": said.todo,
            "exit_code": told.exit_code,
            "limit": told.limit,
            "today": asdict(told.today),
            "tomorrow": asdict(told.tomorrow),
        },
        "today": _json(both.today),
        "tomorrow": _json(both.tomorrow),
        "tornado": None if both.tornado is None else asdict(both.tornado),
    }


def aged_exit_code(plan: HostPlan, both: BothAges) -> int:
    """That of the answer over the weeks."""
    return _of(plan, both).exit_code


def _json(ageing: Ageing) -> dict[str, Any]:
    document = asdict(ageing)
    regions = document.pop("regions")
    names = ("free", "pair", "huge", "other")
    document["regions_at_end"] = {name: regions.count(kind) for kind, name in enumerate(names)}
    return document


def _lines(both: BothAges) -> Iterator[str]:
    now, then = both.today, both.tomorrow
    yield from heading(f"{now.source} over {_duration(now)}")
    static = now.static_bytes
    seeds = len(now.seeds)
    how = (
        f"Mean of {seeds} seeds; ± is the 95 % confidence interval (Student's t)."
        if seeds > 1
        else "One seed: no confidence interval."
    )
    yield from paragraph(how)
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
        yield (
            f"What limits: KeyIDs, {most}; {round(without):,} of {round(refused):,} TDs that found "
            "no place found no KeyID"
        )
    else:
        yield (
            f"What limits: memory; {round(refused - without):,} of {round(refused):,} TDs that "
            "found no place found no memory"
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
