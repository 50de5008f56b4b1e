"""What `--check` says: each difference is shown, and the last line is the answer."""

from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.report.verify_check import design_lines, last_line
from dpamt.verify.evidence.certificate import PYTHON


def tried(name: str, verdict: str, states: int, trial: str = "") -> Any:
    return SimpleNamespace(
        trial=SimpleNamespace(name=name),
        verdict=SimpleNamespace(verdict=verdict, states=states),
        asked=SimpleNamespace(trial=trial),
    )


TRIED = [tried("one region", "holds", 1_234_567, "one region"), tried("mine", "fails", 89)]


def test_every_trial_has_a_line_and_its_differences() -> None:
    text = design_lines("v2", (), TRIED, ["other code"], [[], ["states: 89, was 90", "word"]])
    assert text.splitlines() == [
        "v2, the whole suite: 2 trials",
        "  other code",
        "  one region: holds, 1,234,567 states: the same",
        "  mine: fails, 89 states: DIFFERS",
        "  states: 89, was 90",
        "  word",
    ]
    assert text.endswith("\n")


@pytest.mark.parametrize(
    ("left_out", "trials", "said"),
    [
        ((), TRIED, "the whole suite: 2 trials"),
        (("words", "own pair"), TRIED, "a part of the suite: without words, own pair"),
        (("words",), TRIED[1:], "no trial of the suite: 1 of its own"),
    ],
)
def test_how_much_of_the_suite_it_was(left_out: Any, trials: Any, said: str) -> None:
    lines = design_lines("v2", left_out, trials, [], [[] for _ in trials]).splitlines()
    assert lines[0] == f"v2, {said}"


def test_as_many_differences_as_trials() -> None:
    with pytest.raises(ValueError, match="zip"):
        design_lines("v2", (), TRIED, [], [[]])


def test_long_lines_are_wrapped_and_indented() -> None:
    text = design_lines("v2", tuple(f"trial {n}" for n in range(20)), TRIED, ["x " * 60], [[], []])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("  trial")
    assert any(line.startswith("    x") for line in lines)
    head = last_line(["y " * 60], True, (), PYTHON, True).splitlines()
    assert max(map(len, head)) <= 80
    assert [line[:5] for line in head[:2]] == ["  y y", "    y"]


@pytest.mark.parametrize(
    ("head", "wrong", "left_out", "answer"),
    [
        ((), False, [(), ()], "As the certificate says."),
        ((), False, [(), ("words",)], "As the certificate says, and it does not have the whole"),
        ((), True, [()], "DIFFERS from the certificate."),
        (("version",), False, [()], "DIFFERS from the certificate."),
        ((), True, [("words",)], "DIFFERS from the certificate."),
    ],
)
def test_the_last_line_is_the_answer(head: Any, wrong: bool, left_out: Any, answer: str) -> None:
    lines = last_line(head, wrong, left_out, PYTHON, True).splitlines()
    assert lines[-1].startswith(answer)
    assert lines[:-1] == [f"  {line}" for line in head]


def test_another_python_is_said() -> None:
    text = last_line((), False, [()], "3.99.1" + "x" * 99, False)
    said = " ".join(text.split())
    assert said.startswith(f"Made with Python 3.99.1{'x' * 14}, this is {PYTHON}: hashes of code")
    assert text.endswith("As the certificate says.\n")
    assert "Made with" not in last_line((), False, [()], "3.99.1", True)


def test_a_trial_is_of_the_suite_by_its_question() -> None:
    own = [replace_asked(one, "") for one in TRIED]
    assert "no trial of the suite: 2" in design_lines("v2", ("a",), own, [], [[], []])


def replace_asked(one: Any, trial: str) -> Any:
    return SimpleNamespace(**{**vars(one), "asked": SimpleNamespace(trial=trial)})
