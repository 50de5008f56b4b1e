"""`dpamt conform` as a user meets it: what it prints, its exit codes, its JSON."""

import copy
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpamt.cli.main import main

from .command import dpamt, environment

VECTORS = Path(__file__).parents[1] / "data" / "module-vectors.jsonl"
RACES = VECTORS.with_name("module-races.jsonl")
SCENARIOS: dict[str, dict[str, Any]] = {
    data["id"]: data for data in map(json.loads, VECTORS.read_text().splitlines())
}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """One scenario that agrees, two that do not, and a race."""
    wrong = copy.deepcopy(SCENARIOS["D001"])
    wrong["id"] = "X1"
    wrong["calls"][1]["expect"] = {"status": "0x8000020000000001", "rdx": "0x5"}
    left = copy.deepcopy(SCENARIOS["D001"])
    left["id"] = "X2"
    left["final"]["entries"][0]["count"] = 7
    pair = json.loads(RACES.read_text().splitlines()[0])
    path = tmp_path / "three.jsonl"
    lines = [SCENARIOS["D003"], wrong, left, pair]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_all_recorded_scenarios_agree() -> None:
    ended = dpamt("conform", str(VECTORS))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{VECTORS}: 121 of 121 agree with module 1.5.25\n"


def test_a_disagreement_is_told_well(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", str(three), str(three)]) == 1
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert "X1 differs: PAMT.ADD success and what RDMD then shows" in lines
    assert "  calls[1] of 9:" in lines
    assert "    TDH.PHYMEM.PAMT.ADD(rcx=0x100200001, rdx=0x101000000, r8=0x101001000)" in lines
    assert "  recorded: 0x8000020000000001 TDX_OPERAND_BUSY, operand RCX" in lines
    assert "  model:    0x0 TDX_SUCCESS" in lines
    assert "  rdx:      recorded 0x5, model 0x101000000" in lines
    assert "  why:      none of the model's checks refused the call" in lines
    assert "'count': 7" in text
    assert lines.count(f"{three}: 1 of 3 agree with module 1.5.25") == 2
    assert lines.count(f"{three}: 1 of 1 races agree with module 1.5.25") == 2
    assert lines[-1] == "total: 2 of 6 and 2 of 2 races agree with module 1.5.25"


def test_all_recorded_races_agree() -> None:
    ended = dpamt("conform", str(RACES))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        f"{RACES}: 22 of 22 races agree with module 1.5.25\n"
        "  every schedule explored: 76 of 76 recorded outcomes reached, 0 others\n"
    )


def test_a_race_that_differs_is_told_with_a_way_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = map(json.loads, RACES.read_text().splitlines())
    race = next(race for race in lines if race["id"] == "C021")
    race["outcomes"][0]["b"]["status"] = "0x1"
    race["outcomes"].pop()
    path = tmp_path / "race.jsonl"
    path.write_text(json.dumps(race) + "\n")
    assert main(["conform", str(path)]) == 1
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines() if str(path) not in line)
    told = " ".join(text.split())
    assert "C021 differs: PAGE.REMOVE of the last page || PAMT.REMOVE" in told
    assert "recorded, and reached by no schedule:" in told
    assert "b: 0x1 " in told
    assert "a: unfinished b: shutdown of the module" in told
    assert "1 switch at atomic operations are enough and the recording tried 2" in told
    assert "CPU1: TDX module fatal error" in told
    assert main(["conform", "--json", str(path)]) == 1
    (found,) = json.loads(capsys.readouterr().out)["files"][0]["races"]
    assert (found["agrees"], found["recorded"], found["reached"]) == (False, 2, 3)
    assert found["missed"][0]["b"]["status"] == "0x1"
    assert {extra["b"]["text"] for extra in found["beyond"]} == {
        "shutdown of the module",
        "0xc000030600000000 TDX_PAMT_PAGE_NOT_EMPTY, page 0 of the pair rcx=0x100200001",
    }
    assert found["beyond"][0]["schedule"]["steps"]


def test_the_reason_of_a_refusal(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recorded success that the model refuses: function, place, condition, numbers."""
    data = copy.deepcopy(SCENARIOS["D001"])
    data["calls"][1]["rdx"] = "0x101000123"
    three.write_text(json.dumps(data) + "\n")
    assert main(["conform", str(three)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "model: 0xc000010000000002 TDX_OPERAND_INVALID, operand RDX" in text
    assert "why: tdh_phymem_pamt_add > _pair_operand (module/leaves/phymem_pamt.py:" in text
    assert "hpa = 0x101000123" in text


def test_another_release_differs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(SCENARIOS["D053"]) + "\n")
    assert main(["conform", str(path), "--release", "2.0.18"]) == 1
    assert "0 of 1 agree with module 2.0.18" in capsys.readouterr().out
    assert main(["conform", str(path), "--release", "3.0"]) == 2
    assert "3.0" in capsys.readouterr().err


def test_json_tells_the_same(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--json", str(three)]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["clean"] is False
    (file,) = document["files"]
    assert (file["replayed"], file["agree"]) == (3, 1)
    assert [(race["id"], race["agrees"]) for race in file["races"]] == [("C001", True)]
    first, second = file["differences"]
    assert first["id"] == "X1"
    assert first["call"]["index"] == 1
    assert first["call"]["recorded"]["status"] == "0x8000020000000001"
    assert first["call"]["model"]["registers"] == {"rdx": "0x101000000"}
    assert first["final"] == []
    assert second["call"] is None
    assert "count" in second["final"][0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "no scenario"),
        ('{"id": 5}\n', ":1: no 'title'"),
        ("nonsense", ":1: column 1: "),
    ],
)
def test_bad_input_is_one_line(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is replayed: a good file in front of a bad one prints nothing."""
    path = tmp_path / "bad.jsonl"
    if text is not None:
        path.write_text(text)
    assert main(["conform", str(VECTORS), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"dpamt: {path}")
    assert told in captured.err
    assert captured.err.count("\n") == 1


def test_the_page_names_every_key_of_the_document(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["conform", "--json", str(three)])
    page = (Path(__file__).parents[2] / "docs" / "vectors.md").read_text(encoding="utf-8")
    for key in keys_of(json.loads(capsys.readouterr().out)) - {"rdx"}:
        assert f"`{key}`" in page, key


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_no_file_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform"]) == 2
    assert "FILE.jsonl" in capsys.readouterr().err


def test_progress_is_shown_on_a_terminal_only() -> None:
    read_end, write_end = pty.openpty()
    running = subprocess.run(
        [sys.executable, "-m", "dpamt", "conform", str(VECTORS)],
        stdout=subprocess.PIPE,
        stderr=write_end,
        env={**environment(), "TERM": "xterm"},
        check=False,
    )
    os.close(write_end)
    shown = os.read(read_end, 65536)
    os.close(read_end)
    assert running.returncode == 0
    assert b"module-vectors.jsonl: scenario: " in shown
    assert running.stdout.endswith(b"121 of 121 agree with module 1.5.25\n")
