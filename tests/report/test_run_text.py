"""The text of a run: its width, and that it says what the facts say."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from dpamt.report.run_text import run_text
from dpamt.report.side_table import side_table
from dpamt.run.api import run_scenario
from dpamt.run.facts import InjectionFacts, PamtFacts, RunFacts, SeamcallCount

from .read_back import cells, number, section, shows

SCENARIO = """
title = "A title that is rather long, for a scenario that is rather small, to see lines wrapped"
[host]
machine = "2GiB"
{sides}
[[td]]
name = "a-name-of-24-characters."
memory = "4MiB"
vcpus = 2
image = "12KiB"
share_2m = 0.5
[[phase]]
name = "a phase with a name that is quite long, and goes on until it does not fit a line"
steps = [{{ do = "build" }}, {{ do = "fault" }}, {{ do = "split" }}]
"""

NAMES = ("one", "a-name-of-24-characters.", "three", "four", "five")


def run(sides: int) -> RunFacts:
    parts = [
        f'[[side]]\nname = "{name}"\ndesign = "{("merged", "v2")[index % 2]}"\n'
        for index, name in enumerate(NAMES[:sides])
    ]
    return run_scenario(SCENARIO.format(sides="".join(parts)))


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return run(0)


@pytest.mark.parametrize("sides", [0, 1, 3, 5])
def test_80_columns_are_enough(sides: int) -> None:
    text = run_text(run(sides))
    wide = [line for line in text.split("\n") if len(line) > 80]
    assert wide == []
    assert text.endswith("\n")
    assert not any(line != line.rstrip() for line in text.split("\n"))


def test_every_kernel_log_line_of_the_boot_is_there(facts: RunFacts) -> None:
    text = run_text(facts)
    for side in facts.sides:
        for line in side.snapshots[0].log:
            assert line in text


def test_a_clean_run_says_so(facts: RunFacts) -> None:
    text = run_text(facts)
    assert "Audit: clean on every side" in text
    assert "FINDING" not in text
    assert "every one came back" in text


def test_findings_are_told_where_they_were_met_and_at_the_end(facts: RunFacts) -> None:
    side = facts.sides[1]
    bad = replace(side.snapshots[1], findings=("region 0x5: refcount 3, but no pair",))
    snapshots = (side.snapshots[0], bad, *side.snapshots[2:])
    sides = (facts.sides[0], replace(side, snapshots=snapshots))
    spoiled = replace(facts, sides=sides)
    assert not spoiled.clean
    text = run_text(spoiled)
    assert text.count("FINDING dynamic: region 0x5: refcount 3, but no pair") == 2
    assert "1 FINDINGS" not in text
    assert "Audit: clean" not in text


def test_a_table_goes_on_below_when_sides_do_not_fit() -> None:
    lines = list(side_table(["a", "b", "c", "d"], [("x", ["1", "2", "3", "4"])]))
    assert len(lines) == 5
    assert lines[1].split() == ["x", "1", "2", "3"]
    assert lines[4].split() == ["x", "4"]


BESIDE = "this mode (takes|against it)$"
WITH_ZERO = ("TDs alive", "TD memory in use", "SEAMCALLs in this phase")
"""Rows in which nothing is a 0, not a dash."""
INJECTION = InjectionFacts(
    "TDH.MEM.PAGE.AUG:busy", 1234, 71,
    (SeamcallCount("TDH.MEM.PAGE.AUG", "TDX_OPERAND_BUSY", 65),), (), 2, 3, 5, 0, 7,
)  # fmt: skip


def flat(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def tables(lines: list[str], sides: int) -> dict[str, list[str]]:
    """The rows of a phase by their labels; a label that two leaves have goes with its leaf."""
    found: dict[str, list[str]] = {}
    leaf = ""
    for line in lines:
        label, *values = line[:38].strip(), *line[38:].split("  ")
        values = [value.strip() for value in values if value.strip()]
        if label.startswith("TDH."):
            leaf = label
        key = f"{leaf} {label}" if line.startswith("      ") else label
        if len(values) == sides:
            found[key] = values
    return found


def test_the_tables_of_a_phase_have_the_numbers_of_the_document(facts: RunFacts) -> None:
    document = json.loads(json.dumps(facts.to_json()))
    text = run_text(facts)
    assert len(document["phases"]) == 3
    for at, phase in enumerate(document["phases"]):
        lines = section(text, f"Phase {at + 1} of 3: {phase['name'][:40]}")
        snapshots = [side["snapshots"][at] for side in document["sides"]]
        rows = tables(lines, len(snapshots))
        every: tuple[tuple[str, Any], ...] = (
            ("TDs alive", lambda one: one["tds"]["alive"]),
            ("TD memory in use", lambda one: one["tds"]["guest_bytes"]),
            ("as 2M pages", lambda one: one["tds"]["guest_2m"]),
            ("as 4K pages", lambda one: one["tds"]["guest_4k"]),
            ("S-EPT pages", lambda one: one["tds"]["sept"]),
            ("control pages (TDR, TDCX, TDVPR)", lambda one: one["tds"]["control"]),
            ("page pairs installed", lambda one: one["pairs"]),
            ("PAMT", lambda one: one["pamt"]["total"]),
            ("1G level", lambda one: one["pamt"]["level_1g"]),
            ("2M level", lambda one: one["pamt"]["level_2m"]),
            ("4K level", lambda one: one["pamt"]["level_4k"]),
            ("page bitmap", lambda one: one["pamt"]["bitmap"]),
            ("page pairs", lambda one: one["pamt"]["pairs"]),
            ("refcounts", lambda one: one["pamt"]["refcounts"]),
            ("PAMT in the other mode (computed)", lambda one: one["other_pamt"]["total"]),
            ("SEAMCALLs in this phase", lambda one: sum(c["count"] for c in one["seamcalls"])),
        )
        for label, value in every:
            values = [value(one) for one in snapshots]
            if label not in rows:
                assert not any(values), label
                continue
            for cell, wanted in zip(rows[label], values, strict=True):
                assert (cell == "-") == (not wanted and label not in WITH_ZERO), label
                assert cell == "-" or shows(cell, wanted), label
        (beside,) = [row for label, row in rows.items() if re.search(BESIDE, label)]
        for cell, one in zip(beside, snapshots, strict=True):
            ratio = one["pamt"]["total"] / one["other_pamt"]["total"]
            times = re.fullmatch(r"(\d+) times(?: it)?", cell)
            assert (ratio >= 2) == (times is not None)
            shown = cell.removesuffix(" of it")
            assert int(times[1]) == round(ratio) if times else shows(shown, ratio)
        counts = [
            {(c["leaf"], c["status"]): c["count"] for c in one["seamcalls"]} for one in snapshots
        ]
        for leaf, status in {key for one in counts for key in one}:
            name = status.replace("TDX_SUCCESS, ", "exit ").removeprefix("TDX_")
            label = leaf if status == "TDX_SUCCESS" else f"{leaf} {name}"
            values = [one.get((leaf, status), 0) for one in counts]
            assert [0 if c == "-" else number(c).value for c in rows[label]] == values
        for side, one in zip(document["sides"], snapshots, strict=True):
            said = f"/proc/meminfo, {side['name']}:"
            assert (said in flat(lines)) == (side["pamt"] == "dynamic")
            if side["pamt"] == "dynamic" and one["meminfo"] is None:
                assert f"it would say {one['tdx_kib']} kB" in flat(lines)


def test_leaves_that_only_failed_have_their_sum(facts: RunFacts) -> None:
    side = facts.sides[0]
    failed = tuple(
        SeamcallCount("TDH.MEM.TRACK", status, count)
        for status, count in (("TDX_OPERAND_BUSY", 1200), ("TDX_RND_NO_ENTROPY", 34))
    )
    spoilt = replace(side.snapshots[1], seamcalls=(*failed, *side.snapshots[1].seamcalls))
    snapshots = (side.snapshots[0], spoilt, *side.snapshots[2:])
    text = run_text(replace(facts, sides=(replace(side, snapshots=snapshots), facts.sides[1])))
    rows = tables(section(text, "Phase 2 of 3"), 2)
    lines = [line.split() for line in section(text, "Phase 2 of 3")]
    assert [line[0] for line in lines].count("TDH.MEM.TRACK") == 1
    assert rows["TDH.MEM.TRACK"] == ["1,234", "-"]
    assert rows["TDH.MEM.TRACK OPERAND_BUSY"] == ["1,200", "-"]
    assert rows["TDH.MEM.TRACK RND_NO_ENTROPY"] == ["34", "-"]


def test_what_succeeded_stands_before_what_failed(facts: RunFacts) -> None:
    side = facts.sides[0]
    busy = (SeamcallCount("TDH.MNG.CREATE", "ANOTHER_STATUS", 5), SeamcallCount(
        "TDH.MNG.CREATE", "TDX_SUCCESS", 7))  # fmt: skip
    snapshots = (side.snapshots[0], replace(side.snapshots[1], seamcalls=busy), side.snapshots[2])
    text = run_text(replace(facts, sides=(replace(side, snapshots=snapshots),)))
    lines = [line.split() for line in section(text, "Phase 2 of 3")]
    assert lines.index(["TDH.MNG.CREATE", "7"]) + 1 == lines.index(["ANOTHER_STATUS", "5"])


@pytest.mark.parametrize(
    ("mine", "other", "said"),
    [(200, 100, "2 times"), (199, 100, "199 %"), (50, 100, "50.0 %")],
)
def test_what_this_mode_takes_beside_the_other(
    facts: RunFacts, mine: int, other: int, said: str
) -> None:
    side = facts.sides[0]
    ours, theirs = (PamtFacts(size << 20, 0, 0, 0, 0, 0) for size in (mine, other))
    snapshots = tuple(replace(one, pamt=ours, other_pamt=theirs) for one in side.snapshots)
    text = run_text(replace(facts, sides=(replace(side, snapshots=snapshots),)))
    rows = tables(section(text, "Phase 2 of 3"), 1)
    (beside,) = [row for label, row in rows.items() if re.search(BESIDE, label)]
    assert re.fullmatch(f"{said}( of it| it)?", beside[0])


def test_the_audit_of_a_phase_counts_its_findings(facts: RunFacts) -> None:
    for texts, said in (((), "clean"), (("one",), "1 finding"), (("one", "two"), "2 findings")):
        side = facts.sides[1]
        bad = replace(side.snapshots[1], findings=texts)
        sides = (facts.sides[0], replace(side, snapshots=(side.snapshots[0], bad)))
        first = replace(facts.sides[0], snapshots=facts.sides[0].snapshots[:2])
        spoilt = replace(facts, sides=(first, sides[1]), phases=facts.phases[:2])
        lines = section(run_text(spoilt), "Phase 2 of 2")
        assert tables(lines, 2)["audit"] == ["clean", said]
        assert [f"FINDING {side.name}: {text}" in flat(lines) for text in texts] == [True] * len(
            texts
        )


def test_the_host_and_its_ranges(facts: RunFacts) -> None:
    host = facts.host
    cmrs = tuple((n << 30, (n << 30) + (n << 21)) for n in range(1, 16))
    told = replace(
        host, memory=((1 << 20, 1 << 30, 0), (1 << 31, 5 << 30, 1)), cmrs=cmrs, notes=("it is old",)
    )
    text = run_text(replace(facts, host=told))
    head = flat(text[: text.index("Boot: the kernel log")].split("\n"))
    found = re.search(
        r"Host (\S+): (\S+ \w+) of RAM, (\S+ \w+) of it above 1 MiB where TDs may be, 2 NUMA "
        r"nodes, (\d+) packages?, (\d+) CPUs, (\d+) guest KeyIDs, memory not fragmented\.",
        head,
    )
    assert found is not None
    assert found[1] == host.source
    assert shows(found[2], host.memory_bytes)
    assert shows(found[3], host.tdx_bytes)
    counts = (host.packages, host.cpus, host.guest_keyids)
    assert tuple(map(int, found.groups()[3:])) == counts
    assert "Note: it is old." in head
    lines = [line for line in text.split("\n") if re.match("  (CMR|memory block|TDMR) ", line)]
    ranges = [(kind, start, end, "") for kind, some in (("CMR", cmrs[:12]),) for start, end in some]
    ranges += [("memory block", start, end, f"node {node}") for start, end, node in told.memory]
    ranges += [("TDMR", start, end, "") for start, end in facts.sides[0].tdmrs]
    for line, (kind, start, end, more) in zip(lines, ranges, strict=True):
        parts = re.fullmatch(r"  (.{13}) \[ *(\w+), +(\w+)\) +(\S+ \w+)(?:  (.+))?", line)
        assert parts is not None
        assert (parts[1].strip(), int(parts[2], 16), int(parts[3], 16)) == (kind, start, end)
        assert shows(parts[4], end - start)
        assert (parts[5] or "") == more
    assert "  and 3 more" in text.split("\n")
    twelve = run_text(replace(facts, host=replace(told, cmrs=cmrs[:12])))
    assert "more" not in twelve[: twelve.index("Boot: the kernel log")]


@pytest.mark.parametrize(
    ("when", "said"), [("at-boot", "when it boots"), ("after-boot", "after boot")]
)
def test_fragmentation_is_a_share(facts: RunFacts, when: str, said: str) -> None:
    host = replace(facts.host, fragmentation=0.125, fragmented=when)
    assert f"12.5 % of its 2M blocks spoiled {said}." in flat(
        run_text(replace(facts, host=host)).split("\n")
    )


def test_the_host_s_own_log_is_a_check(facts: RunFacts) -> None:
    static = next(side for side in facts.sides if side.pamt == "static")
    for kib, module, said in (
        (static.pamt_kib, "1.5.06", "the same"),
        (static.pamt_kib + 1, None, "not the same"),
    ):
        host = replace(facts.host, recorded_pamt_kib=kib, recorded_module=module)
        text = flat(run_text(replace(facts, host=host)).split("\n"))
        with_module = f", with TDX module {module}," if module else ""
        assert (
            f"This host's own log{with_module} says: {kib} KB allocated for PAMT. Side "
            f'"{static.name}" here says {static.pamt_kib} KB: {said}.'
        ) in text
    assert "own log" not in run_text(facts)


def test_bars_are_as_long_as_their_shares(facts: RunFacts) -> None:
    text = run_text(facts)
    lines = section(text, "PAMT at the end of each phase")
    totals = [[s.pamt.total for s in side.snapshots] for side in facts.sides]
    pairs = [
        [s.pamt.pairs for s in side.snapshots] for side in facts.sides if side.pamt == "dynamic"
    ]
    for title, sizes in (("All .*; a full bar is ", totals),
                         ("that comes and goes", pairs)):  # fmt: skip
        at = next(n for n, line in enumerate(lines) if re.search(title, line))
        most = max(map(max, sizes))
        head = flat(lines[at : at + 2])
        assert shows(re.findall(r"a full bar is (\S+ \w+)\.", head)[0], most)
        rows = [line for line in lines[at + 1 :] if re.search("[█▏▎▍▌▋▊▉]|  0 B$", line)]
        wanted = [size for phase in zip(*sizes, strict=True) for size in phase]
        for line, size in zip(rows, wanted, strict=False):
            drawn = line[26:66]
            assert shows(cells(line)[-1], size)
            eighths = 8 * drawn.count("█") + sum("▏▎▍▌▋▊▉".find(c) + 1 for c in drawn)
            assert eighths == pytest.approx(8 * 40 * size / most, abs=1)
            assert bool(eighths) == bool(size)


def test_a_host_full_of_tds(facts: RunFacts) -> None:
    lines = section(run_text(facts), "If all ")
    at = next(n for n, line in enumerate(lines) if "of RAM" in line)
    assert cells(lines[at]) == ["static", "dynamic", "of RAM"]
    assert len(lines[at + 1 :]) == len(facts.full_host) > 1
    for line, wanted in zip(lines[at + 1 :], facts.full_host, strict=True):
        share, static, dynamic, of_ram = line[2:38].strip(), *re.findall(r"\S+ [\w%]+", line[38:])
        assert share == f"{100 * wanted.share_2m:g} % of the memory at 2M"
        assert shows(static, wanted.static)
        assert shows(dynamic, wanted.dynamic)
        assert shows(of_ram, wanted.dynamic / facts.host.memory_bytes)
        assert len(line) == len(lines[at])


def test_what_came_of_injected_calls(facts: RunFacts) -> None:
    second = replace(INJECTION, rule="TDH.SYS.INIT:busy", seen=9)
    sides = tuple(replace(side, injected=(INJECTION, second)) for side in facts.sides)
    lines = section(run_text(replace(facts, sides=sides)), "Injected")
    assert lines[:7] == [
        f"{facts.sides[0].name}: TDH.MEM.PAGE.AUG:busy",
        "  calls it looked at: 1,234; hit: 71",
        "  TDH.MEM.PAGE.AUG answered TDX_OPERAND_BUSY: 65",
        "  the call went through nevertheless: 2",
        "  the host made the call again: 3",
        "  the host gave up, VM bugged: 5",
        "  the host gave up, an error to its caller: 7",
    ]
    assert lines[7:9] == [
        f"{facts.sides[0].name}: TDH.SYS.INIT:busy",
        "  calls it looked at: 9; hit: 71",
    ]
    assert "gave up with a warning" not in " ".join(lines)
    warned = replace(INJECTION, warned=4)
    text = run_text(replace(facts, sides=(replace(facts.sides[0], injected=(warned,)),)))
    assert "  the host gave up with a warning: 4" in text.split("\n")
    assert "Injected" not in run_text(facts)


def test_the_bottom_line_has_the_most_and_the_end(facts: RunFacts) -> None:
    said = flat(section(run_text(facts), "Bottom line"))
    for side in facts.sides:
        most = max(side.snapshots, key=lambda one: (one.pamt.total, one.tds.guest_bytes))
        calls = sum(row.count for one in side.snapshots for row in one.seamcalls)
        begin = said.index(f"{side.name}: PAMT ")
        own = said[begin:]
        assert f"{calls:,} SEAMCALLs." in own
        at_boot = re.search(r"PAMT (\S+ \w+) (from boot on|at boot)", own)
        assert at_boot is not None
        assert shows(at_boot[1], side.snapshots[0].pamt.total)
        in_use = re.search(r"(?:at most|with) (\S+ \w+) of TD memory in use", own)
        assert in_use is not None
        assert shows(in_use[1], most.tds.guest_bytes)
        if side.pamt == "static":
            continue
        found = re.search(
            r"at most (\S+ \w+) at the end of a phase \(.*?\), (\S+ \w+) [a-z ]+; .*? most (?:it )?"
            r"is (\S+ \w+) \((\S+ %)\) (less|more) than static PAMT\. Page pairs: at most (\S+)",
            own,
        )
        assert found is not None
        assert shows(found[1], most.pamt.total)
        assert shows(found[2], side.snapshots[-1].pamt.total)
        saved = most.other_pamt.total - most.pamt.total
        assert shows(found[3], abs(saved))
        assert shows(found[4], abs(saved) / most.other_pamt.total)
        assert found[5] == ("less" if saved >= 0 else "more")
        assert shows(found[6], most.pairs)


def test_dynamic_pamt_that_takes_more_is_not_said_to_take_less(facts: RunFacts) -> None:
    side = next(side for side in facts.sides if side.pamt == "dynamic")
    small_ = replace(side.snapshots[0].other_pamt, level_4k=0, level_2m=0, level_1g=1 << 16)
    snapshots = tuple(replace(one, other_pamt=small_) for one in side.snapshots)
    text = run_text(replace(facts, sides=(replace(side, snapshots=snapshots),)))
    found = re.search(r"most (?:it )?is (\S+ \w+) \(\S+ %\) more than", flat(text.split("\n")))
    assert found is not None
    assert shows(found[1], max(one.pamt.total for one in snapshots) - small_.total)


def test_pages_that_did_not_come_back_are_counted(facts: RunFacts) -> None:
    side = facts.sides[1]
    end = side.snapshots[-1]
    gone = replace(end, tds=replace(end.tds, alive=0))
    for free, pairs, said in (
        (side.free_pages_at_boot, 0, f"All {side.free_pages_at_boot:,} pages that were free after"),
        (side.free_pages_at_boot - 1234, 5, "1,234 pages that were free after boot are not free."),
    ):
        last = replace(gone, free_pages=free, pairs=pairs)
        sides = (replace(side, snapshots=(*side.snapshots[:-1], last)),)
        text = flat(run_text(replace(facts, sides=sides)).split("\n"))
        assert said in text
        assert (f"and {pairs} are left." if pairs else "and every one came back.") in text
    assert "free after boot" not in run_text(
        replace(facts, sides=(replace(side, snapshots=(*side.snapshots[:-1], replace(
            gone, tds=replace(gone.tds, alive=1)))),))
    )  # fmt: skip


@pytest.mark.parametrize("columns", ["45", "60", "80", "130"])
def test_the_text_is_as_wide_as_the_terminal(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Bars and sentences take the room that there is."""
    monkeypatch.setenv("COLUMNS", columns)
    lines = section(run_text(facts), "PAMT at the end of each phase")
    longest = max(line.count("█") for line in lines)
    assert longest == max(int(columns) - 40, 10)
    assert max(map(len, run_text(facts).split("\n"))) <= max(int(columns), 80)
