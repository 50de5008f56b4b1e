"""A failure found in a kernel's machine code, made to happen at the same instructions of it."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dpamt.cli.main import main
from tests.boot.kernel.test_dynamic_kernel import dynamic, with_v2s_put

__all__ = ["dynamic", "with_v2s_put"]

BROKEN = "bad-remove"
SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.fixture(scope="module")
def kept(with_v2s_put: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("kept") / "kept.json"
    given = ["--vmlinux", str(with_v2s_put / "vmlinux"), "--cpus", "2", "--save", str(file)]
    assert main(["verify", *given]) == 1
    return file


def replay(build: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    given = ["--vmlinux", str(build / "vmlinux"), "--replay", str(file), "--property", BROKEN]
    assert main(["boot", *given, "--timeout", "60", "--json"]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, json.loads((SCHEMAS / "boot.schema.json").read_text()))
    return found


def test_v2s_put_removes_a_pair_twice_on_the_booted_kernel(
    with_v2s_put: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replay(with_v2s_put, kept, capsys)
    followed = found["replay"]
    assert followed["same"], followed["departure"]
    said = [step for step in followed["steps"] if step["address"] is None]
    last = "TDH.PHYMEM.PAMT.REMOVE", "TDX_NO_PAMT_PAGE_PAIR"
    assert (said[-1]["what"], said[-1]["result"]) == last
    assert any(finding.startswith(f"{BROKEN}: ") for finding in found["findings"])
    words = [step for step in followed["steps"] if step["before"] is not None]
    assert len(words) >= 15
    counts = [step for step in words if step["word"].startswith("dpamt_refcounts[")]
    assert len({step["word_address"] for step in counts}) == 1
    down = [step for step in counts if "tdx_pamt_put" in step["site"] and "dec" in step["site"]]
    assert [(step["cpu"], step["before"], step["after"]) for step in down] == [(1, 1, 0), (0, 1, 0)]
    assert {step["site"].split("+")[0] for step in words} == {"tdx_pamt_get", "tdx_pamt_put"}


def test_a_schedule_that_no_cpu_follows_is_left_at_its_step(
    with_v2s_put: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One value is another one: of the put that is to find a count of 2 instead of 1."""
    changed = json.loads(kept.read_text())
    trial = changed["designs"][0]["trials"][0]
    one = next(found for found in trial["counterexamples"] if found["broken"] == BROKEN)
    step = next(step for step in one["steps"] if step["result"] == 1 and step["address"])
    step["result"] = 2
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(changed))
    found = replay(with_v2s_put, file, capsys)
    followed = found["replay"]
    assert not followed["same"]
    where = f"CPU {step['cpu']}, step {step['at']}: {step['method']} at {step['function']}"
    assert followed["departure"].startswith(where)
    assert followed["departure"].endswith("2; on the vCPU it is 1")
    assert followed["steps"][-1]["at"] == step["at"]


def test_of_another_image(dynamic: Path, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--vmlinux", str(dynamic / "vmlinux"), "--build", str(dynamic)]
    assert main(["boot", *given, "--replay", str(kept)]) == 2
    said = capsys.readouterr().err
    assert "expected the image of the counterexample" in said
    assert said.count("\n") == 1
