"""`dpamt run` from outside: each way it refuses, and that text and JSON say the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .command import dpamt, dpamt_process, refused

SMALL = """
title = "Three TDs"
[host]
machine = "1GiB"
[[td]]
name = "a"
count = 2
memory = "2MiB"
vcpus = 2
share_2m = 0.5
image = "8KiB"
[[td]]
name = "b"
memory = "4MiB"
image = "64KiB"
[[phase]]
name = "up"
steps = [{ do = "build" }, { do = "fault" }]
[[phase]]
name = "down"
steps = [{ do = "split", td = "b" }, { do = "crash" }]
"""

E820 = """\
BIOS-e820: [mem 0x0000000000000000-0x000000000009efff] usable
BIOS-e820: [mem 0x0000000000100000-0x00000000003fffff] usable
"""

OVERLAPPING = """\
virt/tdx: CMR: [0x100000, 0x77800000)
virt/tdx: CMR: [0x70000000, 0x407a000000)
"""

BROKEN = """\
def tdx_pamt_get(kernel, cpu, pfn, cache):
    return kernel.no_such_thing


def tdx_pamt_put(kernel, cpu, pfn):
    pass
"""

NEVER_ADDS = BROKEN.replace("kernel.no_such_thing", "0")

OWN = """\
from dpamt.host.designs.merged import tdx_pamt_get, tdx_pamt_put
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenarios")
    (folder / "small.toml").write_text(SMALL)
    (folder / "bad.toml").write_text('title = "x"\n[[td]]\nname = "a"\nmemory = -1\n')
    (folder / "syntax.toml").write_text('title = "x"\nseed = \n')
    (folder / "huge.toml").write_text(SMALL.replace('"4MiB"\nimage', '"2TiB"\nimage'))
    (folder / "many.toml").write_text(SMALL.replace('"2MiB"\nvcpus', '"600MiB"\nvcpus'))
    (folder / "old.toml").write_text(
        SMALL.replace("[[td]]", "module_dynamic_pamt = false\n[[td]]", 1)
    )
    (folder / "tight.toml").write_text(
        SMALL.replace('"1GiB"', '"20MiB"').replace('"4MiB"\nimage', '"14MiB"\nimage')
    )
    (folder / "boot.toml").write_text('[host]\nmachine = "1GiB"\n')
    (folder / "tiny.toml").write_text('[host]\nmachine = "tiny.e820"\n')
    (folder / "holes.toml").write_text('[host]\nmachine = "reserved-areas"\n')
    (folder / "tiny.e820").write_text(E820)
    (folder / "overlapping.dmesg").write_text(OVERLAPPING)
    (folder / "truncated.dmesg").write_text(OVERLAPPING[:-20])
    (folder / "empty.dmesg").write_text("")
    (folder / "broken.py").write_text(BROKEN)
    (folder / "never_adds.py").write_text(NEVER_ADDS)
    (folder / "half.py").write_text(BROKEN.replace("tdx_pamt_put", "tdx_put"))
    (folder / "syntax.py").write_text("def tdx_pamt_get(:\n")
    (folder / "own.py").write_text(OWN)
    return folder


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("bad.toml",), r'bad\.toml:4: td\[0\]\.memory: expected a size such as "4GiB".*got -1'),
        (("syntax.toml",), r"syntax\.toml:2: not valid TOML: "),
        (("none.toml",), r"none\.toml: No such file"),
        ((".",), r"\.: Is a directory"),
        (("huge.toml",), r"huge\.toml:14: td\[1\]\.memory: 2TiB is larger than the host"),
        (("many.toml",), r"many\.toml:18: phase\[0\]\.steps\[1\]: fault: the TDs then use"),
        (("tiny.toml",), r"tiny\.e820: too small: .*-ENOMEM"),
        (("old.toml",), r'side "dynamic" asks for Dynamic PAMT, but .* does not offer it'),
        (("old.toml", "--pamt", "dynamic"), r"does not offer it"),
        (("tight.toml",), r"tight\.toml:\d+: .*-ENOMEM \(-12\); not one page was free; expected"),
        (("--host", "overlapping.dmesg"), r"overlapping\.dmesg:2: .*do not overlap"),
        (("--host", "truncated.dmesg"), r"truncated\.dmesg:2: "),
        (("--host", "empty.dmesg"), r"empty\.dmesg:1: the file is empty"),
        (("--host", "nowhere"), r"nowhere: no such file"),
        (
            ("small.toml", "--design", "fast"),
            r"design 'fast': expected one of static, lazy, v1, v2",
        ),
        (("small.toml", "--design", "none.py"), r"none\.py: No such file"),
        (("small.toml", "--design", "half.py"), r"half\.py: tdx_pamt_put is missing"),
        (("small.toml", "--design", "syntax.py"), r"syntax\.py:1: "),
        (
            ("small.toml", "--design", "broken.py"),
            r"broken\.py:2: tdx_pamt_get: AttributeError: .*no_su",
        ),
        (("--seed", "-1"), r"run: argument --seed: '-1'; expected seed"),
        (("--pamt", "both"), r"run: argument --pamt"),
        (("--fly",), r"run: no argument '--fly' is known"),
    ],
)
def test_bad_input_is_one_line_and_2(
    folder: Path, arguments: tuple[str, ...], pattern: str
) -> None:
    line = refused("run", *arguments, cwd=folder)
    assert re.search(pattern, line), line


