"""`dpamt decode` as a user meets it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dpamt.platform
from dpamt.cli.decode import _KINDS
from dpamt.cli.main import main
from dpamt.trace.decode import DECODERS

from .command import environment, refused

LOG = Path(dpamt.platform.__file__).parent / "data" / "module-too-old.dmesg"


def piped(text: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "dpamt", "decode", *arguments],
        input=text,
        capture_output=True,
        env=environment(),
        check=False,
    )


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["decode", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_line_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "0xc000050500000000", "0x22", "300", "TDX_OPERAND_BUSY")
    assert lines[0].startswith("0xc000050500000000  TDX_SYS_NOT_READY: class 0x05 system state")
    assert lines[1] == "0x22  leaf 34, TDH.SYS.RD; or exit reason 34, MSR_LOAD_FAIL"
    assert lines[2] == "300  nothing that the tables know"
    assert lines[3].startswith("TDX_OPERAND_BUSY 0x8000020000000000  TDX_OPERAND_BUSY")


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("status", "0x30", "TDX_SUCCESS, exit reason 48 EPT_VIOLATION"),
        ("leaf", "0x30", "leaf 48, TDH.SERVTD.BIND"),
        ("operand", "0x92", "operand id 146, SEPT_TREE"),
        ("page-info", "0x40200001", "page info: address 0x40200000, level 1 (2M)"),
        ("field", "0x0a00000300000008", "metadata field TDX_FEATURES0, 8 bytes"),
        ("exit", "0x30", "exit reason 48, EPT_VIOLATION"),
    ],
)
def test_a_value_is_what_it_is_said_to_be(
    kind: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "--as", kind, value) == [f"{value}  {told}"]


def test_the_kinds_are_those_of_the_decoder() -> None:
    assert tuple(DECODERS) == _KINDS


def test_a_log_through_standard_input() -> None:
    ended = piped(LOG.read_bytes())
    assert (ended.returncode, ended.stderr) == (0, b"")
    lines = ended.stdout.decode().splitlines()
    assert "    SEAMCALL 0x22  leaf 34, TDH.SYS.RD" in lines
    assert "    RDX      0x9100000100000008  metadata field MAX_TDMRS, 2 bytes" in lines
    assert any("TDX_SYS_NOT_READY" in line for line in lines)
    assert piped(LOG.read_bytes(), "-").stdout == ended.stdout


def test_any_bytes_are_a_log() -> None:
    ended = piped(b"\xff\xfe\x00 SEAMCALL (0x22) failed: 0xc000050500000000 \x80\n")
    assert ended.returncode == 0
    assert b"TDH.SYS.RD" in ended.stdout
    assert piped(b"").stdout.startswith(b"nothing here is a status")


def test_json_of_values_and_of_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decode", "--json", "0x22", "tdmr"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    first, second = document["values"]
    assert (first["asked"], first["value"]) == ("0x22", "0x22")
    assert [told["as"] for told in first["meanings"]] == ["leaf", "exit"]
    assert second["meanings"][0]["facts"] == {"operand": 185, "name": "TDMR"}
    log = json.loads(piped(LOG.read_bytes(), "--json").stdout)
    assert [line["line"] for line in log["lines"]] == [6, 7, 8]
    number = log["lines"][1]["numbers"][1]
    assert (number["name"], number["value"]) == ("RDX", "0x9100000100000008")


def test_the_page_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "decode.md").read_text(encoding="utf-8")
    assert piped(LOG.read_bytes()).stdout.decode() in page


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["zz"], "expected a number"),
        (["0x1", "0x11111111111111111"], "at most 64 bits"),
        (["--as", "thing", "1"], "--as"),
        (["--loud"], "--loud"),
    ],
)
def test_errors_are_one_line(arguments: list[str], told: str) -> None:
    assert told in refused("decode", *arguments)


def test_a_terminal_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["decode"]) == 2
    assert "expected a VALUE" in capsys.readouterr().err
