"""Expectations as text and TAP: their numbers are those of the document, and a model outside of its
range is told."""

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.plan.counted import InUseNow
from dpamt.plan.expect.cases import case_of
from dpamt.plan.expect.check import Checked, check, parse_checks
from dpamt.plan.expect.expected import Expectation, expect
from dpamt.plan.expect.ran import RanPoint
from dpamt.plan.expect.td_range import InUse
from dpamt.platform.size import machine_from_size
from dpamt.report.expect_data import expect_json, tap_lines
from dpamt.report.expect_text import expect_text, outside
from dpamt.report.plan_counted import counted_json, counted_text
from dpamt.run.facts import TdFacts

from .read_back import cells, number, section, shows


@cache
def expectation(number_: int = 5, host: bool = True, least: float = 0.25, unit: int = 1 << 24,
                design: str = "merged") -> Expectation:  # fmt: skip
    machine = machine_from_size("4GiB") if host else None
    return expect(case_of(number_, unit), host=machine, in_use=InUse(least, 1.0), design=design)


def ran(one: Expectation, repetition: int = 1) -> list[RanPoint]:
    """A model that is right."""
    return [
        RanPoint(
            repetition,
            point.checkpoint.name,
            TdFacts(
                len(point.checkpoint.alive),
                point.pages_most.guest_4k,
                0,
                point.pages_most.sept,
                point.pages_most.control,
            ),
            point.pairs_least,
            (),
        )
        for point in one.checkpoints
    ]


def document(one: Expectation, points: Any = None, checked: tuple[Checked, ...] = ()) -> Any:
    return json.loads(json.dumps(expect_json(one, points, checked)))


