"""`dpamt plan` from outside: what it prints, how it refuses, that text and JSON say the same."""

import json
import os
import re
import sys
from importlib.resources import files
from pathlib import Path
from threading import Thread
from unittest import mock

import pytest

from dpamt.cli.extras import needs
from dpamt.cli.plan_options import plan_parser
from dpamt.plan.ageing.tornado import DRIVERS

from .command import dpamt, refused

OVERLAPPING = """\
BIOS-e820: [mem 0x0000000000100000-0x000000003fffffff] usable
BIOS-e820: [mem 0x0000000030000000-0x000000007fffffff] usable
"""


def test_text_fits_80_columns_and_says_what_json_says() -> None:
    arguments = ("plan", "host-1tib", "64GiB", "--td", "20x2GiB/4vcpu@2M=90%")
    text, document = dpamt(*arguments), dpamt(*arguments, "--json")
    assert text.code == document.code == 0
    assert max(map(len, text.out.splitlines())) <= 80
    hosts = json.loads(document.out)["hosts"]
    assert [host["host"]["source"] for host in hosts] == ["host-1tib", "64GiB"]
    for host in hosts:
        for mix in (host["today"], host["tomorrow"]):
            for number in (mix["pairs"]["fresh"], mix["pages"]["sept"]):
                assert f"{number:,}" in text.out
        assert str(host["host"]["static"]["boot"] >> 10) in text.out
        assert host["answer"]["sentence"] in " ".join(text.out.split())
    assert "the same as static PAMT here, to the KB" in " ".join(text.out.split())
    assert "All 2 hosts" in text.out


def test_a_log_that_comes_through_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    log = files("dpamt.platform") / "data" / "host-1tib.dmesg"
    writer = Thread(target=pipe.write_bytes, args=(log.read_bytes(),))
    writer.start()
    page = tmp_path / "plan.html"
    ended = dpamt("plan", str(pipe), "--json", "--html", str(page))
    writer.join()
    assert json.loads(ended.out)["hosts"][0]["host"]["recorded_is"] == "static"
    assert page.stat().st_size > 1 << 20


def test_more_keyids_than_the_host_has() -> None:
    ended = dpamt("plan", "host-1tib", "--td", "40x16GiB/4vcpu@2M=90%")
    assert ended.code == 1
    assert "40 TDs, but 31 guest KeyIDs" in " ".join(ended.out.split())


def test_tds_that_do_not_fit() -> None:
    ended = dpamt("plan", "64GiB", "--td", "5x16GiB", "--json")
    assert ended.code == 1
    host = json.loads(ended.out)["hosts"][0]
    assert host["mix"]["fits"] is False
    assert host["mix"]["left_dynamic"] < 0


def test_a_map_that_some_kernels_fail_on() -> None:
    ended = dpamt("plan", "reserved-areas")
    assert ended.code == 1
    text = " ".join(ended.out.split())
    assert "reserved areas exhausted" in text
    assert "17 of 16" in text


def test_what_is_run_is_what_is_planned() -> None:
    host = json.loads(dpamt("plan", "1GiB", "--td", "2x4MiB@2M=50%", "--run", "--json").out)
    planned, ran = host["hosts"][0]["mix"], host["hosts"][0]["ran"]
    assert ran["clean"]
    assert planned["pages"]["sept"] == ran["sept"]
    assert planned["pairs"]["minimum"] <= ran["pairs"] <= planned["pairs"]["worst"]


def test_a_host_that_ages_in_text_json_and_page(tmp_path: Path) -> None:
    page = tmp_path / "aged.html"
    arguments = ("plan", "8GiB", "--td", "4x1GiB@2M=50%", "--age", "0.1", "--seeds", "2")
    text = dpamt(*arguments, "--html", str(page))
    first, again = (json.loads(dpamt(*arguments, "--json").out) for _ in range(2))
    assert first == again
    ageing = first["hosts"][0]["ageing"]["today"]
    assert ageing["static_bytes"] == first["hosts"][0]["host"]["static"]["total"]
    assert ageing["idle_bytes"] == first["hosts"][0]["host"]["dynamic"]["total"]
    low, mean, high = (ageing["dynamic_bytes"][name] for name in ("low", "mean", "high"))
    assert all(a <= b <= c for a, b, c in zip(low, mean, high, strict=True))
    answer = first["hosts"][0]["ageing"]["answer"]
    screen = text.out.split("8GiB over 17 hours")[0]
    assert answer["exit_code"] == text.code
    assert answer["sentence"] in " ".join(screen.split())
    assert answer["todo"] in " ".join(screen.split())
    assert "over 17 hours of TDs that come and go" in answer["sentence"]
    assert "Driven by (each an option): TDs in 80 % of memory (--occupancy)" in screen
    assert first["hosts"][0]["answer"]["sentence"] not in " ".join(text.out.split())
    saved = ageing["static_bytes"] - sum(mean) / len(mean)
    assert answer["today"]["saved"] == pytest.approx(saved, abs=1)
    assert answer["sentence"] in page.read_text(encoding="utf-8")
    assert f"{round(ageing['pairs']['mean'][-1]):,} pairs" in " ".join(text.out.split())
    assert max(map(len, text.out.splitlines())) <= 80
    assert "after 0.101 weeks" in page.read_text(encoding="utf-8")


