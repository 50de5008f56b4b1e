"""A judged recording as text of at most 80 columns: verdict, what was read, findings, numbers."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import STATUS_NAMES, TDX_SUCCESS
from dpamt.report.run_text import heading, paragraph
from dpamt.report.units import amount, count
from dpamt.report.width import width
from dpamt.trace.judge.findings import ABOUT, KEPT, TraceFinding
from dpamt.trace.judge.result import Judgement
from dpamt.trace.judge.times import SLOW_FACTOR, Histogram
from dpamt.trace.recording.model import Examples, Health, seconds
from dpamt.trace.recording.read import FORMATS

_SHOWN: Final = 5
_BUSY_SHOWN: Final = 12


def trace_text(judged: Judgement) -> str:
    """The whole report, ending with a line break."""
    return "\n".join(_lines(judged)) + "\n"


def _lines(judged: Judgement) -> Iterator[str]:
    health = judged.health
    title = paragraph(f"{judged.name}: {FORMATS[judged.form]}")
    yield from title
    yield "=" * min(max(len(line) for line in title), width())
    yield ""
    yield from paragraph(headline(judged))
    for note in notes(judged):
        yield from paragraph(f"Note: {note}")
    yield ""
    yield from paragraph(
        f"{count(health.lines)} lines, {amount(health.bytes)}, {judged.seconds:.3f} seconds of "
        f"recording: {count(health.calls)} SEAMCALLs, {count(health.ops)} gets and puts; "
        f"{count(health.other_events)} other events."
    )
    if health.damaged.count or health.lost.count or health.jumps.count or health.gaps.count:
        yield from heading("What is wrong with the recording")
        yield from _health(health)
    if judged.findings.counts:
        yield from heading("Findings")
        yield from _findings(judged)
    yield from heading("Page pairs and pages")
    yield from _pairs(judged)
    yield from heading("SEAMCALLs")
    yield from _statuses(judged.statuses)
    if judged.contention:
        yield from heading("Locks that were busy, and who can have held them")
        yield from _contention(judged)
    if judged.by_leaf or judged.ops:
        yield from heading("How long they took (microseconds)")
        yield from _times(judged)


def headline(judged: Judgement) -> str:
    """The verdict in one sentence."""
    if judged.findings.counts:
        kinds = ", ".join(
            f"{kind} {count(n)}" for kind, n in sorted(judged.findings.counts.items())
        )
        return f"FINDINGS: {kinds}."
    known = "" if judged.from_boot else ", as far as a recording that joins a running host can tell"
    return f"Clean: every answer is possible and nothing leaks{known}."


def notes(judged: Judgement) -> list[str]:
    """What limits the verdict, a sentence each."""
    found = []
    health = judged.health
    if judged.forgotten:
        found.append(
            f"events were lost {judged.forgotten} times; after each nothing is known of what was "
            "before."
        )
    elif not judged.from_boot:
        found.append(
            "the recording does not begin with TDH.SYS.CONFIG: what was there before is unknown, "
            "and leaks are those of regions that it has seen from PAMT.ADD on."
        )
    if judged.dynamic is None:
        found.append("nothing shows whether the module runs Dynamic PAMT.")
    elif not judged.dynamic:
        found.append("the module runs static PAMT: there are no page pairs.")
    if judged.blind:
        found.append(
            "the recording has no registers after calls that take pages back: single pages are not "
            "followed, and pairs without a user are not found."
        )
    if not judged.ops:
        found.append("no gets and puts in the recording: the kernel's counts are not followed.")
    if judged.undecided:
        found.append(
            f"{count(judged.undecided)} answers depend on the order of calls that overlapped in "
            "time; they count as neither right nor wrong."
        )
    if health.unanswered:
        found.append(f"{count(health.unanswered)} calls have no answer in the recording.")
    if health.orphans:
        found.append(f"{count(health.orphans)} answers have no call in the recording.")
    if health.late:
        found.append(f"{count(health.late)} events came too late to be put in order.")
    if health.damaged.count:
        found.append(f"{count(health.damaged.count)} lines are damaged; they were left out.")
    return found


def _health(health: Health) -> Iterator[str]:
    yield from _examples("events that the tracer lost", health.lost, health.lost_events)
    yield from _examples("damaged lines", health.damaged)
    yield from _examples("clocks that stepped back", health.jumps)
    yield from _examples("gaps of more than an hour", health.gaps)


def _examples(what: str, examples: Examples, total: int | None = None) -> Iterator[str]:
    if not examples.count:
        return
    yield f"  {what}: {count(examples.count if total is None else max(total, examples.count))}"
    for text in examples.first:
        yield from paragraph(text, "    ")
    if examples.count > len(examples.first):
        yield f"    and {count(examples.count - len(examples.first))} more"


def _finding_text(finding: TraceFinding) -> str:
    """All but when it was."""
    where = f" on CPU {finding.cpu}" if finding.cpu >= 0 else ""
    caller = f", from {finding.caller}" if finding.caller else ""
    because = f": {finding.because}" if finding.because else ""
    return f"{where}: {finding.what}{caller}{because}"


def _findings(judged: Judgement) -> Iterator[str]:
    by_kind: dict[str, list[TraceFinding]] = {}
    for finding in judged.findings.first:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind, total in sorted(judged.findings.counts.items()):
        yield from paragraph(f"{kind} ({count(total)}): {ABOUT[kind]}", "  ")
        shown = by_kind[kind][:_SHOWN]
        for text, same in groupby(shown, key=_finding_text):  # alike: in one sentence
            times = ", ".join(seconds(finding.at) for finding in same)
            yield from paragraph(f"at {times}{text}.", "    ")
        if total > len(shown):
            yield f"    and {count(total - len(shown))} more (--json has the first {KEPT})"


def _pairs(judged: Judgement) -> Iterator[str]:
    rows = [
        ("PAMT.ADD that succeeded", judged.adds),
        ("PAMT.REMOVE that succeeded", judged.removes),
        ("page pairs at the end", judged.pairs_now),
        ("page pairs at most", judged.pairs_most),
    ]
    if not judged.blind:
        rows.append(("4K pages in use at the end", judged.pages_now))
    rows.append(("TDs at the end", judged.tds_now))
    for label, number in rows:
        pair = "pairs" in label
        kb = f" ({count(number * 8)} KB)" if pair else ""
        yield f"  {label:34}{count(number):>14}{kb}"
    if not judged.from_boot:
        yield "  Counted is what the recording shows; what was there before it is not."


def _statuses(statuses: Counter[tuple[int, int]]) -> Iterator[str]:
    for (leaf, status), number in sorted(statuses.items()):
        name = LEAF_NAMES.get(leaf, f"leaf {leaf}")
        told = "no answer" if status == -1 else STATUS_NAMES.get(status, f"{status:#018x}")
        told = "" if status == TDX_SUCCESS else told
        yield f"  {name:28}{told:34}{count(number):>14}"


def _contention(judged: Judgement) -> Iterator[str]:
    rows = judged.contention.most_common()
    for (leaf, operand, holder), number in rows[:_BUSY_SHOWN]:
        yield from paragraph(f"{leaf} {operand}: {count(number)} times, {holder}", "  ")
    if len(rows) > _BUSY_SHOWN:
        yield f"  and {len(rows) - _BUSY_SHOWN} more kinds"


def _times(judged: Judgement) -> Iterator[str]:
    yield f"  {'':36}{'count':>10}{'p50':>8}{'p99':>8}{'p99.9':>8}{'most':>8}"
    for leaf, histogram in sorted(judged.by_leaf.items(), key=lambda item: (item[0] < 0, item[0])):
        yield _time_row(duration_name(leaf), histogram)
    for name, histogram in sorted(judged.ops.items()):
        yield _time_row(name, histogram)
    if judged.slow:
        yield ""
        yield from paragraph(
            f"{count(judged.slow_calls)} calls, gets and puts took more than {SLOW_FACTOR} times "
            "the median of their leaf or kind (a get or put holds its lock while it makes a "
            "SEAMCALL); the worst when they came:",
            "  ",
        )
        for text in judged.slow:
            yield from paragraph(text, "    ")


def duration_name(leaf: int) -> str:
    """Whose durations they are: a key of :attr:`Judgement.by_leaf` in words."""
    number = leaf if leaf >= 0 else -1 - leaf
    return LEAF_NAMES.get(number, f"leaf {number}") + ("" if leaf >= 0 else ", failed")


def _time_row(name: str, histogram: Histogram) -> str:
    cells = "".join(
        f"{_microseconds(value):>8}"
        for value in (*(histogram.percentile(p) for p in (50, 99, 99.9)), histogram.largest)
    )
    return f"  {name:36}{count(histogram.count):>10}{cells}"


def _microseconds(nanoseconds: int) -> str:
    value = nanoseconds / 1000
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
