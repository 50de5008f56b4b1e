"""Small pictures of the pages that dpamt writes, and how much two of them differ.

``python -m tests.report.page_pictures`` draws those of ``tests/data/pages`` again: look at them
before they are committed.  Each page is drawn in Chromium at three widths, light and dark, with
the one font of :mod:`tests.report.block_font`.  A picture has an eighth of the page's size: there a
letter is smaller than a point, while a wrong column, bar or colour is many points.
"""

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import map_host, plan_host
from dpamt.report.plan_html import plan_page
from dpamt.report.verify_html import html_page
from dpamt.verify.evidence.counterexample import from_json

from ..cli.command import dpamt
from .block_font import only_font
from .browser import CHROMIUM, DESK, PHONE, wait_until

ROOT: Final = Path(__file__).parents[1]
KEPT: Final = ROOT / "data" / "pages"
SIZES: Final = {"desk": DESK, "tablet": (820, 1000), "phone": PHONE}
SCHEMES: Final[tuple[Literal["light"], Literal["dark"]]] = ("light", "dark")

_SMALLER: Final = 8
_OURS: Final = (
    "input { visibility: hidden; }"
    "button { appearance: none; border: 1px solid; border-radius: 0; background: none; }"
)
"""Every release of a browser draws its own sliders and buttons: their places are compared only."""
_MOST_HEIGHT: Final = 3200
_MOST_HIGHER: Final = 0.03
"""Share of the height by which a page may differ."""
_NOTICED: Final = 40
"""A point differs when one of its colours does by more than this, of 255."""
_MOST_POINTS: Final = 0.008
"""Share of the points that may differ.  The whole page half a pixel beside its place is 0.4 %; the
smallest mistake of ``test_page_pictures.py`` is 1.0 %."""


def verify_page(folder: Path) -> str:
    """A kept counterexample of v2, so that the page changes only when the page's code does."""
    kept = json.loads(gzip.decompress((KEPT / "counterexample.json.gz").read_bytes()))
    return html_page(from_json(kept, "counterexample.json"), "v2")


def plan_of_a_host(folder: Path) -> str:
    plan = plan_host("host-1tib", [parse_mix("20x16GiB/4vcpu@2M=90%")])
    return plan_page([plan], [map_host("host-1tib", plan)])


def trace_of_a_recording(folder: Path) -> str:
    """The recording with a false ADD."""
    (folder / "recording").write_bytes(
        gzip.decompress((ROOT / "data" / "boot-false-add.jsonl.gz").read_bytes())
    )
    ended = dpamt("trace", "recording", "--html", "page.html", cwd=folder)
    assert ended.code == 1, ended
    return (folder / "page.html").read_text(encoding="utf-8")


PAGES: Final[dict[str, Callable[[Path], str]]] = {
    "verify": verify_page,
    "plan": plan_of_a_host,
    "trace": trace_of_a_recording,
}

_DRAWN: Final = {
    "verify": "document.querySelector('tr.fails.now') !== null",
    "plan": "document.querySelectorAll('.js-plotly-plot .xtick').length > 0 &&"
    " document.querySelectorAll('.plot').length ==="
    " document.querySelectorAll('.js-plotly-plot').length",
}
_DRAWN["trace"] = _DRAWN["plan"]


@contextmanager
def browser_without_fonts(folder: Path) -> Iterator[Browser]:
    """A Chromium that has the one font only."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--force-device-scale-factor=1", "--hide-scrollbars"],
            env={**os.environ, **only_font(folder)},
        )
        yield browser
        browser.close()


def picture(
    browser: Browser,
    file: Path,
    name: str,
    size: str,
    scheme: Literal["light", "dark"],
    css: str = "",
) -> Image.Image:
    """The page of a file, small; ``css`` is added to it, as a mistake would be."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(file.as_uri())
    wait_until(page, _DRAWN[name])
    page.add_style_tag(content=_OURS + css)
    page.wait_for_timeout(200)
    whole = name != "verify"  # that one opens where it fails, below a bar that stays
    shot = Image.open(BytesIO(_shot(page, whole))).convert("RGB")
    context.close()
    shot = shot.crop((0, 0, shot.width, min(shot.height, _MOST_HEIGHT)))
    return shot.resize(
        (shot.width // _SMALLER, max(1, shot.height // _SMALLER)), Image.Resampling.BOX
    )


def _shot(page: Page, whole: bool) -> bytes:
    return page.screenshot(full_page=whole, animations="disabled")


def difference(now: Image.Image, kept: Image.Image) -> str:
    """What differs, in words; empty where it is the same page to the eye."""
    if now.width != kept.width:
        return f"{now.width} points wide; it was {kept.width}"
    if abs(now.height - kept.height) > _MOST_HIGHER * kept.height:
        return f"{now.height} points high; it was {kept.height}"
    height = min(now.height, kept.height)
    both: list[Any] = [
        np.asarray(one.crop((0, 0, one.width, height)), dtype=np.int16) for one in (now, kept)
    ]
    points = np.abs(both[0] - both[1]).max(axis=2) > _NOTICED
    share = float(points.mean())
    if share <= _MOST_POINTS:
        return ""
    rows, columns = np.nonzero(points)
    return (
        f"{100 * share:.1f} % of its points differ, between ({columns.min() * _SMALLER}, "
        f"{rows.min() * _SMALLER}) and ({columns.max() * _SMALLER}, {rows.max() * _SMALLER})"
    )


DRAWN: Final = (
    *((name, size, scheme) for name in ("verify", "plan") for size in SIZES for scheme in SCHEMES),
    ("trace", "desk", SCHEMES[1]),
    ("trace", "phone", SCHEMES[0]),
)
"""Page, width and scheme of each picture; the page of a trace is made as that of a plan."""


def kept_file(name: str, size: str, scheme: str) -> Path:
    return KEPT / f"{name}-{size}-{scheme}.png"


def main() -> None:
    """Draw them all again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with browser_without_fonts(folder) as browser:
            for page, make in PAGES.items():
                file = folder / f"{page}.html"
                file.write_text(make(folder), encoding="utf-8")
                for _, size, scheme in (one for one in DRAWN if one[0] == page):
                    small = picture(browser, file, page, size, scheme)
                    small.save(kept_file(page, size, scheme), optimize=True)


if __name__ == "__main__":
    main()