def flat(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(("host", "least"), [(True, 0.25), (False, 0.25), (True, 1.0)])
def test_the_ranges_are_those_of_the_document(host: bool, least: float) -> None:
    one = expectation(host=host, least=least)
    said = document(one)
    text = expect_text(one, None, ())
    pairs = section(text, "Page pairs, and KB")
    assert cells(pairs[0]) == ["checkpoint", "least", "fresh host", "most"]
    for line, point in zip(pairs[1:], said["checkpoints"], strict=True):
        name, *columns = cells(line)
        assert name == point["name"]
        for cell, bound in zip(columns, ("least", "fresh", "most"), strict=True):
            count, kb = point["pairs"][bound], point["kb"][bound]
            assert cell == ("-" if count is None else f"{count:,} ({kb:,})")
            assert kb == (None if count is None else 8 * count)
        assert len(line) == len(pairs[0])
    pages = section(text, "Pages of the TDs alive")
    assert cells(pages[0]) == ["checkpoint", "control", "S-EPT", "guest memory"]
    alive = [point for point in said["checkpoints"] if point["alive"]]
    for line, point in zip(pages[1:], alive, strict=True):
        name, control, sept, guest = cells(line)
        assert name == point["name"]
        assert control == f"{point['control_pages']:,} ({4 * point['control_pages']:,})"
        ends = [point[bound]["sept_pages"] for bound in ("least", "most")]
        shown = re.fullmatch(r"([\d,-]+) \(([\d,-]+)\)", sept)
        assert shown is not None
        for part, wanted in ((shown[1], ends), (shown[2], [4 * end for end in ends])):
            assert part.replace(",", "") == "-".join(dict.fromkeys(map(str, wanted)))
        sizes = [
            4096 * point[bound]["guest_4k"] + (1 << 21) * point[bound]["guest_2m"]
            for bound in ("least", "most")
        ]
        parts = guest.split(" - ")
        assert len(parts) == len(set(sizes))
        assert shows(parts[0], sizes[0])
        assert shows(parts[-1], sizes[1])
        assert len(line) == len(pages[0])


def test_what_is_taken_for_granted() -> None:
    text = flat(expect_text(expectation(), None, ()).split("\n"))
    assert "Between 25 % and 100 % of the guests' memory is in use" in text
    assert "Host: 4GiB, 2,048 regions of 2M." in text
    assert "Kernel design merged. TDX module 2.0.18." in text
    whole = flat(expect_text(expectation(host=False, least=1.0), None, ()).split("\n"))
    assert "100 % of the guests' memory is in use" in whole
    assert "Between" not in whole
    assert "No host given (--host)" in whole
    static = flat(expect_text(expectation(design="static"), None, ()).split("\n"))
    assert "Kernel design static: it never asks for Dynamic PAMT" in static
    assert "All of it" not in text
    many = expectation(10)
    times = many.case.repeat
    assert times > 1
    assert f"All of it {times} times, the same each time." in expect_text(many, None, ())


def test_nothing_alive_has_no_table_of_pages() -> None:
    idle = expectation(0)
    assert not any(point.checkpoint.alive for point in idle.checkpoints)
    assert "Pages of the TDs alive" not in expect_text(idle, None, ())


def test_what_ran_is_shown() -> None:
    one = expectation()
    points = ran(one)
    lines = section(expect_text(one, points, ()), "The same, run on the model")
    assert cells(lines[0]) == ["checkpoint", "page pairs (KB)", "control", "S-EPT", "4K pages"]
    for line, point in zip(lines[1:-1], points, strict=True):
        name, pairs, *counts = cells(line)
        assert (name, pairs) == (point.checkpoint, f"{point.pairs:,} ({8 * point.pairs:,})")
        wanted = (point.tds.control, point.tds.sept, point.tds.guest_4k)
        assert tuple(number(cell).value for cell in counts) == wanted
        assert len(line) == len(lines[0])
    assert lines[-1] == "  Every number is inside its range; every audit is clean."
    many = expectation(10)
    repeated = section(expect_text(many, ran(many, 2), ()), "The same, run on the model")
    assert cells(repeated[1])[0] == "2: idle"
    assert "run on the model" not in expect_text(one, None, ())


@pytest.mark.parametrize(
    ("what", "by", "wrong"),
    [
        ("pairs_least", 0, False), ("pairs_least", -1, True),
        ("pairs_most", 0, False), ("pairs_most", 1, True),
        ("control", 1, True), ("control", -1, True),
        ("sept_least", 0, False), ("sept_least", -1, True),
        ("sept_most", 0, False), ("sept_most", 1, True),
        ("finding", 0, True),
    ],
)  # fmt: skip
def test_a_model_outside_of_its_range_is_told(what: str, by: int, wrong: bool) -> None:
    one = expectation()
    bound = one.checkpoints[1]
    point = ran(one)[1]
    if what.startswith("pairs"):
        now = getattr(bound, what) + by
        spoilt = replace(point, pairs=now)
        said = f"{now} page pairs; expected {bound.pairs_least} to {bound.pairs_most}"
    elif what == "control":
        now = point.tds.control + by
        spoilt = replace(point, tds=replace(point.tds, control=now))
        said = f"{now} control pages; expected {point.tds.control}"
    elif what.startswith("sept"):
        low, high = bound.pages_least.sept, bound.pages_most.sept
        now = {"sept_least": low, "sept_most": high}[what] + by
        spoilt = replace(point, tds=replace(point.tds, sept=now))
        said = f"{now} S-EPT pages; expected {low} to {high}"
    else:
        spoilt = replace(point, findings=("a leak",))
        said = "a leak"
    points = [ran(one)[0], spoilt]
    expected = [f"1: launched: {said}"] if wrong else []
    assert outside(one, points) == expected
    text = flat(expect_text(one, points, ()).split("\n"))
    assert all(f"WRONG: {line}" in text for line in expected)
    assert ("every audit is clean" in text) is not wrong


def checked(*texts: str) -> tuple[Expectation, list[Checked]]:
    one = expectation(10)
    return one, check(one, parse_checks(texts))


def test_what_was_read_and_what_cannot_be() -> None:
    one, good = checked("vm2-closed=0")
    lines = section(expect_text(one, None, good), "What you read")
    assert lines[0] == "  ok     1: vm2-closed: 0 kB"
    assert lines[1] == f"All 1 numbers are possible; {len(good) - 1} checkpoints were not read."
    one, bad = checked("vm2-closed=0", "vm2-closed=8", "idle=0")
    text = flat(section(expect_text(one, None, bad), "What you read"))
    assert "NOT OK 2: vm2-closed: 8 kB are left" in text
    assert f"1 of 3 numbers cannot be so; {len(bad) - 3} checkpoints were not read." in text
    one, all_but = checked(*["idle=0", "vm2-closed=0"] * one.case.repeat)
    left = sum(each.read is None for each in all_but)
    assert f"possible; {left} checkpoints were not read." in expect_text(one, None, all_but)
    first = check(expectation(0), parse_checks(["idle=0"]))
    assert "All 1 numbers are possible.\n" in expect_text(expectation(0), None, first)
    assert "What you read" not in expect_text(one, None, check(one, []))
    assert document(one, None, tuple(bad))["ok"] is False
    assert document(one, None, tuple(good))["ok"] is True
    rows = document(one, None, tuple(bad))["checked"]
    for row, each in zip(rows, bad, strict=True):
        read = each.read
        assert row == {
            "repetition": each.repetition,
            "checkpoint": each.expected.checkpoint.name,
            "kb": read and read.kb,
            "ok": None if read is None else not each.problem,
            "problem": each.problem,
        }


@pytest.mark.parametrize("kernel", [False, True])
def test_tap_has_a_test_for_each_checkpoint(kernel: bool) -> None:
    one, every = checked("vm2-closed=0", "vm2-closed=8", "launched=8")
    head, plan, *lines = tap_lines(one, every, kernel)
    assert head == ("KTAP version 1" if kernel else "TAP version 13")
    assert plan == f"1..{len(every)}"
    tests = [line for line in lines if not line.startswith("#")]
    comments = [line for line in lines if line.startswith("#")]
    pattern = re.compile(
        rf"(not )?ok (\d+){' ' if kernel else ' - '}case 10 (\d+) (\S+)( # SKIP .*)?"
    )
    for at, (line, each) in enumerate(zip(tests, every, strict=True), 1):
        found = pattern.fullmatch(line)
        assert found is not None, line
        assert (bool(found[1]), int(found[2])) == (bool(each.problem), at)
        assert (int(found[3]), found[4]) == (each.repetition, each.expected.checkpoint.name)
        bounds = f"{8 * each.expected.pairs_least} to {8 * each.expected.pairs_most} kB"
        if each.read is None:
            assert found[5] == f" # SKIP not read, expected {bounds}"
        else:
            told = each.problem or f"{each.read.kb} kB"
            joint = "; " if each.problem else ", "
            assert comments.pop(0) == f"# {told}{joint}expected {bounds}"
    assert comments == []


def test_the_rest_of_the_document() -> None:
    one = expectation()
    said = document(one, ran(one))
    assert said["in_use"] == [0.25, 1.0]
    assert (said["case"], said["repeat"], said["regions"]) == ("5", 1, 2048)
    assert (said["design"], said["module"], said["layout"]) == ("merged", "2.0.18", "contiguous")
    assert [td["memory"] for td in said["tds"]] == [1 << 24] * 2
    assert [point["pairs"] for point in said["ran"]] == [each.pairs for each in ran(one)]
    other = document(expectation(host=False))
    assert (other["host"], other["regions"], other["ran"]) == (None, None, None)


COUNTS = st.integers(0, 1 << 40)


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 1 << 24), st.integers(1, 1 << 33))
def test_pamt_in_use_now(one: int, two: int, four: int, pairs: int, pages: int) -> None:
    now = InUseNow(one, two, four, pairs, min(pages, 512 * pairs), ())
    text = counted_text(now, "counts.json")
    title, rule, *lines = text.splitlines()
    assert title == "In use now, by the kernel's counters in counts.json"
    assert rule == "=" * len(title)
    assert lines[0] == "  The kernel's TDMRs and their PAMT are those of the plan."
    plural = "" if pairs == 1 else "s"
    rows = {line[2:38].strip(): line[38:].strip() for line in lines[1:6]}
    labels = [
        "1G level",
        "2M level",
        "page bitmap, or 4K level",
        f"{pairs:,} page pair{plural}",
        "all",
    ]
    assert list(rows) == labels
    sizes = (one, two, four, 8192 * pairs, one + two + four + 8192 * pairs)
    for cell, size in zip(rows.values(), sizes, strict=True):
        assert shows(cell, size)
    assert len({len(line) for line in lines[1:6]}) == 1
    said = flat(lines[6:])
    assert bool(said) == (pairs > 0)
    if pairs:
        found = re.fullmatch(
            r"([\d,]+) pages of 4K are in use in these regions, (\S+ %) of them; packed together "
            r"they would need ([\d,]+) page pairs?\.",
            said,
        )
        assert found is not None
        assert shows(found[1], now.pages)
        assert shows(found[2], now.pages / (512 * pairs))
        packed = number(found[3]).value
        assert 512 * (packed - 1) < now.pages <= 512 * packed
        assert said.endswith("page pair." if packed == 1 else "page pairs.")
    kinds = {"level_1g": one, "level_2m": two, "level_4k_or_bitmap": four, "pairs": pairs}
    kinds |= {"pair_bytes": 8192 * pairs, "pages": now.pages, "pairs_if_packed": now.packed}
    more = {"source": "counts.json", "all": sizes[-1], "differences": []}
    assert counted_json(now, "counts.json") == kinds | more


def test_what_differs_from_the_plan_is_said() -> None:
    now = InUseNow(0, 0, 0, 0, 0, ("another host", "a count below 0"))
    assert "  DIFFERS from the plan: another host; a count below 0." in counted_text(now, "x")
    assert counted_json(now, "x")["differences"] == ["another host", "a count below 0"]
