"""Counterexamples of `dpamt verify` come true in C, on the vCPUs of a real kernel."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpamt.boot.exerciser import parse_exercise
from dpamt.boot.outcome import DYNAMIC, Booted
from dpamt.boot.schedule import exercise_of
from dpamt.cli.main import main

Boot = Callable[..., Booted]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Any]:
    """(design, trial, property) to the counterexample."""
    found = {}
    for design in ("v2", "v5"):
        for trial in ("one region", "two regions", "words"):
            file = tmp_path_factory.mktemp("kept") / "kept.json"
            assert main(["verify", design, "--trial", trial, "--save", str(file)]) == 1
            kept = json.loads(file.read_text())["designs"][0]["trials"][0]
            for one in kept["counterexamples"]:
                found[design, trial, one["broken"]] = one
    return found


@pytest.mark.parametrize(
    ("design", "trial", "broken", "caught"),
    [
        ("v2", "one region", "bad-remove", "bad-remove"),
        ("v2", "one region", "missing-pair", "missing-pair"),
        ("v2", "two regions", "at-rest", "at-rest"),
        ("v2", "words", "bad-remove", "bad-remove"),
        ("v5", "one region", "leak", "at-rest"),
        ("v5", "words", "at-rest", "at-rest"),
    ],
)
def test_the_same_steps_the_same_failure(
    design: str,
    trial: str,
    broken: str,
    caught: str,
    failures: dict[tuple[str, str, str], Any],
    booted: Boot,
    build: Path,
) -> None:
    found = failures[design, trial, broken]
    came = booted(
        replay=found,
        exercise=exercise_of(found, design),
        cpus=len(found["cpus"]),
        pamt=DYNAMIC,
        build=build,
    )
    assert came.followed is not None
    assert came.followed.is_same, came.followed.departure
    assert caught in {finding.partition(":")[0] for finding in came.findings}
    assert came.ended == "reboot"


def test_code_without_the_race_departs(
    failures: dict[tuple[str, str, str], Any], booted: Boot, build: Path
) -> None:
    """v6 does not do what v2 does: it is followed by its SEAMCALLs until its put waits for none."""
    found = failures["v2", "words", "bad-remove"]
    came = booted(
        replay=found, exercise=exercise_of(found, "v6"), cpus=2, pamt=DYNAMIC, build=build
    )
    assert came.followed is not None
    assert came.followed.departure
    assert {line.partition(":")[0] for line in came.findings} == {"replay"}


def test_hammered_without_a_schedule_v2_fails_by_luck_or_not(booted: Boot, build: Path) -> None:
    """Whatever comes of it is told by name, and the run ends."""
    exercise = parse_exercise("hammer:design=v2:threads=2:rounds=2000:use-every=50")
    came = booted(exercise=exercise, cpus=2, pamt=DYNAMIC, build=build, timeout=120.0)
    assert came.ended == "reboot"
    assert came.told is not None
    assert came.told.design == "v2"
