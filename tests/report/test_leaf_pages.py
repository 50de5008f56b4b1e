"""docs/leaves is what the code makes of itself."""

import re
from pathlib import Path

import pytest

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.errors import InputError
from dpamt.module.leaves.table import HANDLERS
from dpamt.report.leaf_pages import main, pages

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "leaves"
PAGES = pages()


def test_there_is_a_page_for_each_leaf_and_no_other() -> None:
    names = {LEAF_NAMES[leaf].lower().replace(".", "-") + ".md" for leaf in HANDLERS}
    assert set(PAGES) == names | {"README.md"}
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_have_not_drifted(name: str) -> None:
    """`make docs` writes them anew."""
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name]


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve_and_tables_are_even(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[name]):
        assert (FOLDER / target).exists(), target
    width = 0
    for line in PAGES[name].splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not width or not cells or cells == width, line
        width = cells


def test_what_is_no_more_goes_away(tmp_path: Path) -> None:
    made = PAGES["tdh-sys-rd.md"]
    (tmp_path / "tdh-gone.md").write_text(made, encoding="utf-8")
    (tmp_path / "mine.md").write_text("kept")
    main([str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {*PAGES, "mine.md"}
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == PAGES["README.md"]


@pytest.mark.parametrize("name", ["tdh-notes.md", "tdh-sys-rd.md", "README.md"])
def test_pages_of_others_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("# TDH notes of my own\n")
    with pytest.raises(InputError, match=f"{name}: was not made here"):
        main([str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == [name]
