"""Properties of a user's file: what they cannot do to the verdict."""

from pathlib import Path

import pytest

from dpamt.cli.main import main
from dpamt.errors import InputError
from dpamt.host.designs.load import load_design
from dpamt.host.designs.untouched import members
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import SEAMCALL
from dpamt.verify.properties.from_file import load_properties, properties_of, with_custom
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify


@pytest.mark.parametrize("what", ["SystemExit(0)", "GeneratorExit", "ValueError(1)"])
def test_one_that_would_end_dpamt_is_an_error(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With SystemExit the command ended with exit code 0, and had said nothing."""
    file = tmp_path / "p.py"
    file.write_text(f"def boom(view):\n    raise {what}\n")
    assert main(["verify", "merged", "--cpus", "2", "--property", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"boom: {what.partition('(')[0]}" in " ".join(said.split())


def test_a_file_that_ends_while_it_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text("raise SystemExit(0)\n")
    with pytest.raises(InputError, match="SystemExit: 0; expected it to load"):
        load_properties(str(file))


def test_a_file_that_changes_dpamt(tmp_path: Path) -> None:
    before = members()
    file = tmp_path / "p.py"
    file.write_text(
        "from dpamt.sync import Word\nWord.load = len\ndef fine(view):\n    return True\n"
    )
    with pytest.raises(InputError, match=r"Word.load is changed; expected a design that leaves"):
        load_properties(str(file))
    assert members() == before


def test_one_that_changes_its_view_blinds_no_other(tmp_path: Path) -> None:
    file = tmp_path / "p.py"
    file.write_text(
        "def first(view):\n    view.counts.clear()\n    view.pairs.clear()\n    return True\n"
        "def second(view):\n    return not view.pairs\n"
        "first.always = second.always = True\n"
    )
    custom = load_properties(str(file))
    problem = with_custom(regions(load_design("merged"), (2,)), custom)
    said = verify(problem, (*properties(), *properties_of(custom)), SEAMCALL, 100_000)
    assert said.properties["first"] == "holds"
    assert said.properties["second"] == "fails"