def test_a_module_that_does_not_come_up_shows_the_kernel_log(folder: Path) -> None:
    ended = dpamt("run", "holes.toml", cwd=folder)
    assert ended.code == 1
    assert ended.out.splitlines()[-2:] == [
        "virt/tdx: initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.",
        "virt/tdx: TDX-Module initialization failed (-28)",
    ]
    assert len(ended.err.splitlines()) == 1
    line = refused("run", "holes.toml", "--json", cwd=folder, code=1)
    assert "reserved areas exhausted" in line


def test_a_design_that_never_adds_a_pair_is_found_out(folder: Path) -> None:
    line = refused("run", "small.toml", "--json", "--design", "never_adds.py", cwd=folder, code=1)
    assert "TDH.MNG.CREATE returned TDX_MISSING_PAMT_PAGE_PAIR" in line


def document(folder: Path, *arguments: str) -> dict[str, Any]:
    ended = dpamt("run", *arguments, "--json", cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    loaded: dict[str, Any] = json.loads(ended.out)
    return loaded


UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def sections(text: str) -> list[dict[str, list[str]]]:
    """Of each phase in the text: row label to its cells."""
    found: list[dict[str, list[str]]] = []
    for line in text.splitlines():
        if re.match(r"Phase \d+ of \d+: ", line):
            found.append({})
        elif line.startswith("PAMT at the end"):
            return found
        elif found and line.startswith("  ") and len(line) > 38:
            cells = re.findall(r"\S+(?: [KMG]?i?B\b| times\b| %)?", line[38:])
            found[-1].setdefault(line[2:38].strip(), cells)
    return found


def cell_bytes(cell: str) -> float:
    if cell == "-":
        return 0
    number, unit = cell.split()
    return float(number) * UNITS[unit]


def cell_count(cell: str) -> int:
    return 0 if cell == "-" else int(cell.replace(",", ""))


@pytest.mark.parametrize(
    "options",
    [(), ("--design", "v2"), ("--pamt", "static"), ("--design", "own.py", "--pamt", "dynamic")],
)
def test_text_and_json_give_the_same_numbers(folder: Path, options: tuple[str, ...]) -> None:
    facts = document(folder, "small.toml", *options)
    ended = dpamt("run", "small.toml", *options, cwd=folder)
    assert (ended.code, ended.err) == (0, "")
    assert facts["clean"] is True
    phases = sections(ended.out)
    assert len(phases) == len(facts["phases"]) == 3
    for index, rows in enumerate(phases):
        snapshots = [side["snapshots"][index] for side in facts["sides"]]
        counts = {
            "TDs alive": [snapshot["tds"]["alive"] for snapshot in snapshots],
            "page pairs installed": [snapshot["pairs"] for snapshot in snapshots],
            "as 2M pages": [snapshot["tds"]["guest_2m"] for snapshot in snapshots],
            "as 4K pages": [snapshot["tds"]["guest_4k"] for snapshot in snapshots],
            "S-EPT pages": [snapshot["tds"]["sept"] for snapshot in snapshots],
            "SEAMCALLs in this phase": [
                sum(row["count"] for row in snapshot["seamcalls"]) for snapshot in snapshots
            ],
        }
        for leaf in {row["leaf"] for snapshot in snapshots for row in snapshot["seamcalls"]}:
            if leaf != "TDH.VP.ENTER":
                counts[leaf] = [
                    sum(
                        row["count"]
                        for row in snapshot["seamcalls"]
                        if (row["leaf"], row["status"]) == (leaf, "TDX_SUCCESS")
                    )
                    for snapshot in snapshots
                ]
        for label, expected in counts.items():
            shown = rows.get(label)
            if shown is None:
                assert not any(expected), label
            else:
                assert [cell_count(cell) for cell in shown] == expected, label
        for label, kind in (("PAMT", "total"), ("4K level", "level_4k"), ("page bitmap", "bitmap")):
            if label in rows:
                for cell, snapshot in zip(rows[label], snapshots, strict=True):
                    assert cell_bytes(cell) == pytest.approx(snapshot["pamt"][kind], rel=0.005)
    for side in facts["sides"]:
        assert side["findings"] == []
        assert side["snapshots"][-1]["pairs"] == 0
        assert side["snapshots"][-1]["free_pages"] == side["free_pages_at_boot"]
        for line in side["snapshots"][0]["log"]:
            assert line in ended.out


def test_memory_is_another_word_for_host(folder: Path) -> None:
    one = document(folder, "boot.toml", "--memory", "768MiB", "--pamt", "static")
    other = document(folder, "boot.toml", "--host", "768MiB", "--pamt", "static")
    assert one == other
    assert one["host"]["source"] == "768MiB"


def test_a_seed_repeats_a_run_in_another_process(folder: Path) -> None:
    arguments = ("run", "small.toml", "--pamt", "static", "--seed", "7", "--json")
    ended = dpamt_process(*arguments, cwd=folder)
    assert ended == dpamt(*arguments, cwd=folder)
    assert ended.code == 0
    assert ended.err == ""  # no progress where there is no terminal
    assert json.loads(ended.out)["seed"] == 7


def test_bars_are_ascii_where_nothing_else_can_be(folder: Path) -> None:
    arguments = ("run", "boot.toml", "--pamt", "dynamic")
    blocks = dpamt(*arguments, cwd=folder).out
    ascii_text = dpamt(*arguments, cwd=folder, encoding="ascii").out
    assert ascii_text.isascii()
    assert [len(line) for line in ascii_text.split("\n")] == [
        len(line) for line in blocks.split("\n")
    ]
    assert ascii_text.count("#") == blocks.count("█") > 0


def test_a_host_on_which_tdx_did_not_come_up_is_no_silent_success() -> None:
    """Its memory map is run; its own log says that the machine was not."""
    arguments = ("run", "--host", "module-too-old", "--pamt", "dynamic")
    said = "TDX did not come up there, by its own log: TDX module 1.0"
    assert said in " ".join(dpamt(*arguments).out.split())
    notes = json.loads(dpamt(*arguments, "--json").out)["host"]["notes"]
    assert sum(said in note for note in notes) == 1
    assert "did not come up" not in dpamt("run", "--host", "host-1tib", "--pamt", "dynamic").out
    assert said in " ".join(dpamt("expect", "--case", "2", "--host", "module-too-old").out.split())
    assert "did not come up" not in dpamt("expect", "--case", "2", "--host", "host-1tib").out
