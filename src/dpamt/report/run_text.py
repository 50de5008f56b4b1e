"""A run as text of at most 80 columns: host, boot, phases side by side, pictures, bottom line."""

from collections.abc import Iterator, Sequence
from itertools import islice
from textwrap import wrap
from typing import Final

from dpamt.report.run_phase import phase_lines
from dpamt.report.side_table import LABEL_WIDTH
from dpamt.report.units import amount, bar, count, percent
from dpamt.report.width import width
from dpamt.run.facts import HostFacts, InjectionFacts, PhaseFacts, RunFacts, SideFacts, Snapshot

_NAME_WIDTH: Final = 14
_AROUND_BAR: Final = 40
_LEAST_BAR: Final = 10
_SHOWN_RANGES: Final = 12


def run_text(facts: RunFacts) -> str:
    """The whole report, ending with a line break."""
    return "\n".join(_lines(facts)) + "\n"


def heading(text: str) -> list[str]:
    """A section's head: the text over a rule."""
    lines = paragraph(text)
    return ["", *lines, "-" * max(len(line) for line in lines)]


def paragraph(text: str, indent: str = "") -> list[str]:
    """Text wrapped to the width."""
    return wrap(
        text,
        width(),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _lines(facts: RunFacts) -> Iterator[str]:
    title = paragraph(facts.title)
    yield from title
    yield "=" * max(len(line) for line in title)
    yield from _host(facts.host)
    yield from heading("Boot: the kernel log")
    yield from _boot(facts)
    for index, phase in enumerate(facts.phases):
        yield from heading(f"Phase {index + 1} of {len(facts.phases)}: {phase.name}")
        yield from paragraph("; ".join(phase.steps))
        yield from phase_lines(facts.sides, index)
    yield from heading("PAMT at the end of each phase")
    yield from _pictures(facts)
    yield from heading(
        f"If all {amount(facts.host.tdx_bytes)} were TD memory (arithmetic, not run)"
    )
    yield from _full_host(facts)
    if any(side.injected for side in facts.sides):
        yield from heading("Injected")
        yield from _injected(facts)
    yield from heading("Bottom line")
    yield from _bottom_line(facts)


def _host(host: HostFacts) -> Iterator[str]:
    nodes = len({node for _start, _end, node in host.memory})
    yield ""
    yield from paragraph(
        f"Host {host.source}: {amount(host.memory_bytes)} of RAM, {amount(host.tdx_bytes)} of it "
        f"above 1 MiB where TDs may be, {_some(nodes, 'NUMA node')}, "
        f"{_some(host.packages, 'package')}, {host.cpus} CPUs, {host.guest_keyids} guest KeyIDs, "
        f"{_fragmentation(host)}."
    )
    yield from _ranges("CMR", [(start, end, "") for start, end in host.cmrs])
    yield from _ranges(
        "memory block", [(start, end, f"node {node}") for start, end, node in host.memory]
    )
    for note in host.notes:
        yield from paragraph(f"Note: {note}.")


def _fragmentation(host: HostFacts) -> str:
    if not host.fragmentation:
        return "memory not fragmented"
    when = "when it boots" if host.fragmented == "at-boot" else "after boot"
    return f"{100 * host.fragmentation:g} % of its 2M blocks spoiled {when}"


def _ranges(what: str, ranges: Sequence[tuple[int, int, str]]) -> Iterator[str]:
    for start, end, more in islice(ranges, _SHOWN_RANGES):
        line = f"  {what:13} [{start:#14x}, {end:#14x})  {amount(end - start):>10}  {more}"
        yield line.rstrip()
    if len(ranges) > _SHOWN_RANGES:
        yield f"  and {len(ranges) - _SHOWN_RANGES} more"


def _boot(facts: RunFacts) -> Iterator[str]:
    for number, side in enumerate(facts.sides):
        if number:
            yield ""
        yield f"{side.name}: {_what(side)}, TDX module {side.module}"
        for line in side.snapshots[0].log:
            yield from paragraph(line, "  ")
    yield ""
    first = facts.sides[0]
    yield from _ranges("TDMR", [(start, end, "") for start, end in first.tdmrs])
    yield from paragraph(_against_the_log(facts))


def _against_the_log(facts: RunFacts) -> str:
    """The host's own log line as a check, where it has one."""
    host = facts.host
    if host.recorded_pamt_kib is None:
        return ""
    module = f", with TDX module {host.recorded_module}," if host.recorded_module else ""
    text = f"This host's own log{module} says: {host.recorded_pamt_kib} KB allocated for PAMT."
    for side in facts.sides:
        if side.pamt == "static":
            same = "the same" if side.pamt_kib == host.recorded_pamt_kib else "not the same"
            text += f' Side "{side.name}" here says {side.pamt_kib} KB: {same}.'
    return text


def _what(side: SideFacts) -> str:
    return "static PAMT" if side.pamt == "static" else f"Dynamic PAMT, design {side.design}"


def _pictures(facts: RunFacts) -> Iterator[str]:
    most = max(snapshot.pamt.total for side in facts.sides for snapshot in side.snapshots)
    yield from paragraph(f"All PAMT; a full bar is {amount(most)}.", "  ")
    totals = [[snapshot.pamt.total for snapshot in side.snapshots] for side in facts.sides]
    yield from _bars(facts.phases, [side.name for side in facts.sides], totals, most)
    dynamic = [side for side in facts.sides if side.pamt == "dynamic"]
    pairs = [[snapshot.pamt.pairs for snapshot in side.snapshots] for side in dynamic]
    most = max((size for sizes in pairs for size in sizes), default=0)
    if not most:
        return
    yield ""
    yield from paragraph(
        f"Page pairs, the part that comes and goes; a full bar is {amount(most)}.", "  "
    )
    yield from _bars(facts.phases, [side.name for side in dynamic], pairs, most)


def _bars(
    phases: Sequence[PhaseFacts], sides: Sequence[str], sizes: Sequence[Sequence[int]], most: int
) -> Iterator[str]:
    room = max(width() - _AROUND_BAR, _LEAST_BAR)
    for index, phase in enumerate(phases):
        for number, side in enumerate(sides):
            label = _clip(phase.name, _NAME_WIDTH) if not number else ""
            size = sizes[number][index]
            drawn = bar(size, most, room)
            names = f"{label:{_NAME_WIDTH}} {_clip(side, 8):8}"
            yield f"  {names} {drawn:{room}} {amount(size):>10}"


def _full_host(facts: RunFacts) -> Iterator[str]:
    yield from paragraph(
        "TDs use all 2M regions of memory.  The table has three shares of them that are mapped "
        "at 2M; each region at 4K has its page pair.  Static PAMT is the same for each share.",
        "  ",
    )
    yield f"  {'':{LABEL_WIDTH}}{'static':>14}{'dynamic':>14}{'of RAM':>10}"
    for row in facts.full_host:
        share = f"{100 * row.share_2m:g} % of the memory at 2M"
        yield (
            f"  {share:{LABEL_WIDTH}}{amount(row.static):>14}{amount(row.dynamic):>14}"
            f"{percent(row.dynamic, facts.host.memory_bytes):>10}"
        )


def _injected(facts: RunFacts) -> Iterator[str]:
    """What came of each rule: its hits, the answers, and what the host did about them."""
    results = [(side.name, told) for side in facts.sides for told in side.injected]
    for number, (name, told) in enumerate(results):
        if number:
            yield ""
        yield from paragraph(f"{name}: {told.rule}")
        yield from paragraph(
            f"calls it looked at: {count(told.seen)}; hit: {count(told.hits)}", "  "
        )
        for row in told.answers:
            yield from paragraph(f"{row.leaf} answered {row.status}: {count(row.count)}", "  ")
        for times, what in _sequels(told):
            if times:
                yield from paragraph(f"{what}: {count(times)}", "  ")


def _sequels(told: InjectionFacts) -> tuple[tuple[int, str], ...]:
    return (
        (told.through, "the call went through nevertheless"),
        (told.again, "the host made the call again"),
        (told.bugged, "the host gave up, VM bugged"),
        (told.warned, "the host gave up with a warning"),
        (told.silent, "the host gave up, an error to its caller"),
    )


def _bottom_line(facts: RunFacts) -> Iterator[str]:
    for side in facts.sides:
        yield from paragraph(f"{side.name}: {_verdict(side)}")
    bad = [
        f"{side.name}: {finding}"
        for side in facts.sides
        for finding in dict.fromkeys(
            (*(text for snapshot in side.snapshots for text in snapshot.findings), *side.findings)
        )
    ]
    yield ""
    if not bad:
        yield "Audit: clean on every side, after every phase and at the end."
    for line in bad:
        yield from paragraph(f"FINDING {line}")


def _verdict(side: SideFacts) -> str:
    boot, peak, end = side.snapshots[0], _peak(side), side.snapshots[-1]
    calls = sum(row.count for snapshot in side.snapshots for row in snapshot.seamcalls)
    in_use = f"{amount(peak.tds.guest_bytes)} of TD memory in use"
    if side.pamt == "static":
        parts = [
            f"PAMT {amount(boot.pamt.total)} from boot on, whatever the TDs do (at most {in_use}); "
            f"{count(calls)} SEAMCALLs."
        ]
    else:
        saved = peak.other_pamt.total - peak.pamt.total
        returned = "every one came back" if not end.pairs else f"{count(end.pairs)} are left"
        parts = [
            f"PAMT {amount(boot.pamt.total)} at boot, at most {amount(peak.pamt.total)} at the end "
            f"of a phase (with {in_use}), {amount(end.pamt.total)} at the end of the run; "
            f"{count(calls)} SEAMCALLs.  At its most it is {amount(abs(saved))} "
            f"({percent(abs(saved), peak.other_pamt.total)}) {'less' if saved >= 0 else 'more'} "
            f"than static PAMT.  Page pairs: at most {count(peak.pairs)} at the end of a phase, "
            f"and {returned}."
        ]
    if not end.tds.alive:
        lost = side.free_pages_at_boot - end.free_pages
        parts.append(
            f"All {count(side.free_pages_at_boot)} pages that were free after boot are free again."
            if not lost
            else f"{count(lost)} pages that were free after boot are not free."
        )
    return "  ".join(parts)


def _peak(side: SideFacts) -> Snapshot:
    return max(side.snapshots, key=lambda snapshot: (snapshot.pamt.total, snapshot.tds.guest_bytes))


def _some(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
