"""Several designs at once: each has its verdict, whatever its name and whatever comes first."""

import json
from itertools import permutations
from pathlib import Path

import pytest

from dpamt.host.designs import merged

from .command import dpamt, refused

GOOD = Path(merged.__file__)


@pytest.mark.parametrize("names", list(permutations(("./v2.py", "v2", "./other/v2.py"))))
def test_a_file_that_is_called_as_a_design_of_dpamt(names: tuple[str, ...], tmp_path: Path) -> None:
    """Somebody's own v2 beside the one it began as: neither may take the place of the other."""
    (tmp_path / "other").mkdir()
    for file in ("v2.py", "other/v2.py"):
        (tmp_path / file).write_text(GOOD.read_text(encoding="utf-8"), encoding="utf-8")
    words = ("verify", *names, "--cpus", "2")
    text = dpamt(*words, cwd=tmp_path)
    document = dpamt(*words, "--json", cwd=tmp_path)
    assert text.code == document.code == 1
    verdicts = {
        one["design"]: {trial["verdict"] for trial in one["trials"]}
        for one in json.loads(document.out)["designs"]
    }
    assert verdicts == {"./v2.py": {"holds"}, "v2": {"fails"}, "./other/v2.py": {"holds"}}
    assert "./v2.py: HOLDS" in text.out
    assert "\nv2: FAILS" in text.out


def test_a_design_given_twice() -> None:
    line = refused("verify", "merged", "v2", "merged", "--cpus", "2")
    assert line == "merged: given twice; expected each design once"
