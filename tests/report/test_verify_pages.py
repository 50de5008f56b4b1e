"""The page and the trace of a counterexample: whole, and true to its steps at every moment."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser

from dpamt import __version__
from dpamt.host.designs.load import load_design
from dpamt.report.verify_html import html_page
from dpamt.report.verify_perfetto import perfetto_trace
from dpamt.report.verify_text import _lines, lines_of, told_lines
from dpamt.verify.evidence.counterexample import Counterexample
from dpamt.verify.programs.get_put import regions
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify

from .browser import DESK, PHONE, fits_its_width, opened, started, wait_until

_DOM = Path(__file__).with_name("small_dom.js")


@pytest.fixture(scope="module")
def found() -> Counterexample:
    design = load_design("v2")
    verdict = verify(regions(design, (2,)), properties(design.tolerated), "words")
    return next(one for one in verdict.counterexamples if one.broken == "at-rest")


def data_of(page: str) -> dict[str, Any]:
    script = re.search(r'type="application/json">(.*?)</script>', page, re.S)
    assert script is not None
    data: dict[str, Any] = json.loads(script[1])
    return data


def values_after(found: Counterexample, done: int) -> dict[str, str]:
    """The values of the words after so many of the steps that are told."""
    values = dict(found.start)
    for step in found.steps[:done]:
        if step.value:
            values[step.word] = step.value
    return values


def numbers_of(found: Counterexample) -> list[str]:
    """The number of each step, written apart from the page's script: 1, 1.1, 1.2, 2, ..."""
    numbers: list[str] = []
    for lines in lines_of(found.steps, False):
        whole, _, part = (numbers[-1] if numbers else "0").partition(".")
        numbers.append(f"{int(whole) + 1}" if lines else f"{whole}.{int(part or 0) + 1}")
    return numbers


def test_the_page_needs_nothing_beside_it(found: Counterexample) -> None:
    page = html_page(found)
    assert not re.search(r"https?:|src=|@import|url\(|<link", page)
    assert "@" not in re.sub(r"@media", "", page)
    assert '<meta name="viewport"' in page
    assert len(data_of(page)["steps"]) == len(found.steps)


def test_the_page_ends_as_the_counterexample_does(found: Counterexample) -> None:
    data = data_of(html_page(found))
    values = {word["name"]: word["start"] for word in data["words"]}
    names = [word["name"] for word in data["words"]]
    for step in data["steps"]:
        if step["word"] >= 0 and step["value"]:
            values[names[step["word"]]] = step["value"]
    for word, before, after in found.shared:
        assert (dict(found.start)[word], values[word]) == (before, after)


