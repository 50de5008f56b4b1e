"""Pages look as they did: at three widths, light and dark; and a broken layout does not pass."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from playwright.sync_api import Browser

from .browser import CHROMIUM
from .page_pictures import (
    DRAWN,
    PAGES,
    browser_without_fonts,
    difference,
    kept_file,
    picture,
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    if CHROMIUM is None:
        warnings.warn("no chromium: pages are NOT compared with their pictures", stacklevel=1)
        pytest.skip("needs chromium (apt-get install chromium)")
    name = tempfile.mkdtemp()  # a snap's browser sees no hidden folder of pytest's
    yield Path(name)
    shutil.rmtree(name)


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    with browser_without_fonts(folder) as browser:
        yield browser


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, Path]:
    made = {}
    for name, make in PAGES.items():
        made[name] = folder / f"{name}.html"
        made[name].write_text(make(folder), encoding="utf-8")
    return made


def kept(name: str, size: str, scheme: str) -> Image.Image:
    return Image.open(kept_file(name, size, scheme)).convert("RGB")


@pytest.mark.parametrize(("name", "size", "scheme"), DRAWN, ids=lambda part: part)
def test_a_page_looks_as_it_did(
    name: str,
    size: str,
    scheme: Literal["light", "dark"],
    files: dict[str, Path],
    browser: Browser,
    tmp_path: Path,
) -> None:
    now = picture(browser, files[name], name, size, scheme)
    now.save(tmp_path / "now.png")
    found = difference(now, kept(name, size, scheme))
    assert not found, (
        f"{found}.  Compare {tmp_path / 'now.png'} with {kept_file(name, size, scheme)}; if it is "
        "meant, python -m tests.report.page_pictures draws them again"
    )


BREAKS = {
    "bar not at the top": ("verify", "desk", "#bar { position: static !important; }"),
    "bar covers a step": ("verify", "phone", "#bar { padding: 6rem 0 !important; }"),
    "words below the steps": ("verify", "desk", "#panes { display: block !important; }"),
    "columns on a phone": ("verify", "phone", "#steps td { display: table-cell !important; }"),
    "failure not coloured": (
        "verify",
        "tablet",
        "tr.fails, tr.fails td { background: none !important; }",
    ),
    "ink on ink": ("verify", "desk", "body { color: Canvas !important; }"),
    "no plots": ("plan", "desk", ".plot { display: none !important; }"),
    "plots too narrow": ("plan", "desk", ".plot { width: 40% !important; overflow: hidden; }"),
    "no margins": ("plan", "tablet", "body { max-width: none !important; padding: 0 !important; }"),
    "table beside the window": ("plan", "phone", "table { width: 60rem !important; }"),
    "free memory glares": ("plan", "desk", ".heatmaplayer { filter: invert(1); }"),
    "light in the dark": ("plan", "desk", "body { background: #fff !important; }"),
    "tables in large letters": ("plan", "phone", "table { font-size: 1.4rem !important; }"),
    "lists without indent": ("plan", "desk", "ul { padding: 0 !important; font-size: 1.3rem; }"),
}
"""Name to page, width and what a mistake in its style could do."""


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_layout_is_seen(name: str, files: dict[str, Path], browser: Browser) -> None:
    page, size, css = BREAKS[name]
    now = picture(browser, files[page], page, size, "dark", css)
    assert difference(now, kept(page, size, "dark"))
