"""Pages in a real headless Chromium, without network: what they draw, and what they complain of."""

import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

DESK: Final = (1200, 900)
PHONE: Final = (390, 844)

CHROMIUM: Final = next(
    (path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None
)


def started() -> Iterator[Browser]:
    """A browser, for a fixture; the tests are skipped, with a warning, where there is none."""
    if CHROMIUM is None:
        warnings.warn(
            "no chromium: pages are NOT tested in a browser (apt-get install chromium)",
            stacklevel=1,
        )
        pytest.skip("needs chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, file: Path, size: tuple[int, int] = DESK) -> Iterator[Page]:
    """The page of a file; when it is closed, nothing may have been asked for or complained of."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("data:", "blob:")) or request.url == file.as_uri()
            else complaints.append(f"request of {request.url}")
        ),
    )
    page.goto(file.as_uri())
    try:
        yield page
    finally:
        page.close()
    assert complaints == []


def fits_its_width(page: Page) -> bool:
    """Whether nothing of the page lies beside the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def wait_until(page: Page, condition: str, seconds: float = 30.0) -> None:
    """Wait until a JavaScript condition holds; the pages' own policy forbids Playwright's wait."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        page.wait_for_timeout(50)
