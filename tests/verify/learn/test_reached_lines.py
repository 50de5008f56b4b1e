"""The lines of a design that no thread came to are told, those that some thread ran are not."""

import sys
from pathlib import Path

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.explore.search import search_of
from dpamt.verify.learn.reached_lines import ReachedLines
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import APART, Choices
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify

ONE_LOCK = Path(__file__).parents[2] / "data" / "designs" / "one_lock.py"


def mine(tmp_path: Path, old: str, new: str) -> Path:
    text = ONE_LOCK.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def not_reached(path: Path, choices: Choices | None = None) -> list[str]:
    design = load_design(str(path))
    said = verify(regions(design, (2,), APART, choices), properties(), "seamcall")
    return [line.split(" ", 1)[1] for line in said.not_reached]


def test_a_branch_that_no_thread_takes_is_told_and_one_that_is_taken_is_not(tmp_path: Path) -> None:
    path = mine(tmp_path, "    count = refcount.load()\n", BRANCHES)
    left = not_reached(path)
    assert 'word = "never"' in left
    assert 'word = "always"' not in left
    assert not any(line.startswith(("lock.lock()", "def ", '"""')) for line in left)


BRANCHES = """    count = refcount.load()
    if count > 99:
        word = "never"
    else:
        word = "always"
    del word
"""


def test_an_error_path_is_reached_only_where_allocations_fail(tmp_path: Path) -> None:
    path = mine(tmp_path, "DYNAMIC_PAMT", "DYNAMIC_PAMT")
    assert "return -ENOMEM" in not_reached(path)
    assert "return -ENOMEM" not in not_reached(path, Choices(1))


def test_what_runs_only_without_dynamic_pamt_is_not_asked_for(tmp_path: Path) -> None:
    """Other conditions on the kernel are, and so is another kernel than the one that is given."""
    path = mine(tmp_path, "    count = refcount.load()\n", CONDITIONS)
    left = not_reached(path)
    assert 'word = "static"' not in left
    assert 'word = "static too"' not in left
    assert 'word = "either"' in left
    path = mine(tmp_path, "    count = refcount.load()\n", CONDITIONS + ANOTHER)
    assert 'word = "static"' in not_reached(path)


CONDITIONS = """    count = refcount.load()
    if not kernel.dynamic_pamt:
        word = "static"
        word = "static too"
    if not kernel.dynamic_pamt and count:
        word = "either"
"""
ANOTHER = """    kernel = kernel
"""


def test_a_tracer_of_the_users_is_put_back() -> None:
    def theirs(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(theirs)
    try:
        search = search_of(regions(load_design("merged"), (1,)), properties(), "seamcall")
        search.explore()
        assert sys.gettrace() is theirs
    finally:
        sys.settrace(before)
    assert isinstance(search.problem.recorder.lines, ReachedLines)
    assert search.problem.recorder.lines.lines


def test_the_text_is_that_of_the_file_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path names another file in another folder of the same process."""
    texts = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        lines = "\n" * (name == "b") + ONE_LOCK.read_text(encoding="utf-8")
        Path("mine.py").write_text(lines, encoding="utf-8")
        texts.append(set(not_reached(Path("mine.py"))))
    assert texts[0] == texts[1]
    assert "return -ENOMEM" in texts[0]