def test_markup_in_a_text_stays_text(found: Counterexample) -> None:
    from dataclasses import replace

    step = replace(found.steps[0], events=("</script><b>x",))
    page = html_page(replace(found, text="<i>&", steps=(step, *found.steps[1:])))
    assert "<i>" not in page
    assert "<b>" not in page
    assert "</script><b>x" in data_of(page)["steps"][0]["lines"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_slider_shows_the_values_of_every_step(found: Counterexample, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html_page(found), encoding="utf-8")
    done = subprocess.run(
        ["node", str(_DOM), str(page)], capture_output=True, encoding="utf-8", check=True
    )
    shown = json.loads(done.stdout)
    names = [word["name"] for word in data_of(html_page(found))["words"]]
    assert len(shown) == len(found.steps) + 1
    numbers = ["0", *numbers_of(found)]
    for moment, at in enumerate(shown):
        values = values_after(found, moment)
        assert at["values"] == [values[name] for name in names]
        assert at["now"] == moment - 1
        assert at["text"].startswith(f"{numbers[moment]} of {numbers[-1]}. ")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_walks_through_the_schedule_in_a_browser(
    found: Counterexample, tmp_path: Path, browser: Browser, size: tuple[int, int]
) -> None:
    file = tmp_path / "page.html"
    file.write_text(html_page(found), encoding="utf-8")
    with opened(browser, file, size) as page:
        assert fits_its_width(page)
        slider, what = page.locator("#slider"), page.locator("#what")
        assert slider.get_attribute("max") == str(len(found.steps))
        rows = page.locator("#steps tbody tr.step, #steps tbody tr.module")
        assert rows.count() >= len(found.steps)
        last = numbers_of(found)[-1]
        assert what.inner_text().startswith(f"{last} of {last}. ")
        slider.fill("0")
        assert what.inner_text() == f"0 of {last}. before the first step"
        page.locator("#on").click()
        assert not what.inner_text().startswith("0 of")
        slider.fill(str(len(found.steps)))
        assert what.inner_text().startswith(f"{last} of {last}. ")
        shown = [cell.inner_text() for cell in page.locator("#words td:nth-child(2)").all()]
        names = [word["name"] for word in data_of(html_page(found))["words"]]
        assert shown == [values_after(found, len(found.steps))[name] for name in names]


@pytest.fixture(scope="module")
def file(found: Counterexample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(html_page(found, "v2"), encoding="utf-8")
    return file


TABLET = (820, 1000)
SIZES = pytest.mark.parametrize("size", [DESK, TABLET, PHONE], ids=["desk", "tablet", "phone"])
SEEN = """(name) => {
  const row = document.querySelector(name).getBoundingClientRect();
  const bar = document.querySelector("#bar").getBoundingClientRect();
  return row.height > 0 && row.top >= bar.bottom - 1 && row.bottom <= innerHeight;
}"""
CONTRAST = """(name) => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const one = document.querySelector(name);
  let under = one;
  while (under && /, 0\\)$|transparent/.test(getComputedStyle(under).backgroundColor))
    under = under.parentElement;
  const back = under ? parts(getComputedStyle(under).backgroundColor)
    : (matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255]);
  const both = [light(parts(getComputedStyle(one).color)), light(back)].sort((a, b) => a - b);
  return (both[1] + 0.05) / (both[0] + 0.05);
}"""
"""As WCAG 2.1 defines it; 4.5 is what it asks of text."""


def test_the_title_says_what_fails(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert f"<title>v2 fails: at-rest (dpamt {__version__})</title>" in text
    assert "<h1>v2 fails: at-rest</h1>" in text


@SIZES
def test_the_failing_step_is_shown_first_and_not_covered(
    file: Path, found: Counterexample, browser: Browser, size: tuple[int, int]
) -> None:
    with opened(browser, file, size) as page:
        assert page.evaluate(SEEN, "tr.fails")
        assert page.locator("tr.fails").get_attribute("class") == "step fails now"
        number = page.locator("tr.fails td.number").inner_text()
        assert number == numbers_of(found)[-1]
        for key, row in (("Home", 0), ("End", len(found.steps)), ("ArrowLeft", None)):
            page.keyboard.press(key)  # nothing has the focus
            assert row is None or page.locator("#slider").input_value() == str(row)
            assert not row or page.evaluate(SEEN, "tr.now")
        for _ in range(20):  # upwards, where the bar is
            page.keyboard.press("ArrowLeft")
            assert page.evaluate(SEEN, "tr.now")


@SIZES
def test_the_step_is_in_the_address(
    file: Path, found: Counterexample, browser: Browser, size: tuple[int, int]
) -> None:
    """By the number that the page shows; a step inside the module opens the internals."""
    numbers = numbers_of(found)
    inside = next(number for number in numbers if "." in number)
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(f"{file.as_uri()}#step=7")
    assert page.locator("#slider").input_value() == str(numbers.index("7") + 1)
    page.keyboard.press("Home")
    assert page.url.endswith("#step=0")
    page.evaluate("location.hash = '#step=9'")
    at = numbers.index("9") + 1
    wait_until(page, f"document.querySelector('#slider').value === '{at}'")
    assert not page.locator("#module").is_checked()
    page.evaluate(f"location.hash = '#step={inside}'")
    at = numbers.index(inside) + 1
    wait_until(page, f"document.querySelector('#slider').value === '{at}'")
    assert page.locator("#module").is_checked()
    assert page.locator("tr.now").is_visible()
    page.goto(f"{file.as_uri()}#step=99999999")
    page.close()


@pytest.mark.parametrize("whole", [False, True], ids=["text", "whole"])
def test_the_page_shows_the_lines_of_the_text(
    file: Path, found: Counterexample, browser: Browser, whole: bool
) -> None:
    """The same steps by the same words, with the same switches; numbered without a gap."""
    lines = lines_of(found.steps, False)
    text = [cpu for cpu, _ in groupby(cpu for cpu, _ in _lines(found.steps, False))]
    with opened(browser, file) as page:
        if whole:
            page.locator("#module").check()
        rows = page.locator("#steps tbody tr:visible")
        numbers = rows.locator("td.number").all_inner_texts()
        if whole:
            assert numbers == numbers_of(found)
            lines = lines_of(found.steps, True)
            assert any("begins" in line for of_step in lines for line in of_step)
        else:
            assert numbers == [str(n + 1) for n in range(sum(map(bool, lines)))]
            shown = [step.cpu for step, words in zip(found.steps, lines, strict=True) if words]
            assert [cpu for cpu, _ in groupby(shown)] == text
        said = [cell.split("\n") for cell in rows.locator("td.mine").all_inner_texts()]
        said = [[line for line in cell if not line.startswith("[")] for cell in said]
        wanted = [of_step for of_step in lines if of_step]
        assert said == wanted
        first = page.locator("#words tbody tr td").first.inner_text()
        assert first == "pamt_refcounts[0x3fe]"  # as its steps have it


def test_the_slider_goes_to_steps_that_are_shown(
    file: Path, found: Counterexample, browser: Browser
) -> None:
    inside = next(n for n, number in enumerate(numbers_of(found)) if "." in number)
    with opened(browser, file) as page:
        page.locator("#slider").fill(str(inside + 1))
        assert page.locator("tr.now").is_visible()


def test_the_last_step_has_a_line(found: Counterexample) -> None:
    """It is the one that fails, whatever it is."""
    inside = next(n for n, step in enumerate(found.steps) if not told_lines(step, False))
    cut = found.steps[: inside + 1]
    assert lines_of(cut, False)[-1]
    assert [bool(lines) for lines in lines_of(cut, False)] == [
        bool(told_lines(step, False)) for step in cut[:-1]
    ] + [True]


@SIZES
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable(
    file: Path, browser: Browser, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    view: Any = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=view, color_scheme=scheme)
    page.goto(file.as_uri())
    assert fits_its_width(page)
    for name in ("h1", "#said", "#what", "tr.fails td.mine div", "tr.fails td.mine small"):
        assert page.evaluate(CONTRAST, name) >= 4.5, (name, scheme)
    least = page.locator("#steps td.mine small").evaluate_all(
        "all => Math.min(...all.map((one) => parseFloat(getComputedStyle(one).fontSize)))"
    )
    assert least >= 10
    first = page.screenshot()
    page.keyboard.press("Home")
    other = page.screenshot()
    page.keyboard.press("End")
    page.mouse.move(0, 0)
    assert other != first
    assert page.screenshot() == first  # a step looks the same whichever way it is come to
    page.close()


def test_the_trace_has_a_track_for_each_cpu(found: Counterexample) -> None:
    events = json.loads(perfetto_trace(found))["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {n + 1: f"CPU{n}: get, use, put in region 0" for n in range(len(found.cpus))}
    slices = [e for e in events if e["ph"] == "X"]
    assert [e["ts"] for e in slices] == sorted(e["ts"] for e in slices)
    ends = [e["ts"] + e["dur"] for e in slices]
    assert all(a <= b["ts"] for a, b in zip(ends, slices[1:], strict=False))  # one at a time
    real = [step for step in found.steps if not step.word.startswith("verify.")]
    assert len(slices) == sum(step.method != "mark" for step in real)


def test_seamcalls_of_the_trace_open_and_close(found: Counterexample) -> None:
    events = json.loads(perfetto_trace(found))["traceEvents"]
    answers: list[str] = []
    for cpu in range(len(found.cpus)):
        inside: list[str] = []
        edges = [e for e in events if e["ph"] in "BE" and e["tid"] == cpu + 1]
        assert [e["ts"] for e in edges] == sorted(e["ts"] for e in edges)
        for edge in edges:
            if edge["ph"] == "B":
                assert not inside
                inside.append(edge["name"])
            else:
                assert inside.pop() == edge["name"]
                answers.append(edge["args"]["answer"])
        assert not inside
    told = [text for step in found.steps for text in step.events if text.startswith("TDH.")]
    assert sorted(answers) == sorted(told)


_PHASES = {"X": {"dur", "tid"}, "B": {"tid"}, "E": {"tid"}, "i": {"s", "tid"}, "C": {"args"}}


def test_the_trace_keeps_the_rules_of_its_format(found: Counterexample) -> None:
    """Source: Trace Event Format (Google, "Event Descriptions"), which ui.perfetto.dev reads."""
    trace = json.loads(perfetto_trace(found))
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert _PHASES[event["ph"]] <= event.keys()
        assert event["ts"] >= 0
        assert isinstance(event.get("tid", 0), int)
        if event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
        elif event["ph"] == "C":
            assert all(type(value) in (int, float) for value in event["args"].values())
        elif event["ph"] == "X":
            assert event["dur"] > 0
    # On one track slices lie inside each other or apart, whatever phase they are written in.
    for cpu in range(len(found.cpus)):
        mine = [e for e in trace["traceEvents"] if e.get("tid") == cpu + 1 and e["ph"] in "XBE"]
        spans, begun = [], []
        for event in mine:
            if event["ph"] == "B":
                begun.append(event["ts"])
            elif event["ph"] == "E":
                spans.append((begun.pop(), event["ts"]))
            else:
                spans.append((event["ts"], event["ts"] + event["dur"]))
        assert not begun
        for first, end in spans:
            for other, last in spans:
                apart = end <= other or last <= first
                inside = first <= other and last <= end
                around = other <= first and end <= last
                assert apart or inside or around
