"""Expectations as text of at most 80 columns: what they rest on, the ranges, the verdict."""

from collections.abc import Iterator, Sequence
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT, SIZE_2M
from dpamt.plan.expect.check import PAIR_KB, Checked
from dpamt.plan.expect.expected import Expectation, Expected
from dpamt.plan.expect.ran import RanPoint
from dpamt.report.run_text import heading, paragraph
from dpamt.report.units import amount, count

_PAGE_KB: Final = 1 << PAGE_SHIFT - 10


def expect_text(
    expectation: Expectation, ran: Sequence[RanPoint] | None, checked: Sequence[Checked]
) -> str:
    """The whole report, ending with a line break."""
    return "\n".join(_lines(expectation, ran, checked)) + "\n"


def _lines(
    expectation: Expectation, ran: Sequence[RanPoint] | None, checked: Sequence[Checked]
) -> Iterator[str]:
    case = expectation.case
    name = "TDs of your own" if case.name == "td" else f"Case {case.name}"
    title = paragraph(f"{name}: {case.title}")
    yield from title
    yield "=" * max(len(line) for line in title)
    yield ""
    yield from paragraph(granted(expectation))
    yield from heading("Page pairs, and KB as the TDX: line of /proc/meminfo counts them")
    yield f"  {'checkpoint':14}{'least':>20}{'fresh host':>20}{'most':>24}"
    for point in expectation.checkpoints:
        fresh = "-" if point.fresh is None else _pairs(point.fresh)
        yield (
            f"  {point.checkpoint.name:14}{_pairs(point.pairs_least):>20}{fresh:>20}"
            f"{_pairs(point.pairs_most):>24}"
        )
    if case.repeat > 1:
        yield from paragraph(f"All of it {case.repeat} times, the same each time.", "  ")
    if any(point.pages_most.tds for point in expectation.checkpoints):
        yield from heading("Pages of the TDs alive, and KB (4 KB each; a 2M page 2,048 KB)")
        yield f"  {'checkpoint':14}{'control':>14}{'S-EPT':>26}{'guest memory':>24}"
        for point in expectation.checkpoints:
            if point.pages_most.tds:
                yield _pages(point)
    if ran is not None:
        yield from heading("The same, run on the model")
        yield from _ran(expectation, ran)
    if checked and any(one.read for one in checked):
        yield from heading("What you read")
        yield from _checked(checked)


def granted(expectation: Expectation) -> str:
    """What the numbers rest on, as sentences."""
    low, high = expectation.in_use.least, expectation.in_use.most
    use = f"{100 * low:g} %" if low == high else f"between {100 * low:g} % and {100 * high:g} %"
    host = (
        f"Host: {expectation.host.source}, {count(expectation.host.regions)} regions of 2M."
        if expectation.host is not None
        else "No host given (--host): the most is each page in a 2M region of its own, and what a "
        "fresh host shows is not known."
    )
    log = None if expectation.host is None else expectation.host.log
    if log is not None and log.against:
        host += f" {log.against}; these are the numbers for when it does."
    kind = (
        f"Kernel design {expectation.design}: it never asks for Dynamic PAMT, so there are no page "
        "pairs."
        if expectation.static
        else f"Kernel design {expectation.design}."
    )
    return (
        f"{kind} TDX module {expectation.module}. {use[0].upper()}{use[1:]} of the guests' memory "
        f"is in use (--in-use). Guest addresses: {expectation.layout.about} (--layout). {host}"
    )


def _pairs(pairs: int) -> str:
    return f"{count(pairs)} ({count(pairs * PAIR_KB)})"


def _pages(point: Expected) -> str:
    least, most = point.pages_least, point.pages_most
    control = f"{count(most.control)} ({count(most.control * _PAGE_KB)})"
    sept = f"{_range(least.sept, most.sept)} ({_range(least.sept * 4, most.sept * 4)})"
    low = (least.guest_4k << PAGE_SHIFT) + least.guest_2m * SIZE_2M
    high = (most.guest_4k << PAGE_SHIFT) + most.guest_2m * SIZE_2M
    guest = amount(low) if low == high else f"{amount(low)} - {amount(high)}"
    return f"  {point.checkpoint.name:14}{control:>14}{sept:>26}{guest:>24}"


def _range(low: int, high: int) -> str:
    return count(low) if low == high else f"{count(low)}-{count(high)}"


def _ran(expectation: Expectation, ran: Sequence[RanPoint]) -> Iterator[str]:
    yield f"  {'checkpoint':18}{'page pairs (KB)':>22}{'control':>10}{'S-EPT':>12}{'4K pages':>14}"
    for point in ran:
        name = point.checkpoint
        if expectation.case.repeat > 1:
            name = f"{point.repetition}: {name}"
        yield (
            f"  {name:18}{_pairs(point.pairs):>22}{count(point.tds.control):>10}"
            f"{count(point.tds.sept):>12}{count(point.tds.guest_4k):>14}"
        )
    wrong = outside(expectation, ran)
    if not wrong:
        yield from paragraph("Every number is inside its range; every audit is clean.", "  ")
    for problem in wrong:
        yield from paragraph(f"WRONG: {problem}", "  ")


def outside(expectation: Expectation, ran: Sequence[RanPoint]) -> list[str]:
    """Where the model is outside a range, or not clean: a sentence each."""
    bounds = {point.checkpoint.name: point for point in expectation.checkpoints}
    found = []
    for point in ran:
        bound = bounds[point.checkpoint]
        where = f"{point.repetition}: {point.checkpoint}"
        if not bound.pairs_least <= point.pairs <= bound.pairs_most:
            found.append(
                f"{where}: {point.pairs} page pairs; expected {bound.pairs_least} to "
                f"{bound.pairs_most}"
            )
        if point.tds.control != bound.pages_most.control:
            found.append(
                f"{where}: {point.tds.control} control pages; expected {bound.pages_most.control}"
            )
        if not bound.pages_least.sept <= point.tds.sept <= bound.pages_most.sept:
            found.append(
                f"{where}: {point.tds.sept} S-EPT pages; expected {bound.pages_least.sept} to "
                f"{bound.pages_most.sept}"
            )
        found += [f"{where}: {text}" for text in point.findings]
    return found


def _checked(checked: Sequence[Checked]) -> Iterator[str]:
    for one in checked:
        if one.read is None:
            continue
        name = one.expected.checkpoint.name
        if one.problem:
            yield from paragraph(f"NOT OK {one.repetition}: {name}: {one.problem}", "  ")
        else:
            yield f"  ok     {one.repetition}: {name}: {one.read.kb} kB"
    bad = sum(bool(one.problem) for one in checked)
    read = sum(one.read is not None for one in checked)
    skipped = sum(one.read is None for one in checked)
    some = "1 checkpoint was" if skipped == 1 else f"{skipped} checkpoints were"
    rest = f"; {some} not read" if skipped else ""
    yield ""
    yield from paragraph(
        f"{bad} of {read} numbers cannot be so{rest}."
        if bad
        else f"All {read} numbers are possible{rest}."
    )
