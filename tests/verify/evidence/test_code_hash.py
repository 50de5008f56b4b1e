"""Hashes of a design: whatever could change what it does changes them, and nothing else."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpamt.host.designs import merged
from dpamt.host.designs.load import load_design
from dpamt.verify.evidence.code_hash import design_hash, dpamt_hash, functions_hash
from dpamt.verify.properties.from_file import load_properties

MERGED = Path(merged.__file__).read_text(encoding="utf-8")
MORE = """

LIMIT = 3
TABLE = {"a": (1, frozenset({2, 3})), "b": [True]}
TOLERATED = ()


class Helper:
    step = 1

    def __init__(self, by=LIMIT):
        self.by = by

    def more(self, n):
        return n + self.by * self.step


HELPER = Helper()


def between(count, most=7):
    def inner(n):
        return n + 5
    return inner(count) if count < most else HELPER.more(count)


def far():
    import a_helper_of_the_tests as there
    return there.value()
"""
USED = MERGED.replace("    if count > 1:\n", "    count = between(count)\n    if count > 1:\n")
assert USED != MERGED


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Path]:
    """A folder that modules are found in."""
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    sys.modules.pop("a_helper_of_the_tests", None)


def hash_of(folder: Path, text: str, name: str = "mine.py") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return design_hash(load_design(str(file)))


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("LIMIT = 3\n", "LIMIT = 4\n"),
        ("LIMIT = 3\n", "LIMIT = 3.0\n"),
        ('"a": (1, f', '"a": (True, f'),
        ("frozenset({2, 3})", "frozenset({2, 4})"),
        ('"b": [True]', '"b": [1]'),
        ("TOLERATED = ()\n", "TOLERATED = ((58, 0xC000030400000000),)\n"),
        ("    step = 1\n", "    step = 2\n"),
        ("by=LIMIT", "by=2"),
        ("n + self.by * self.step", "n - self.by * self.step"),
        ("most=7", "most=8"),
        ("return n + 5", "return n + 6"),
        ("count < most", "count > most"),
        ("HELPER = Helper()", "HELPER = Helper(9)"),
        ("import a_helper_of_the_tests", "import b_helper_of_the_tests"),
    ],
)
def test_what_could_matter_is_in_it(tmp_path: Path, line: str, changed: str) -> None:
    text = USED + MORE
    assert text.count(line) == 1
    assert hash_of(tmp_path, text) != hash_of(tmp_path, text.replace(line, changed))


def test_a_value_that_comes_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is the same, and what it defines is not."""
    text = USED + MORE + "\n\nimport os\nFROM_OUTSIDE = int(os.environ['A_NUMBER'])\n"
    said = set()
    for number in ("1", "2", "1"):
        monkeypatch.setenv("A_NUMBER", number)
        said.add(hash_of(tmp_path, text))
    assert len(said) == 2


def test_a_helper_module_that_a_function_imports(beside: Path) -> None:
    text = USED + MORE
    said = set()
    for value in (1, 2, 1):
        (beside / "a_helper_of_the_tests.py").write_text(f"def value():\n    return {value}\n")
        sys.modules.pop("a_helper_of_the_tests", None)
        for cached in (beside / "__pycache__").glob("*"):
            cached.unlink()
        __import__("a_helper_of_the_tests")
        said.add(hash_of(beside, text))
    assert len(said) == 2


def test_what_says_nothing_is_not_in_it(tmp_path: Path) -> None:
    text = USED + MORE
    there = tmp_path / "there"
    there.mkdir()
    commented = text.replace("LIMIT = 3\n", "# as many as it takes\n\nLIMIT = 3  # three\n")
    same = {hash_of(tmp_path, text), hash_of(there, text, "yours.py"), hash_of(tmp_path, commented)}
    assert len(same) == 1


def test_designs_of_dpamt_differ() -> None:
    assert design_hash(load_design("v6")) != design_hash(load_design("merged"))
    assert design_hash(load_design("v6")) == design_hash(load_design("v6"))
    assert dpamt_hash() == dpamt_hash() != design_hash(load_design("v6"))


def test_properties(tmp_path: Path) -> None:
    said = []
    for most in (1, 2, 1):
        file = tmp_path / "p.py"
        file.write_text(f"MOST = {most}\n\n\ndef few(view):\n    return len(view.pairs) < MOST\n")
        said.append(functions_hash(one.predicate for one in load_properties(str(file))))
    assert said[0] == said[2] != said[1]
