"""`dpamt plan --fleet` from outside: a trace and made-up VMs, and how it refuses."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from .command import dpamt, refused

TRACE = """\
arrival,departure,memory_gib,vcpus
0,7200,4.0,2
60,86400,2.0,1
120,3600,1.0,1
"""


def test_made_up_vms_are_the_same_each_time_and_in_every_form(tmp_path: Path) -> None:
    made = ("--age", "0.05", "--max-tds", "90", "--occupancy", "40")
    arguments = ("plan", "--fleet", "generated", "4*64GiB", *made)
    page, folder = tmp_path / "fleet.html", tmp_path / "out"
    text = dpamt(*arguments, "--html", str(page), "--out", str(folder), "--jobs", "1")
    document = dpamt(*arguments, "--json", "--jobs", "2")
    assert text.code == document.code == 0
    assert max(map(len, text.out.splitlines())) <= 80
    told = json.loads(document.out)["fleet"]
    fleet = told["today"]
    assert told["share_assumed"]
    assert told["sentence"] in " ".join(text.out.split())
    assert told["tomorrow"]["mean_saved"] > fleet["mean_saved"]
    assert "assumed" in text.out
    assert f"{fleet['vms']:,}" in text.out
    assert len(fleet["hosts"]) == 4
    assert fleet["static_bytes"] == sum(host["static_bytes"] for host in fleet["hosts"])
    table = pyarrow.parquet.read_table(folder / "hosts.parquet")
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    assert about["seed"] == "0"
    assert about["command"].startswith("dpamt plan --fleet generated '4*64GiB'")
    assert about["dpamt"]
    assert table.schema.field("mean_saved").metadata == {b"unit": b"bytes"}
    hosts = table.to_pylist()
    assert [host["mean_saved"] for host in hosts] == [host["mean_saved"] for host in fleet["hosts"]]
    assert "What each host saves on average" in page.read_text(encoding="utf-8")


def test_a_trace(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    ended = dpamt("plan", "--fleet", "trace.csv", "2*16GiB", "--json", cwd=tmp_path)
    fleet = json.loads(ended.out)["fleet"]["today"]
    assert (fleet["vms"], fleet["placed_dynamic"], len(fleet["hosts"])) == (3, 3, 2)


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (TRACE.replace("0,7200", "7300,7200"), "trace.csv, line 2"),
        (TRACE.replace("4.0", "-4.0"), "trace.csv, line 2"),
        (TRACE.replace("memory_gib,", "size,"), "memory_gib"),
        ("", "trace.csv"),
    ],
)
def test_a_trace_that_lies_is_refused_in_one_line(tmp_path: Path, trace: str, said: str) -> None:
    (tmp_path / "trace.csv").write_text(trace)
    assert said in refused("plan", "--fleet", "trace.csv", "2*16GiB", cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fleet", "generated"), "HOST"),
        (("--fleet", "generated", "0*16GiB"), "expected at least 1"),
        (("--fleet", "no-such.csv", "16GiB"), "no-such.csv"),
        (("--fleet", "generated", "16GiB", "--td", "1GiB"), "expected one of the two"),
        (("--fleet", "generated", "16GiB", "--share-2m", "101"), "from 0 to 100"),
    ],
)
def test_it_refuses_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused("plan", *arguments)


def test_seeds_give_a_spread() -> None:
    ended = dpamt("plan", "--fleet", "generated", "2*16GiB", "--age", "0.05", "--seeds", "3")
    assert "mean of 3 seeds" in ended.out
    assert "newly fit" in ended.out
    assert "newly fit" not in dpamt("plan", "--fleet", "generated", "2*16GiB", "--age", "0.05").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1GiB", "--seeds", "3"), "--seeds has no effect here"),
        (("1GiB", "--occupancy", "50"), "--occupancy has no effect here"),
        (("1GiB", "--price", "3"), "--price has no effect here; expected it with --fleet"),
        (("1GiB", "--share-2m", "50"), "expected --td as well"),
        (
            ("1GiB", "--pair-pages", "pool"),
            "--pair-pages has no effect here; expected it with --age",
        ),
        (
            ("--fleet", "generated", "1GiB", "--pair-pages", "pool"),
            "--pair-pages has no effect here",
        ),
        (("--fleet", "generated", "1GiB", "--until", "5"), "--until with made-up VMs"),
        (("--fleet", "trace.csv", "1GiB", "--occupancy", "5"), "--occupancy has no effect here"),
    ],
)
def test_an_option_without_effect_is_refused(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused("plan", *arguments)


HUAWEI = "vmid,cpu,memory,time,type\n1,2,4,100,0\n1,2,4,7300,1\n1,2,4,7400,1\n"
ALIBABA = "c_1,m_1,0,app_1,started,400,400,1.5\nc_1,m_1,7000,app_1,stopped,400,400,1.5\n"
MIXED = "vmid,arrival,departure,memory_gib,vcpus,td\na,0,7200,4,2,1\na,0,7200,4,2,0\n"


def test_what_a_trace_is_and_what_was_settled_is_told(tmp_path: Path) -> None:
    (tmp_path / "huawei.csv").write_text(HUAWEI)
    ended = dpamt("plan", "--fleet", "huawei.csv", "16GiB", cwd=tmp_path)
    first = " ".join(ended.out.split("TDs by size")[0].split())
    assert "Note: huawei.csv: read as Huawei's trace, a row for each event." in first
    assert "deletions of a VM that was deleted before, left out: 1" in first
    assert "kernel pages after boot 10 % of the regions (--fragmentation), page-block" in first
    assert "all VMs are TDs (--td-share, or the column td)" in first
    document = json.loads(
        dpamt("plan", "--fleet", "huawei.csv", "16GiB", "--json", cwd=tmp_path).out
    )
    assert len(document["fleet"]["notes"]) == 2
    assert document["fleet"]["driven_by"] in first


def test_normal_vms_and_static_hosts(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(MIXED)
    ended = dpamt("plan", "--fleet", "own.csv", "2*16GiB", "3*16GiB:static", "--json", cwd=tmp_path)
    fleet = json.loads(ended.out)["fleet"]
    assert (fleet["today"]["vms"], fleet["today"]["tds"]) == (2, 1)
    assert [host["host_type"] for host in fleet["today"]["hosts"]].count("16GiB:static") == 3
    assert "1 of 2 VMs are TDs" in fleet["driven_by"]
    assert "rows that repeat the identifier of an earlier row: 1" in fleet["notes"][0]


@pytest.mark.parametrize(
    ("trace", "arguments", "said"),
    [
        (ALIBABA, ("16GiB",), "as a share of a machine's; expected --machine-gib"),
        (HUAWEI, ("16GiB", "--machine-gib", "9"), "--machine-gib has no effect"),
        (MIXED, ("16GiB", "--td-share", "50"), "--td-share has no effect"),
        (MIXED, ("2*16GiB:static",), "every host stays on static PAMT"),
        (TRACE, ("16GiB", "--td-share", "0"), "none of 3 VMs is a TD"),
    ],
)
def test_fleets_that_are_refused(
    tmp_path: Path, trace: str, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "trace.csv").write_text(trace)
    assert said in refused("plan", "--fleet", "trace.csv", *arguments, cwd=tmp_path)


MAP = "BIOS-e820: [mem 0x0000000000100000-0x000000023fffffff] usable\n"


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("virt/tdx: TDX-Module initialization failed (-5)\n", "TDX did not come up on host.dmesg"),
        ("virt/tdx: Module version: 1.5.24\n", "has TDX module 1.5.24, by its own log"),
        ("virt/tdx: Module version: 2.0.18\n", ""),
    ],
)
def test_what_the_log_of_a_host_says_against_it_is_said(
    log: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "host.dmesg").write_text(log + MAP)
    (tmp_path / "trace.csv").write_text(TRACE)
    arguments = ("plan", "--fleet", "trace.csv", "host.dmesg", "--json")
    fleet = json.loads(dpamt(*arguments, cwd=tmp_path).out)["fleet"]
    assert len(fleet["notes"]) == bool(said)
    assert said in "".join(fleet["notes"])


def test_a_machine_without_tdx_is_no_host_of_a_fleet(tmp_path: Path) -> None:
    (tmp_path / "amd.dmesg").write_text(f"smpboot: CPU0: AMD EPYC 9654 (family: 0x19)\n{MAP}")
    (tmp_path / "trace.csv").write_text(TRACE)
    line = refused("plan", "--fleet", "trace.csv", "2*amd.dmesg", cwd=tmp_path)
    assert line.startswith("amd.dmesg: TDX cannot come up there")
