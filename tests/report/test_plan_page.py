"""The page of a plan: whole, drawn by a real browser, on a desk and on a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from dpamt.plan.address_map import HUGE, PAIR, aged_map
from dpamt.plan.ageing.both import age_both
from dpamt.plan.fleet.both import BothFleets
from dpamt.plan.fleet.generate import Made, generate_vms
from dpamt.plan.fleet.hosts import HostType
from dpamt.plan.fleet.simulate import simulate_fleets
from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import machine_named, map_host, plan_host
from dpamt.report.plan_fleet import fleet_page
from dpamt.report.plan_html import plan_page

from .browser import DESK, PHONE, fits_its_width, opened, started, wait_until

PLOTS = 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from started()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = plan_host("host-1tib", [parse_mix("20x16GiB/4vcpu@2M=90%")])
    file = tmp_path_factory.mktemp("pages") / "plan.html"
    file.write_text(plan_page([plan], [map_host("host-1tib", plan)]), encoding="utf-8")
    return file


def test_every_mark_is_filled_in(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert page_file.stat().st_size < 2_000_000
    assert "20x16GiB/4vcpu@2M=90%; dpamt 0.1.0, 20" in text
    assert not re.search(r"@(TITLE|BODY|PACKED)@", text)
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=.?https?:", text)


def test_it_is_dark_where_the_reader_s_screen_is(browser: Browser, page_file: Path) -> None:
    """Background and ink of page and plots change with the scheme, also while it is open."""
    ink = "getComputedStyle(document.querySelector('.js-plotly-plot .xtick text')).fill"
    with opened(browser, page_file) as page:
        page.locator(".js-plotly-plot .xtick text").first.wait_for(state="attached")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor"), page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        wait_until(page, f"{ink} !== '{light[1]}'")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    assert light[0] == "rgb(255, 255, 255)"


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_plots_are_drawn_and_answer_to_a_pointer(
    browser: Browser, page_file: Path, size: tuple[int, int]
) -> None:
    with opened(browser, page_file, size) as page:
        plots = page.locator(".js-plotly-plot")
        plots.nth(PLOTS - 1).locator(".hm image").wait_for(state="attached")
        assert plots.count() == PLOTS
        assert fits_its_width(page)
        for number in range(PLOTS):
            plot = plots.nth(number)
            plot.scroll_into_view_if_needed()
            drawn = plot.locator(".plot-container").bounding_box()
            assert drawn is not None
            assert drawn["width"] > 0.8 * (min(size[0], 1024) - 32)
            area = plot.locator(".nsewdrag").first
            area.hover(position={"x": 60, "y": 20})
            plot.locator(".hoverlayer .hovertext").first.wait_for(state="attached")
            assert (plot.locator(".hoverlayer").text_content() or "").strip()


def test_a_host_that_has_aged(browser: Browser, tmp_path: Path) -> None:
    mix = parse_mix("4x1GiB@2M=50%")
    machine = machine_named("8GiB")
    plan, both = plan_host(machine, [mix]), age_both(machine, [mix], 0.9, {}, 0.2, (0, 1))
    ageing = both.today
    cells = aged_map(machine, ageing.regions)
    assert sum(cell.counts[PAIR] for cell in cells) == ageing.regions.count(1)
    assert sum(cell.counts[HUGE] for cell in cells) == ageing.regions.count(2)
    file = tmp_path / "aged.html"
    page_text = plan_page([plan], [map_host(machine, plan)], [(both, cells)])
    file.write_text(page_text, encoding="utf-8")
    with opened(browser, file, PHONE) as page:
        plots = page.locator(".js-plotly-plot")
        plots.nth(PLOTS + 1).locator(".hm image").wait_for(state="attached")
        assert plots.count() == PLOTS + 2
        assert fits_its_width(page)
        drawn = page.evaluate("document.querySelector('.js-plotly-plot').data[3].y")
        shown = [drawn[key] for key in sorted(drawn, key=int)] if isinstance(drawn, dict) else drawn
        assert [value * (1 << 20) for value in shown] == pytest.approx(
            ageing.dynamic_bytes.mean, abs=1
        )


def test_a_fleet(browser: Browser, tmp_path: Path) -> None:
    hosts = [HostType("64GiB", machine_named("64GiB"), 5, max_tds=90)]
    fleets = simulate_fleets(generate_vms(Made(200, 20)), hosts, processes=1)
    both = BothFleets(fleets[0], fleets[1], (), 0.9, True)
    file = tmp_path / "fleet.html"
    file.write_text(fleet_page(both, "generated"), encoding="utf-8")
    with opened(browser, file, PHONE) as page:
        plots = page.locator(".js-plotly-plot")
        plots.nth(1).locator(".bars .point").first.wait_for(state="attached")
        assert plots.count() == 2
        assert fits_its_width(page)
        plots.nth(1).scroll_into_view_if_needed()
        bar = plots.nth(1).locator(".bars .point path").first
        bar.hover(force=True)
        shown = plots.nth(1).locator(".hoverlayer .hovertext").first
        shown.wait_for(state="attached")
        assert "hosts" in (shown.text_content() or "")


def test_lines_and_map_have_what_the_plan_says(browser: Browser, page_file: Path) -> None:
    plan = plan_host("host-1tib", [parse_mix("20x16GiB/4vcpu@2M=90%")])
    assert plan.today is not None
    assert plan.tomorrow is not None
    with opened(browser, page_file) as page:
        drawn = "[...document.querySelectorAll('.js-plotly-plot')].filter(p => p.data).length"
        wait_until(page, f"{drawn} === {PLOTS}")
        names = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data.map(t => t.name))"
        )
        assert names[0] == [
            "static PAMT",
            "Dynamic today, fresh host",
            "Dynamic today, worst case",
            "Dynamic, 2M (not merged)",
        ]
        last = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')][0].data.map(t => [...t.y].at(-1))"
        )
        now, then = plan.today.dynamic, plan.tomorrow.dynamic
        sizes = (plan.host.static.total, now.fresh, now.worst, then.fresh)
        assert [round(value * (1 << 30)) for value in last] == list(sizes)
        labels = page.locator("[role=img]")
        assert labels.count() == PLOTS
        assert all(labels.nth(number).get_attribute("aria-label") for number in range(PLOTS))
