"""Expectations for machines: the JSON document and TAP or KTAP lines."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from dpamt.own_files import STAMP
from dpamt.plan.expect.check import PAIR_KB, Checked
from dpamt.plan.expect.expected import Expectation, Expected
from dpamt.plan.expect.ran import RanPoint
from dpamt.plan.td_size import TdPages

FORMAT: Final = 1
"""Raised when a key changes its meaning or goes away."""


def expect_json(
    expectation: Expectation, ran: Sequence[RanPoint] | None, checked: Sequence[Checked]
) -> dict[str, Any]:
    """The document of docs/expect.md."""
    case = expectation.case
    return {
        "format": FORMAT,
        **STAMP,
        "case": case.name,
        "title": case.title,
        "repeat": case.repeat,
        "tds": [
            None
            if mix is None
            else {"memory": mix.memory, "vcpus": mix.vcpus, "share_2m": mix.share_2m}
            for mix in case.tds
        ],
        "design": expectation.design,
        "module": expectation.module,
        "layout": expectation.layout.name,
        "in_use": [expectation.in_use.least, expectation.in_use.most],
        "host": None if expectation.host is None else expectation.host.source,
        "regions": None if expectation.host is None else expectation.host.regions,
        "checkpoints": [_point(point) for point in expectation.checkpoints],
        "ran": None if ran is None else [asdict(point) for point in ran],
        "checked": [_checked(one) for one in checked],
        "ok": not any(one.problem for one in checked),
    }


def _point(point: Expected) -> dict[str, Any]:
    fresh = point.fresh
    return {
        "name": point.checkpoint.name,
        "alive": list(point.checkpoint.alive),
        "pairs": {"least": point.pairs_least, "fresh": fresh, "most": point.pairs_most},
        "kb": {
            "least": point.pairs_least * PAIR_KB,
            "fresh": None if fresh is None else fresh * PAIR_KB,
            "most": point.pairs_most * PAIR_KB,
        },
        "control_pages": point.pages_most.control,
        "least": _pages(point.pages_least),
        "most": _pages(point.pages_most),
    }


def _pages(pages: TdPages) -> dict[str, int]:
    return {
        "sept_pages": pages.sept,
        "guest_4k": pages.guest_4k,
        "guest_2m": pages.guest_2m,
    }


def _checked(one: Checked) -> dict[str, Any]:
    return {
        "repetition": one.repetition,
        "checkpoint": one.expected.checkpoint.name,
        "kb": None if one.read is None else one.read.kb,
        "ok": None if one.read is None else not one.problem,
        "problem": one.problem,
    }


def tap_lines(expectation: Expectation, checked: Sequence[Checked], kernel: bool) -> Iterator[str]:
    """A test a checkpoint; one that was not read is skipped.  ``kernel``: KTAP, else TAP 13.

    Source of the forms: https://testanything.org/tap-version-13-specification.html, Linux
    Documentation/dev-tools/ktap.rst.
    """
    yield "KTAP version 1" if kernel else "TAP version 13"
    yield f"1..{len(checked)}"
    for number, one in enumerate(checked, 1):
        point = one.expected
        name = f"case {expectation.case.name} {one.repetition} {point.checkpoint.name}"
        bounds = f"{point.pairs_least * PAIR_KB} to {point.pairs_most * PAIR_KB} kB"
        dash = " " if kernel else " - "
        if one.read is None:
            yield f"ok {number}{dash}{name} # SKIP not read, expected {bounds}"
        elif one.problem:
            yield f"not ok {number}{dash}{name}"
            yield f"# {one.problem}; expected {bounds}"
        else:
            yield f"ok {number}{dash}{name}"
            yield f"# {one.read.kb} kB, expected {bounds}"
