"""The driver of ``make mutants``: its sample, its interval, and what it makes of a file."""

from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason="comes with the extra mutants")

from tests.mutants import ROOT, SOURCE, Score, chosen, files_of, packages, wilson
from tests.mutants_made import mutants_of

CODE = """LIMIT = 3


class Box:
    full: bool = False

    def holds(self, number: int) -> bool:
        return number < LIMIT


def twice(number: int) -> int:
    return number * 2
"""


@pytest.mark.parametrize(
    ("killed", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (9, 10, 0.596, 0.982), (0, 10, 0.0, 0.278), (25, 25, 0.867, 1.0)],
)
def test_wilsons_interval(killed: int, of: int, low: float, high: float) -> None:
    """As in published tables of the interval (95 %)."""
    assert wilson(killed, of) == pytest.approx((low, high), abs=5e-4)
    assert Score("x", 100, killed, 3, of - killed).interval == wilson(killed, of)


def test_the_mutants_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "box.py").write_text(CODE)
    made = mutants_of(tmp_path, "box.py")
    changes = {mutant.change for mutant in made}
    assert "box: LIMIT = 3  ->  LIMIT = 4" in changes
    assert "box.Box.holds: return number < LIMIT  ->  return number <= LIMIT" in changes
    assert "box.twice: return number * 2  ->  return number / 2" in changes
    assert all(mutant.source != CODE for mutant in made)
    for mutant in made:
        compile(mutant.source, "box.py", "exec")
        lines = CODE.splitlines()
        assert mutant.change.partition(": ")[2].startswith(lines[mutant.first - 1].strip()[:4])
    [twice] = [mutant for mutant in made if mutant.change.endswith("number / 2")]
    assert (twice.first, twice.body) == (12, (11, 12))
    [limit] = [mutant for mutant in made if mutant.change.endswith("LIMIT = 4")]
    assert (limit.function, limit.body) == ("", (1, 13))


def test_a_sample_depends_on_its_seed_alone(tmp_path: Path) -> None:
    (tmp_path / "box.py").write_text(CODE)
    made = mutants_of(tmp_path, "box.py")
    one = chosen(made, 4, "7 box")
    assert one == chosen(made, 4, "7 box") != chosen(made, 4, "8 box")
    assert len(one) == 4
    assert chosen(made, 999, "7 box") == made


def test_each_file_is_in_one_package() -> None:
    files = [file for name in packages() for file in files_of(name)]
    assert sorted(files) == sorted(str(f.relative_to(SOURCE)) for f in SOURCE.rglob("*.py"))
    for name in packages():
        assert name == "top" or (ROOT / "tests" / name).is_dir()
