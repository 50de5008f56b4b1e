"""Designs that were misjudged on 2026-11-29, through the command that a user runs."""

from pathlib import Path

import pytest

from dpamt.cli.main import main
from dpamt.host.designs.load import load_design
from tests.verify.judge.mutants import GIVEN

REFUSED = "wrong_tolerate_missing"
TOP = "DYNAMIC_PAMT: Final = True\n"
DECLARED = {
    "right_keep_pair": "PAIRS_MAY_STAY: Final = True\n",
    "right_spare": "SPARE_PAGES: Final = 2\n",
}
"""What stands at the top of a right design that keeps something, so that it holds."""


def designs(kind: str) -> list[str]:
    """Names of the given designs of a kind."""
    return [path.stem for path in sorted(GIVEN.glob(f"{kind}_*.py"))]


def test_all_of_them_load() -> None:
    """A design that was written against an earlier contract is not broken by a name that moved."""
    given = [path for path in GIVEN.rglob("*.py") if path.stem != REFUSED]
    assert len([load_design(str(path)) for path in given]) >= 17


def test_what_cannot_be_tolerated_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing pair that nobody mends: with the line that says so."""
    assert main(["verify", str(GIVEN / f"{REFUSED}.py")]) == 2
    assert f"{REFUSED}.py:7: TOLERATED: TDH.MEM.PAGE.AUG may answer" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in designs("wrong") if name != REFUSED])
def test_a_wrong_one_fails(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(GIVEN / f"{name}.py"), "--max-states", "100000"]) == 1
    told = capsys.readouterr()
    assert "FAILS" in told.out
    assert "NOT CONFIRMED" not in told.out


@pytest.mark.parametrize("name", designs("right"))
def test_a_right_one_holds(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its declaration, where it keeps something."""
    text = (GIVEN / f"{name}.py").read_text(encoding="utf-8")
    if name in DECLARED and DECLARED[name] not in text:
        text = text.replace(TOP, TOP + DECLARED[name], 1)
    file = tmp_path / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    assert main(["verify", str(file)]) == 0
    assert "HOLDS" in capsys.readouterr().out


@pytest.mark.parametrize("name", DECLARED)
def test_without_its_declaration_it_fails(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (GIVEN / f"{name}.py").read_text(encoding="utf-8")
    file = tmp_path / f"{name}.py"
    file.write_text(text.replace(DECLARED[name], ""), encoding="utf-8")
    assert main(["verify", str(file)]) == 1
    assert "leak" in capsys.readouterr().out
