"""Plans as text of at most 80 columns: the answer, then sizes, vintages, TDs, break-even."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from dpamt.plan.host_size import HostSize
from dpamt.plan.mix_size import MixSize
from dpamt.plan.plan import HostPlan
from dpamt.plan.ran import Ran
from dpamt.plan.vintages import Verdict
from dpamt.platform.tdx_log import HostLog, distinct
from dpamt.report.plan_advice import advice
from dpamt.report.plan_answer import (
    NOT_UP,
    by_the_map,
    columns,
    headline,
    is_for_ever,
    limit_line,
    log_sentence,
    outlook_rows,
    saving,
    signed,
    sizes_of,
)
from dpamt.report.run_text import heading, paragraph
from dpamt.report.side_table import Row, side_table
from dpamt.report.units import amount, bar, count, percent, some

if TYPE_CHECKING:  # what ages needs NumPy, and nothing here does
    from dpamt.report.plan_ageing import AgedLines

_SHOWN_TDMRS: Final = 16
_BAR_WIDTH: Final = 30


def plan_text(plans: Sequence[HostPlan], aged: "Sequence[AgedLines]" = ()) -> str:
    """All hosts one after another; a summary behind them where there are several.

    ``aged`` has what came of each host over weeks, where that was asked for: then it is the answer.
    """
    lines: list[str] = []
    for at, plan in enumerate(plans):
        if lines:
            lines += ["", ""]
        lines += _plan(plan, aged[at] if aged else None)
    if len(plans) > 1:
        lines += _summary(plans)
    return "\n".join(lines) + "\n"


def _plan(plan: HostPlan, aged: "AgedLines | None") -> Iterator[str]:
    host = plan.host
    title = paragraph(f"Plan for {host.source}")
    yield from title
    yield "=" * max(len(line) for line in title)
    if aged is None:
        yield from answer_lines(plan)
    else:
        yield from aged.first
        yield from aged.rest
        yield from heading("The same host when it is fresh, with the TDs as they were given")
        yield from _outlook(plan)
    yield ""
    version = host.log.module_version if host.log is not None else None
    sizes = "sizes as of " if version not in (None, host.module) else ""
    yield from paragraph(
        f"{amount(host.memory_bytes)} of RAM, {amount(host.tdx_bytes)} of it above 1 MiB where TDs "
        f"may be, in {count(host.regions)} regions of 2M and {some(host.nodes, 'NUMA node')}; "
        f"{some(host.guest_keyids, 'guest KeyID')}; {sizes}TDX module {host.module}."
    )
    for note in host.notes:
        yield from paragraph(f"Note: {note}.")
    yield from heading("Why")
    yield from _advice(plan)
    yield from heading("PAMT at idle")
    yield from _idle(host)
    yield from heading("By TDMR")
    yield from _tdmrs(host)
    yield from heading("Where the reference counters end")
    yield from _tops(host)
    yield from heading("Does Linux initialise TDX here?")
    if by_the_map(plan):
        yield from paragraph(by_the_map(plan), "  ")
    yield from _vintages(host)
    for mix, when in ((plan.today, columns(plan)[1]), (plan.tomorrow, columns(plan)[2])):
        if mix is not None:
            yield from heading(f"TDs, all of their memory in use; {when}")
            yield from _mix(host, mix)
    if plan.ran is not None:
        yield from heading("The TDs as they were asked for, run on the model")
        yield from _ran(plan.ran)
    yield from heading("Break-even")
    yield from _break_even(plan)


def answer_lines(plan: HostPlan) -> Iterator[str]:
    """The first screen: headline, the log's own lines, what to do, today beside tomorrow."""
    told = headline(plan)
    yield from paragraph(f"{told.sentence}.")
    log = plan.host.log
    if plan.answer.kind == "failed-in-its-log" and log is not None:
        yield from log_failures(log)
    yield from paragraph(f"What to do: {told.todo}.")
    if sizes_of(plan):
        yield from paragraph(sizes_of(plan))
    yield from _outlook(plan)


def _outlook(plan: HostPlan) -> Iterator[str]:
    """Today beside tomorrow, and what limits first."""
    for label, static, *cells in (("", *columns(plan)), *outlook_rows(plan)):
        yield (f"  {label:18}{static:>16}" + "".join(f"{cell:>22}" for cell in cells)).rstrip()
    limit = limit_line(plan)
    if limit:
        yield from paragraph(f"{limit}.")


def log_failures(log: HostLog) -> Iterator[str]:
    """The lines of a host's log that show why TDX did not come up, each once."""
    shown: set[int] = set()
    for one in distinct(log.failures):
        if one.line and one.line not in shown:  # one line may be known by two causes
            shown.add(one.line)
            yield from paragraph(f"line {one.line}: {one.text}", "  ")


