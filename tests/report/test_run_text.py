"""The text of a run: its width, and that it says what the facts say."""

from dataclasses import replace

import pytest

from dpamt.report.run_text import run_text
from dpamt.report.side_table import side_table
from dpamt.run.api import run_scenario
from dpamt.run.facts import RunFacts

SCENARIO = """
title = "A title that is rather long, for a scenario that is rather small, to see lines wrapped"
[host]
machine = "2GiB"
{sides}
[[td]]
name = "a-name-of-24-characters."
memory = "4MiB"
vcpus = 2
image = "12KiB"
share_2m = 0.5
[[phase]]
name = "a phase with a name that is quite long, and goes on until it does not fit a line"
steps = [{{ do = "build" }}, {{ do = "fault" }}, {{ do = "split" }}]
"""

NAMES = ("one", "a-name-of-24-characters.", "three", "four", "five")


def run(sides: int) -> RunFacts:
    parts = [
        f'[[side]]\nname = "{name}"\ndesign = "{("merged", "v2")[index % 2]}"\n'
        for index, name in enumerate(NAMES[:sides])
    ]
    return run_scenario(SCENARIO.format(sides="".join(parts)))


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return run(0)


@pytest.mark.parametrize("sides", [0, 1, 3, 5])
def test_80_columns_are_enough(sides: int) -> None:
    text = run_text(run(sides))
    wide = [line for line in text.split("\n") if len(line) > 80]
    assert wide == []
    assert text.endswith("\n")
    assert not any(line != line.rstrip() for line in text.split("\n"))


def test_every_kernel_log_line_of_the_boot_is_there(facts: RunFacts) -> None:
    text = run_text(facts)
    for side in facts.sides:
        for line in side.snapshots[0].log:
            assert line in text


def test_a_clean_run_says_so(facts: RunFacts) -> None:
    text = run_text(facts)
    assert "Audit: clean on every side" in text
    assert "FINDING" not in text
    assert "every one came back" in text


def test_findings_are_told_where_they_were_met_and_at_the_end(facts: RunFacts) -> None:
    side = facts.sides[1]
    bad = replace(side.snapshots[1], findings=("region 0x5: refcount 3, but no pair",))
    snapshots = (side.snapshots[0], bad, *side.snapshots[2:])
    sides = (facts.sides[0], replace(side, snapshots=snapshots))
    spoiled = replace(facts, sides=sides)
    assert not spoiled.clean
    text = run_text(spoiled)
    assert text.count("FINDING dynamic: region 0x5: refcount 3, but no pair") == 2
    assert "1 FINDINGS" not in text
    assert "Audit: clean" not in text


def test_a_table_goes_on_below_when_sides_do_not_fit() -> None:
    lines = list(side_table(["a", "b", "c", "d"], [("x", ["1", "2", "3", "4"])]))
    assert len(lines) == 5
    assert lines[1].split() == ["x", "1", "2", "3"]
    assert lines[4].split() == ["x", "4"]
