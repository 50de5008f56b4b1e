"""A plan's text has the numbers of its JSON document: every table is read back, cell by cell."""

import json
import re
from functools import cache
from typing import Any

import pytest

from dpamt.plan.mix import parse_mix
from dpamt.plan.plan import HostPlan, plan_host
from dpamt.report.plan_answer import headline
from dpamt.report.plan_json import plan_json
from dpamt.report.plan_text import plan_text

from .read_back import cells, number, row, saving, section, shows

PLANS = {
    "fits": ("4GiB", "3x64MiB/2vcpu@2M=50%", True),
    "mixed": ("8GiB", "2x512MiB@2M=0% 1x64MiB/4vcpu", False),
    "reserved areas": ("reserved-areas", "2x1GiB", False),
    "too many": ("4GiB", "40x64MiB", False),
    "too large": ("4GiB", "6x1GiB/2vcpu", False),
    "too many and too large": ("4GiB", "60x1GiB/2vcpu", False),
    "none": ("8GiB", "", False),
    "its own log": ("host-1tib", "", False),
}


@cache
def planned(name: str) -> tuple[str, Any]:
    """Text and document."""
    host, mixes, run = PLANS[name]
    plan = plan_host(host, [parse_mix(text) for text in mixes.split()], run=run)
    return plan_text([plan]), json.loads(json.dumps(plan_json([plan])))["hosts"][0]


