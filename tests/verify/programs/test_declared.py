"""Designs that leave something behind: they hold when they declare it, so far and no further."""

from pathlib import Path

import pytest

from dpamt.cli.main import main
from dpamt.host.designs.load import load_design
from dpamt.verify.programs.suite import SUITE
from dpamt.verify.properties.named import (
    AT_REST,
    BAD_REMOVE,
    CONTEXT,
    LEAK,
    LIVELOCK,
    LOCK_ORDER,
    properties,
)
from dpamt.verify.verdict import Verdict, verify

GIVEN = Path(__file__).parents[2] / "data" / "designs"
DESIGNS = GIVEN / "declared"
TRIALS = {trial.name: trial for trial in SUITE}
RIGHT = [
    *sorted(path.stem for path in DESIGNS.glob("right_*.py")),
    "right_keep_pair",
    "right_spare",
]


TOP = "DYNAMIC_PAMT: Final = True\n"
DECLARED = {
    "right_keep_pair": "PAIRS_MAY_STAY: Final = True\n",
    "right_spare": "SPARE_PAGES: Final = 2\n",
}


def text_of(name: str) -> str:
    """A design of the folder, or a given one with its declaration put at its top."""
    if name not in DECLARED:
        return (DESIGNS / f"{name}.py").read_text(encoding="utf-8")
    text = (GIVEN / f"{name}.py").read_text(encoding="utf-8")
    assert TOP in text
    return text.replace(TOP, TOP + DECLARED[name], 1)


def verdict(name: str, trial: str, tmp_path: Path) -> Verdict:
    path = tmp_path / f"{name}.py"
    path.write_text(text_of(name), encoding="utf-8")
    design = load_design(str(path))
    one = TRIALS[trial]
    return verify(one.make(design), properties(design.tolerated), one.granularity)


@pytest.mark.parametrize("trial", ["words", "crossed pairs", "no memory", "demote"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_ones_hold_and_say_what_they_declare(name: str, trial: str, tmp_path: Path) -> None:
    said = verdict(name, trial, tmp_path)
    assert said.verdict == "holds", said.counterexamples[0].text
    assert any(line.startswith("declared: ") for line in said.assumptions)


@pytest.mark.parametrize(
    ("name", "trial", "broken"),
    [
        ("wrong_keep_count", "words", {AT_REST, LEAK}),
        ("wrong_spare_each", "crossed pairs", {LEAK}),
        ("wrong_spare_twice", "two regions", {LEAK}),
        ("wrong_reaper_no_look", "words", {BAD_REMOVE}),
        ("wrong_reaper_again", "pages", {LIVELOCK}),
        ("wrong_rcu_no_bh", "words", {LOCK_ORDER}),
        ("wrong_rcu_sleeps", "words", {CONTEXT}),
        ("wrong_batches_undeclared", "words", {AT_REST, LEAK}),
        ("wrong_until_pressure_no_look", "no memory", {BAD_REMOVE}),
    ],
)
def test_wrong_ones_fail_by_name(name: str, trial: str, broken: set[str], tmp_path: Path) -> None:
    said = verdict(name, trial, tmp_path)
    assert broken <= {one for one, how in said.properties.items() if how == "fails"}


@pytest.mark.parametrize("name", ["right_keep_pair", "right_spare", "right_reaper"])
def test_without_its_declaration_it_fails(name: str, tmp_path: Path) -> None:
    text = text_of(name)
    for line in ("PAIRS_MAY_STAY: Final = True\n", "SPARE_PAGES: Final = 2\n"):
        text = text.replace(line, "")
    text = text.replace('REMOVAL: Final = "worker"\n', "")
    text = text.replace("def tdx_pamt_work(", "def _never_called(")
    path = tmp_path / "undeclared.py"
    path.write_text(text, encoding="utf-8")
    design = load_design(str(path))
    said = verify(TRIALS["words"].make(design), properties(), "words")
    assert said.properties[LEAK] == "fails"


def test_the_worker_is_declared_and_given_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    text = (DESIGNS / "right_reaper.py").read_text(encoding="utf-8")
    path.write_text(text.replace('REMOVAL: Final = "worker"\n', ""), encoding="utf-8")
    assert main(["verify", str(path)]) == 2
    assert "REMOVAL" in capsys.readouterr().err


def test_a_run_with_a_spare_pair_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs that stay are in the way of 2M pages there (docs/findings.md), spare ones are not."""
    assert main(["run", "--design", str(DESIGNS / "right_spare_reused.py")]) == 0
    capsys.readouterr()
