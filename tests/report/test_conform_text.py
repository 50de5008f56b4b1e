"""The texts of a conformance report that the recorded scenarios do not bring up."""

from pathlib import Path

from dpamt.report.conform_text import FileResult, conform_json, conform_text
from dpamt.trace.vector_file import Scenario, VectorFile
from dpamt.trace.vectors import SHUTDOWN, Answer, CallDifference, Replay

SCENARIO = Scenario("v.jsonl:1", "X", "a title", {}, [{}, {}], {})
CALL = "TDH.MEM.TRACK(rcx=0x1000)"
OK = Answer(0, {})


def report(replay: Replay) -> list[str]:
    file = VectorFile(Path("v.jsonl"), (SCENARIO,), ())
    text = conform_text([FileResult(file, [replay], [])], "1.5.25")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert conform_json([FileResult(file, [replay], [])], "1.5.25")["clean"] is False
    return text.splitlines()


def differs(recorded: Answer, given: Answer, repetition: int = 0, shutdown: str = "") -> Replay:
    difference = CallDifference(1, repetition, CALL, recorded, given, None, shutdown)
    return Replay("X", "a title", 2, difference, ())


def test_a_refused_set_up() -> None:
    lines = report(Replay("X", "a title", 0, None, (), "leaf 45 gave TDX_INVALID_TDMR"))
    assert lines[:2] == ["X differs: a title", "  leaf 45 gave TDX_INVALID_TDMR"]


def test_a_shutdown_of_the_model_alone() -> None:
    lines = report(differs(OK, Answer(None, {}, SHUTDOWN), 7, "TDX module fatal error: a reason"))
    assert "  calls[1] of 2, repetition 7:" in lines
    assert "  recorded: 0x0 TDX_SUCCESS" in lines
    assert f"  model:    {SHUTDOWN}" in lines
    assert "  why:      TDX module fatal error: a reason" in lines


def test_a_shutdown_recorded_alone_and_a_guest_that_left() -> None:
    lines = report(differs(Answer(None, {}, SHUTDOWN), OK))
    assert f"  recorded: {SHUTDOWN}" in lines
    assert "  why:      none of the model's checks refused the call" in lines
    lines = report(differs(OK, Answer(None, {}, "TD exit: EPT violation at 0x1000")))
    assert "  model:    TD exit: EPT violation at 0x1000" in lines
    assert "  why:      the guest left in the middle of its call" in lines


def test_many_differences_left_behind_are_cut_short() -> None:
    found = tuple(
        f"TD {index:#x}: recorded None, is something " + "long " * 20 for index in range(12)
    )
    lines = report(Replay("X", "a title", 2, None, found))
    assert "  every call agrees; what they leave behind does not:" in lines
    assert "  and 4 differences more" in lines
    assert sum(line.startswith("  TD 0x") for line in lines) == 8