def log_text(source: str, log: HostLog) -> str:
    """The answer for a log that tells of TDX but not of memory; ends with a line break."""
    why = log.why or log.doubt
    assert why is not None
    title = paragraph(f"Plan for {source}")
    lines = [*title, "=" * max(map(len, title))]
    where = f" (line {why.line})" if why.line else ""
    lines += paragraph(f"{log_sentence(log)}: {why.cause.why}{where}.")
    lines += log_failures(log)
    step = why.cause.next_step
    lines += paragraph(f"What to do: {step[:1].upper()}{step[1:]}.")
    lines += paragraph(
        "Sizes are unknown: the log does not describe the memory.  Give the whole dmesg, with its "
        "'BIOS-e820:' and 'tdx: CMR:' lines."
    )
    return "\n".join(lines) + "\n"


def _idle(host: HostSize) -> Iterator[str]:
    static, dynamic = host.static, host.dynamic
    rows: list[Row] = [
        ("1G level", [amount(static.level_1g), amount(dynamic.level_1g)]),
        ("2M level", [amount(static.level_2m), amount(dynamic.level_2m)]),
        ("4K level", [amount(static.level_4k), ""]),
        ("page bitmap", ["", amount(dynamic.bitmap)]),
        ("reference counters", ["", amount(dynamic.refcounts)]),
        ("all", [amount(static.total), amount(dynamic.total)]),
        ("  of RAM", [percent(facts.total, host.memory_bytes) for facts in (static, dynamic)]),
        ("KB in the kernel log", [str(facts.boot >> 10) for facts in (static, dynamic)]),
    ]
    yield from side_table(("static", "dynamic"), rows)
    if host.recorded_pamt_kib is None:
        return
    same = {
        "static": "the same as static PAMT here, to the KB",
        "dynamic": "the same as Dynamic PAMT here, to the KB",
    }.get(host.recorded_is, "neither of the two, so something differs (module, kernel, map)")
    yield from paragraph(
        f"This host's own log says {host.recorded_pamt_kib} KB allocated for PAMT: {same}.", "  "
    )


def _tdmrs(host: HostSize) -> Iterator[str]:
    yield f"  {'':38}{'size':>10}{'static':>11}{'dynamic':>11}"
    for tdmr in islice(host.tdmrs, _SHOWN_TDMRS):
        yield (
            f"  [{tdmr.base:#16x}, {tdmr.end:#16x}){'':2}{amount(tdmr.end - tdmr.base):>10}"
            f"{amount(tdmr.static):>11}{amount(tdmr.dynamic):>11}"
        )
    if len(host.tdmrs) > _SHOWN_TDMRS:
        yield f"  and {len(host.tdmrs) - _SHOWN_TDMRS} more"


def _tops(host: HostSize) -> Iterator[str]:
    yield from paragraph(
        "Linux has one counter for each 2M from address 0 to the highest page frame, whether there "
        "is memory or not: memory at high addresses costs counters for all addresses below it.",
        "  ",
    )
    yield f"  {'':30}{'counters':>12}{'dynamic':>12}{'static : dynamic':>22}"
    for top in host.tops:
        ratio = host.static.total / top.total
        what = f"{ratio:.1f} : 1" if ratio >= 1 else f"1 : {1 / ratio:.1f}"
        yield f"  {top.what:30}{amount(top.refcounts):>12}{amount(top.total):>12}{what:>22}"


def _vintages(host: HostSize) -> Iterator[str]:
    yield (
        f"  {'kernel':22}{'comes up with':13}{'KB for PAMT':>12}{'counters':>12}"
        f"{'reserved areas':>16}"
    )
    for verdict in host.vintages:
        came = f"{verdict.pamt} PAMT" if verdict.initialises else "NO"
        size = str(verdict.pamt_kib) if verdict.initialises else "-"
        counters = amount(verdict.refcount_bytes) if verdict.refcount_bytes else "-"
        yield (f"  {verdict.vintage:22}{came:13}{size:>12}{counters:>12}{_reserved(verdict):>16}")
        if not verdict.initialises:
            yield from paragraph(verdict.reason, "      ")
    yield from paragraph(
        "Reserved areas cover holes in memory, and PAMT.  The numbers are those of the TDMR that "
        "needs most, and the limit of the module.",
        "  ",
    )
    for verdict in host.vintages:
        yield f"  {verdict.vintage:22}{verdict.about}"


def _reserved(verdict: Verdict) -> str:
    if verdict.reserved_used is None:
        return "-"
    return f"{verdict.reserved_used} of {verdict.reserved_max}"