def test_pipx_installs_where_pip_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.prefix", "/home/me/.local/share/pipx/venvs/dpamt")
    assert str(needs("plan --html", "plotly")) == (
        "plan --html needs plotly: pipx runpip dpamt install 'dpamt[plots]'"
    )


@pytest.mark.parametrize(
    ("missing", "arguments", "said"),
    [
        ("plotly", ("--html", "page.html"), "plan --html needs plotly: pip install 'dpamt[plots]'"),
        (
            "pyarrow",
            ("--fleet", "generated"),
            "plan --fleet needs pyarrow: pip install 'dpamt[plan]'",
        ),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, missing: str, arguments: tuple[str, ...], said: str
) -> None:
    with mock.patch.dict(sys.modules, {missing: None}):
        assert said in refused("plan", "1GiB", *arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    assert "expected a file to write to" in refused(
        "plan", "1GiB", "--html", str(tmp_path / "no" / "page.html")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "HOST"),
        (("-64GiB",), "HOST"),
        (("no-such-file",), "no-such-file: no such file"),
        (("64GiB", "--td", "40x-16GiB"), "expected whole 2 MiB"),
        (("64GiB", "--td", "nonsense"), "expected [COUNT x] SIZE"),
        (("64GiB", "--td", "1x128GiB"), "a TD larger than 64GiB"),
        (("64GiB", "--td", "1x1GiB/4000vcpu"), "VCPUs; expected at most"),
        (("64GiB", "--module", "9.9"), "expected one of 1.5.25"),
        (("64GiB", "--run"), "expected --td as well"),
        (("64GiB", "--age", "1"), "expected --td as well"),
        (("64GiB", "--td", "16GiB", "--age", "-1"), "number of weeks"),
        (("64GiB", "--td", "16GiB", "--age", "nan"), "number of weeks"),
        (("64GiB", "--td", "16GiB", "--age", "1", "--seeds", "0"), "from 1 to 1000"),
        (("64GiB", "--td", "16GiB", "--seed", "-1"), "from 0"),
        (("64GiB", "--run", "--td", "2x16GiB"), "expected at most"),
    ],
)
def test_it_refuses_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused("plan", *arguments)


def test_maps_that_lie(tmp_path: Path) -> None:
    (tmp_path / "overlapping").write_text(OVERLAPPING)
    message = refused("plan", "64GiB", "overlapping", cwd=tmp_path)
    assert message.startswith("overlapping:2: ")


def test_options_that_are_named_as_drivers_are_options() -> None:
    """In the lines that say what drives ageing and a fleet, and in the tornado."""
    known = set(plan_parser()._option_string_actions)
    small = ("8GiB", "--td", "1x1GiB", "--age", "0.01", "--seeds", "1")
    fleet = ("--fleet", "generated", "2*64GiB", "--age", "0.02", "--max-tds", "90")
    for arguments in (small, fleet):
        text = dpamt("plan", *arguments).out
        told = text[text.index("Driven by") :].split("\n\n")[0]
        named = set(re.findall(r"\((--[a-z0-9-]+)", told))
        assert len(named) >= 5
        assert named <= known
    assert {driver for driver, *_ in DRIVERS} <= known


def test_a_share_that_no_td_takes_is_refused() -> None:
    said = "plan: --share-2m has no effect where each --td has a share"
    assert refused("plan", "4GiB", "--share-2m", "50", "--td", "1x1GiB@2M=10%").startswith(said)
    mixed = ("--td", "1x1GiB@2M=10%", "--td", "1x1GiB")
    assert dpamt("plan", "4GiB", "--share-2m", "50", *mixed).code == 0