@pytest.fixture(params=PLANS)
def both(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return planned(request.param)


def test_the_first_screen(both: tuple[str, Any]) -> None:
    text, document = both
    answer, host, static = document["answer"], document["host"], document["host"]["static"]["total"]
    ways = [answer["today"], answer["tomorrow"]]
    assert " ".join(text.split()).count(answer["sentence"]) >= 1
    assert f"What to do: {' '.join(answer['todo'].split())}." in " ".join(text.split())
    lines = text[: text.index("of RAM, ")].split("\n")
    of_static, *sizes = row(lines, "PAMT")
    assert shows(of_static, static)
    assert all(shows(cell, way["dynamic"]) for cell, way in zip(sizes, ways, strict=True))
    for label, key in (("Dynamic PAMT saves", "saved"), ("at worst", "saved_worst")):
        if label == "at worst" and document["mix"] is None:
            continue
        for cell, way in zip(row(lines, label), ways, strict=True):
            assert saving(cell, way[key], static)
    for cell, way in zip(row(lines, "of RAM"), ways, strict=True):
        assert shows(cell, way["saved"] / host["memory_bytes"])
        assert way["saved_of_ram"] == pytest.approx(way["saved"] / host["memory_bytes"])
    assert ("more TDs fit" in text) == ("TDs fit" in text) == (document["mix"] is not None)
    if document["mix"] is not None:
        more = [int(cell) for cell in row(lines, "more TDs fit")]
        assert more == [way["more_tds"] for way in ways]
        fits = [cell.partition(":")[0] != "no" for cell in row(lines, "TDs fit")]
        assert fits == [document[when]["fits"] for when in ("today", "tomorrow")]
        for end, when in ((58, "today"), (80, "tomorrow")):
            lacking = [line[end - 22 : end].split(": ")[-1].strip() for line in lines
                       if cells(line)[0] in ("TDs fit", "also short of")]  # fmt: skip
            short = document[when]["short_of"]
            assert len([cell for cell in lacking if cell]) == max(len(short), 1)
            if not document[when]["fits"]:
                for cell, what in zip(lacking, short, strict=False):
                    assert set(re.findall(r"\w+", cell)) - {"if"} <= set(what.split())
    merged = next(one for one in host["vintages"] if one["vintage"] == "merged")
    down = answer["limit"] != "" and not merged["initialises"]
    assert ("Sizes for when it comes up:" in lines) == down


def test_what_limits_first_has_its_numbers(both: tuple[str, Any]) -> None:
    text, document = both
    answer, host, mix = document["answer"], document["host"], document["today"]
    line = " ".join(text.split()).partition("What limits first: ")[2].partition(". ")[0]
    if answer["limit"] == "reserved areas":
        merged = next(one for one in host["vintages"] if one["vintage"] == "merged")
        counts = [int(count) for count in re.findall(r"\d+", line)]
        assert counts == [merged["reserved_used"], merged["reserved_max"]]
        return
    assert ("(assumed)" in line) == ((host["log"] or {}).get("private_keyids") is None)
    if mix is None:
        assert line.startswith(f"{host['guest_keyids']:,} guest KeyIDs")
        return
    memory_first = "memory, " in line
    assert memory_first == (answer["limit"] == "memory")
    numbers = [int(found.replace(",", "")) for found in re.findall(r"(?<!\S)[\d,]+(?= )", line)]
    tds, keyids = numbers if memory_first else reversed(numbers)
    assert keyids == mix["keyids"]
    # The better mode holds this number; one more does not fit in either.
    assert tds >= mix["pages"]["tds"] or not mix["fits"]
    assert (tds <= keyids) == memory_first or tds == keyids


def test_no_line_is_wider_than_the_terminal(both: tuple[str, Any]) -> None:
    """Columns that ran into each other made such a line."""
    assert max(map(len, both[0].splitlines())) <= 80


@pytest.mark.parametrize("mix", ["60x1GiB/2vcpu", "60x64MiB", "6x1GiB", "40x256MiB/8vcpu@2M=50%"])
def test_what_is_said_to_fit_does(mix: str) -> None:
    """The number of TDs that the advice names, asked for in a plan of its own."""
    plan = plan_host("4GiB", [parse_mix(mix)])
    assert plan.answer.kind == "does-not-fit"
    found = re.match(r"Run at most ([\d,]+) ", headline(plan).todo)
    assert found is not None
    most = int(found[1])
    each = mix.partition("x")[2]
    today = plan_host("4GiB", [parse_mix(f"{most}x{each}")]).today
    assert today is not None
    assert today.short_of == ()
    more = plan_host("4GiB", [parse_mix(f"{most + 1}x{each}")]).today
    assert more is not None
    assert more.short_of != ()


def test_the_host_in_one_sentence(both: tuple[str, Any]) -> None:
    text, document = both
    host = document["host"]
    said = " ".join(text.split())
    found = re.search(
        r"(\S+ \wiB) of RAM, (\S+ \wiB) of it above 1 MiB where TDs may be, in ([\d,]+) regions of "
        r"2M and ([\d,]+) NUMA nodes?; ([\d,]+) guest KeyIDs?;",
        said,
    )
    assert found is not None
    keys = ("memory_bytes", "tdx_bytes", "regions", "nodes", "guest_keyids")
    for number_, key in zip(found.groups(), keys, strict=True):
        assert shows(number_, host[key]), key
    assert ("1 NUMA node;" in said) == (host["nodes"] == 1)
    for note in host["notes"]:
        assert f"Note: {note}." in said
    module = (host["log"] or {}).get("module_version")
    assert ("sizes as of TDX module" in said) == (module not in (None, host["module"]))


def test_pamt_at_idle(both: tuple[str, Any]) -> None:
    text, document = both
    host = document["host"]
    lines = section(text, "PAMT at idle")
    assert cells(lines[0]) == ["static", "dynamic"]
    two = (host["static"], host["dynamic"])
    for label, values in (
        ("1G level", [one["level_1g"] for one in two]),
        ("2M level", [one["level_2m"] for one in two]),
        ("4K level", [host["static"]["level_4k"], None]),
        ("page bitmap", [None, host["dynamic"]["bitmap"]]),
        ("reference counters", [None, host["dynamic"]["refcounts"]]),
        ("all", [one["total"] for one in two]),
        ("of RAM", [one["total"] / host["memory_bytes"] for one in two]),
        ("KB in the kernel log", [one["boot"] / 1024 for one in two]),
    ):
        for cell, value in zip(row(lines, label), values, strict=True):
            assert cell == "-" if value is None else shows(cell, value), label
    # The parts are the whole.
    for at, one in enumerate(two):
        parts = sum(value for name, value in one.items() if name not in ("boot", "total"))
        assert shows(row(lines, "all")[at], parts)
    recorded = host["recorded_pamt_kib"]
    log = " ".join(" ".join(lines).split()).partition("This host's own log says ")[2]
    assert bool(log) == (recorded is not None)
    if recorded is not None:
        same = [name for name, one in zip(("static", "Dynamic"), two, strict=True)
                if one["boot"] == recorded << 10]  # fmt: skip
        assert log.startswith(f"{recorded} KB allocated for PAMT: ")
        assert ("neither" in log) == (not same)
        assert all(f"the same as {name} PAMT here" in log for name in same)


def test_pamt_by_tdmr(both: tuple[str, Any]) -> None:
    """Their sizes add up to those of the levels; their ranges are those of the document."""
    text, document = both
    tdmrs = document["host"]["tdmrs"]
    lines = section(text, "By TDMR")
    assert cells(lines[0]) == ["size", "static", "dynamic"]
    rows = [line for line in lines[1:] if "[" in line]
    assert len(rows) == min(len(tdmrs), 16)
    for line, one in zip(rows, tdmrs, strict=False):
        found = re.fullmatch(r" +\[ *(0x\w+), +(0x\w+)\) +(.*)", line)
        assert found is not None
        base, end = int(found[1], 16), int(found[2], 16)
        assert (base, end) == (one["base"], one["end"])
        size, static, dynamic = re.findall(r"\S+ \w+", found[3])
        assert shows(size, end - base)
        assert shows(static, one["level_1g"] + one["level_2m"] + one["level_4k"])
        assert shows(dynamic, one["level_1g"] + one["level_2m"] + one["bitmap"])
    assert len({len(line) for line in [lines[0], *rows]}) == 1
    assert (f"  and {len(tdmrs) - 16} more" in lines) == (len(tdmrs) > 16)


def test_where_the_counters_end(both: tuple[str, Any]) -> None:
    text, document = both
    host = document["host"]
    lines = section(text, "Where the reference counters end")
    at = next(n for n, line in enumerate(lines) if cells(line)[0] == "counters")
    rows = lines[at + 1 :]
    assert len(rows) == len(host["tops"]) == 3
    for line, top in zip(rows, host["tops"], strict=True):
        what, counters, dynamic, ratio = cells(line)
        assert what == top["what"]
        assert shows(counters, top["refcounts"])
        assert shows(dynamic, top["total"])
        times = host["static"]["total"] / top["total"]
        is_less = re.match(r"1\b(?!\.)", ratio) is not None
        (said,) = re.findall(r"\d+\.\d", ratio)
        assert is_less == (times < 1)
        assert number(said).stands_for(1 / times if times < 1 else times)
    assert len({len(line) for line in lines[at:]}) == 1


def test_what_each_kernel_does(both: tuple[str, Any]) -> None:
    text, document = both
    vintages = document["host"]["vintages"]
    lines = section(text, "Does Linux initialise TDX here?")
    head = next(n for n, line in enumerate(lines) if line.startswith("  kernel  "))
    for one in vintages:
        first, *_ = [line for line in lines[head:] if cells(line)[0].split()[0] == one["vintage"]]
        name, rest = first[2:24].strip(), first[24:]
        assert name == one["vintage"]
        came, kib, counters, areas = cells(rest)
        assert came == (f"{one['pamt']} PAMT" if one["initialises"] else "NO")
        assert kib == (str(one["pamt_kib"]) if one["initialises"] else "-")
        assert (
            counters == "-" if not one["refcount_bytes"] else shows(counters, one["refcount_bytes"])
        )
        used = one["reserved_used"]
        assert areas == ("-" if used is None else f"{used} of {one['reserved_max']}")
        assert len(first) == len(lines[head])
        assert f"  {one['vintage']:22}{one['about']}" in lines
        if not one["initialises"]:
            assert one["reason"] in " ".join(" ".join(lines).split())


def test_the_tds_at_both_times(both: tuple[str, Any]) -> None:
    text, document = both
    host, titles = (
        document["host"],
        re.findall(r"^TDs, all of their memory in use; .*$", text, re.M),
    )
    ways = [document[when] for when in ("today", "tomorrow") if document[when] is not None]
    assert len(titles) == len(ways)
    for title, mix in zip(titles, ways, strict=True):
        lines = section(text, re.escape(title))
        pages = mix["pages"]
        for label, value in (
            ("control pages (TDR, TDCX, TDVPR)", pages["control"]),
            ("S-EPT pages", pages["sept"]),
            ("guest memory as 2M pages", pages["guest_2m"]),
            ("guest memory as 4K pages", pages["guest_4k"]),
            ("memory that they take", 4096 * (
                pages["control"] + pages["sept"] + 512 * pages["guest_2m"] + pages["guest_4k"]
            )),
        ):  # fmt: skip
            (cell,) = row(lines, label)
            assert shows(cell, value), label
        names = next(cells(line) for line in lines if "scattered  " in line)
        assert names == ["minimum", "fresh", "scattered", "worst"]
        static = host["static"]["total"]
        for at, name in enumerate(names):
            pairs, size = mix["pairs"][name], mix["dynamic"][name]
            assert shows(row(lines, "page pairs")[at], pairs)
            assert shows(row(lines, "Dynamic PAMT")[at], size)
            assert shows(row(lines, "of static PAMT")[at], size / static)
            assert size == host["dynamic"]["total"] + 8192 * pairs
        left = row(lines, "memory left")
        assert shows(left[0], mix["left_static"])
        assert shows(left[1], mix["left_dynamic"])
        # What is left, what they take, PAMT and KVM's own: all that TDs may have.
        kvm = [number(cell) for cell in row(lines, "KVM's mirror tables and pools")]
        takes = 4096 * (
            pages["control"] + pages["sept"] + 512 * pages["guest_2m"] + pages["guest_4k"]
        )
        for at, pamt in enumerate((host["static"]["total"], mix["dynamic"]["fresh"])):
            rest = host["tdx_bytes"] - pamt - takes - mix[("left_static", "left_dynamic")[at]]
            assert kvm[at].stands_for(rest)
        for part in mix["parts"]:
            assert f"{part['mix']['count']}x" in lines[0] + lines[1]


def test_the_tds_that_were_run() -> None:
    text, document = planned("fits")
    ran = document["ran"]
    lines = section(text, "The TDs as they were asked for, run on the model")
    for label, key in (
        ("control pages (TDR, TDCX, TDVPR)", "control"),
        ("S-EPT pages", "sept"),
        ("guest memory as 2M pages", "guest_2m"),
        ("guest memory as 4K pages", "guest_4k"),
        ("page pairs", "pairs"),
        ("Dynamic PAMT", "dynamic"),
        ("static PAMT", "static"),
    ):
        (cell,) = row(lines, label)
        assert shows(cell, ran[key]), label
    assert row(lines, "audit") == ["clean"]
    assert "run on the model" not in planned("mixed")[0]


def test_break_even(both: tuple[str, Any]) -> None:
    """Ten steps to all of the memory; a bar is as long as its share, a ! is where it costs."""
    text, document = both
    static, curve = document["host"]["static"]["total"], document["break_even"]["curve"]
    lines = section(text, "Break-even")
    rows = [line for line in lines if re.match(r" +\d+ %", line)]
    assert [int(line.split()[0]) for line in rows] == list(range(0, 101, 10))
    for line in rows:
        found = re.fullmatch(r" +(\d+) %  ([█▏▎▍▌▋▊▉]*) +(\S+ \w+)( !)? +(\S+ \w+)( !)?", line)
        assert found is not None, line
        share = int(found[1]) / 100
        at = min(curve, key=lambda one: abs(one["share"] - share))
        assert at["share"] == pytest.approx(share)
        assert shows(found[3], at["packed"])
        assert shows(found[5], at["scattered"])
        assert bool(found[4]) == (at["packed"] > static)
        assert bool(found[6]) == (at["scattered"] > static)
        assert found[2].count("█") == pytest.approx(30 * min(at["packed"] / static, 1), abs=1)
    assert shows(" ".join(lines).split("static PAMT, ")[1].split(".  ")[0], static)


def test_reasons_and_warnings(both: tuple[str, Any]) -> None:
    text, document = both
    lines = section(text, "Why")
    said = " ".join(" ".join(lines).split())
    for mark, told in (("-", document["advice"]["reasons"]), ("!", document["advice"]["warnings"])):
        assert sum(line.startswith(f"  {mark} ") for line in lines) == len(told)
        for one in told:
            assert f"{mark} {one[0].upper()}{' '.join(one[1:].split())}." in said


@pytest.mark.parametrize("columns", ["80", "120"])
def test_many_hosts_together(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    plans: list[HostPlan] = [
        plan_host("4GiB", [parse_mix("1x1GiB@2M=50%")]),
        plan_host("8GiB", [parse_mix("5x1GiB")]),
    ]
    hosts = plan_json(plans)["hosts"]
    text = plan_text(plans)
    assert text.count("\n\n\nPlan for ") == 1
    lines = section(text, "All 2 hosts, fresh")
    assert cells(lines[0]) == ["RAM", "static", "today: 4K", "2M"]
    assert len({len(line) for line in lines[:3]}) == 1
    for one, line in zip(hosts, lines[1:3], strict=True):
        name, *sizes = cells(line)
        host, answer = one["host"], one["answer"]
        assert name == host["source"]
        wanted = [host["memory_bytes"], host["static"]["total"]]
        wanted += [answer["today"]["dynamic"], answer["tomorrow"]["dynamic"]]
        assert all(shows(cell, size) for cell, size in zip(sizes, wanted, strict=True))
    static = sum(one["host"]["static"]["total"] for one in hosts)
    found = re.search(
        r"Together: static (.*?); Dynamic PAMT saves (.*?) today, (.*?) with 2M",
        " ".join(" ".join(lines).split()),
    )
    assert found is not None
    assert shows(found[1], static)
    for text_, when in ((found[2], "today"), (found[3], "tomorrow")):
        assert saving(text_, sum(one["answer"][when]["saved"] for one in hosts), static)
    assert "hosts, fresh" not in plan_text(plans[:1])
