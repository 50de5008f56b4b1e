"""The documents that say what code does: run them, and hold their keys against the facts."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

import dpamt
from dpamt.run.api import run_scenario

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_link_in_the_documents_leads_somewhere() -> None:
    followed = 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"
            followed += 1
    assert followed > 10


def test_the_examples_of_the_api_page_run() -> None:
    results = doctest.testfile(str(DOCS / "api.md"), module_relative=False)
    assert results.attempted > 20
    assert results.failed == 0


def test_the_api_page_names_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in dpamt.__all__:
        assert name == "__version__" or f"`{name}(" in page
        assert getattr(dpamt, name) is not None
    assert set(dpamt.__all__) <= set(dir(dpamt))


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(keys_of(inner) for inner in value.values()))
    if isinstance(value, list | tuple):
        return set().union(*(keys_of(inner) for inner in value)) if value else set()
    return set()


def test_the_json_page_names_exactly_the_keys_there_are() -> None:
    text = '[host]\nmachine = "1GiB"\ninject = ["TDH.MNG.CREATE:no-entropy:times=1"]\n'
    text += '[[td]]\nname = "a"\nmemory = "2MiB"\nimage = "4KiB"\n'
    facts = run_scenario(text + '[[phase]]\nname = "p"\nsteps = [{ do = "build" }]\n')
    page = (DOCS / "json-run.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`([a-z][a-z0-9_]*)`", rows)) - {"static", "dynamic"}
    assert named | {"static", "dynamic"} == keys_of(facts.to_json())


PICTURES = sorted((DOCS / "pictures").glob("*.svg"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_pictures_can_be_read_on_white_and_on_black(picture: Path) -> None:
    """No background, and ink in the reader's colour: neither black nor white is painted."""
    text = picture.read_text(encoding="utf-8")
    assert "@media (prefers-color-scheme: dark)" in text
    assert not re.findall(r"(?:fill|stroke): ?(?:#000000|#ffffff|black|white)", text)
    assert "currentColor" in text