def _mix(host: HostSize, mix: MixSize) -> Iterator[str]:
    for part in mix.parts:
        yield from paragraph(f"{part.mix}", "  ")
    pages = mix.pages
    rows: list[Row] = [
        ("control pages (TDR, TDCX, TDVPR)", [count(pages.control)]),
        ("S-EPT pages", [count(pages.sept)]),
        ("guest memory as 2M pages", [count(pages.guest_2m)]),
        ("guest memory as 4K pages", [count(pages.guest_4k)]),
        ("memory that they take", [amount(pages.bytes)]),
    ]
    yield from side_table(("pages",), rows)
    yield ""
    names = ("minimum", "fresh", "scattered", "worst")
    yield f"  {'':22}" + "".join(f"{name:>14}" for name in names)
    pairs, sizes = mix.pairs, mix.dynamic
    yield f"  {'page pairs':22}" + "".join(f"{count(getattr(pairs, n)):>14}" for n in names)
    yield f"  {'Dynamic PAMT':22}" + "".join(f"{amount(getattr(sizes, n)):>14}" for n in names)
    yield f"  {'  of static PAMT':22}" + "".join(
        f"{percent(getattr(sizes, n), host.static.total):>14}" for n in names
    )
    yield from paragraph(
        "minimum: 4K pages packed as densely as possible; fresh: as placed on a host that has just "
        "booted; scattered: single pages in regions picked at random; worst: each in a region of "
        "its own.",
        "  ",
    )
    yield ""
    kvm = [amount(mix.pages.kvm_bytes(dynamic)) for dynamic in (False, True)]
    yield from side_table(
        ("static", "dynamic"),
        [
            ("KVM's mirror tables and pools", kvm),
            ("memory left", [signed(mix.left_static), signed(mix.left_dynamic)]),
        ],
    )


def _ran(ran: Ran) -> Iterator[str]:
    yield from side_table(
        ("run",),
        [
            ("control pages (TDR, TDCX, TDVPR)", [count(ran.control)]),
            ("S-EPT pages", [count(ran.sept)]),
            ("guest memory as 2M pages", [count(ran.guest_2m)]),
            ("guest memory as 4K pages", [count(ran.guest_4k)]),
            ("page pairs", [count(ran.pairs)]),
            ("Dynamic PAMT", [amount(ran.dynamic)]),
            ("static PAMT", [amount(ran.static)]),
            ("audit", ["clean" if ran.clean else "FINDINGS"]),
        ],
    )


def _break_even(plan: HostPlan) -> Iterator[str]:
    host, point = plan.host, plan.break_even
    yield from paragraph(
        "Share of the memory in TDs that are mapped at 4K; a full bar is static PAMT, "
        f"{amount(host.static.total)}.",
        "  ",
    )
    yield f"  {'':8}{'whole 2M regions':{_BAR_WIDTH + 4}}{'pages at random':>30}"
    for at in point.curve[:: len(point.curve) // 10]:
        drawn = bar(at.packed, host.static.total, _BAR_WIDTH)
        mark = "!" if at.packed > host.static.total else " "
        late = "!" if at.scattered > host.static.total else " "
        yield (
            f"  {100 * at.share:4.0f} %  {drawn:{_BAR_WIDTH}}{amount(at.packed):>11} {mark}"
            f"{amount(at.scattered):>21} {late}".rstrip()
        )
    yield "  ! more than static PAMT"


def _advice(plan: HostPlan) -> Iterator[str]:
    told = advice(plan)
    for reason in told.reasons:
        yield from _item("-", reason)
    for warning in told.warnings:
        yield from _item("!", warning)


def _item(mark: str, text: str) -> Iterator[str]:
    lines = paragraph(f"{text[:1].upper()}{text[1:]}.", "    ")
    yield f"  {mark} {lines[0].lstrip()}"
    yield from lines[1:]


def _summary(plans: Sequence[HostPlan]) -> Iterator[str]:
    yield from heading(f"All {len(plans)} hosts, fresh")
    yield f"  {'':30}{'RAM':>11}{'static':>11}{'today: 4K':>11}{'2M':>11}"
    for plan in plans:
        name = " ".join(plan.host.source.split())
        name = name if len(name) <= 29 else "…" + name[-28:]
        yield (
            f"  {name:30}{amount(plan.host.memory_bytes):>11}{amount(plan.host.static.total):>11}"
            f"{amount(plan.answer.today.dynamic):>11}{amount(plan.answer.tomorrow.dynamic):>11}"
        )
    never = [plan for plan in plans if is_for_ever(plan)]
    counted = [plan for plan in plans if plan not in never]
    if counted:
        static = sum(plan.host.static.total for plan in counted)
        today = sum(plan.answer.today.saved for plan in counted)
        tomorrow = sum(plan.answer.tomorrow.saved for plan in counted)
        yield from paragraph(
            f"Together: static {amount(static)}; Dynamic PAMT saves {saving(today, static)} today, "
            f"{saving(tomorrow, static)} with 2M guest memory (not merged).",
            "  ",
        )
    down = [plan for plan in counted if plan.answer.kind in NOT_UP]
    if down:
        yield from paragraph(
            f"TDX is not up on {_names(down)}: what is counted there is for when it is.", "  "
        )
    if never:
        yield from paragraph(f"Not counted, for TDX cannot come up there: {_names(never)}.", "  ")


def _names(plans: Sequence[HostPlan]) -> str:
    return ", ".join(plan.host.source for plan in plans)
