"""What `dpamt verify` prints: its width, its columns, and that it says what the steps say."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dpamt.host.designs import merged
from dpamt.host.designs.load import load_design
from dpamt.report.verify_designs import designs_text
from dpamt.report.verify_text import nearest, suite_text
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.evidence.certificate import Tried, confirm
from dpamt.verify.verdict import verify
from tests.cli.command import dpamt

FIRST_HOUR = Path(__file__).parents[2] / "docs" / "first-hour.md"


def tried(name: str, cpus: tuple[int, ...], most_states: int = 100_000, failures: int = 0) -> Tried:
    asked = Asked(name, "", cpus, "apart", failures, "seamcall", most_states)
    design = load_design(name)
    trial, judges = prepare(asked, design)
    verdict = verify(trial.make(design), judges, asked.granularity, most_states)
    return Tried(asked, trial, verdict, confirm(design, trial, verdict, judges))


@pytest.mark.parametrize("cpus", [(2,), (3,), (4,), (2, 2)])
@pytest.mark.parametrize("whole", [False, True])
def test_eighty_columns(cpus: tuple[int, ...], whole: bool) -> None:
    text = suite_text("v2", [tried("v2", cpus)], whole)
    assert max(map(len, text.splitlines())) <= 80


def test_two_cpus_have_a_column_each() -> None:
    one = tried("v2", (2,))
    found = nearest([one])[0][1]
    lines = suite_text("v2", [one]).splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("CPU0 "))
    right = lines[first].index("CPU1")
    table = lines[first + 1 : lines.index("", first)]
    order = [line.startswith(" " * right) for line in table]
    turns = [0] + [n for n in range(1, len(order)) if order[n] != order[n - 1]]
    changes = [cpu for n, cpu in enumerate(found.schedule) if not n or cpu != found.schedule[n - 1]]
    assert [order[n] for n in turns] == [bool(cpu) for cpu in changes]
    assert found.size == f"{len(found.steps)} steps, {len(changes) - 1} switches"
    assert f"2 CPUs, {found.size}, CPUs switched at" in "\n".join(lines)
    assert "pamt_lock  free -> held" in "\n".join(lines)


def test_only_cpus_that_do_something_have_a_column() -> None:
    one = tried("v2", (4,))
    assert set(nearest([one])[0][1].schedule) == {0, 1}
    lines = suite_text("v2", [one]).splitlines()
    assert "CPU2, CPU3: no step here." in lines
    assert re.fullmatch(r"CPU0 +CPU1", next(line for line in lines if line.startswith("CPU0 ")))


def test_the_first_failure_alone_has_its_steps() -> None:
    """The others in short, each with the property, the trial and the length; --whole has all."""
    both = [tried("v2", (3,)), tried("v2", (2,))]
    short, whole = (suite_text("v2", both, in_full) for in_full in (False, True))
    every = nearest(both)
    assert len(every) > 2
    assert len(re.findall(r"^CPU0 .*CPU1", short, re.M)) == 1
    below = " ".join(short[short.index("Also found") :].split())
    for _, found, _ in every:
        assert f"{found.broken}, in " in short
        assert f"{found.broken}, in " in whole
        if f"{found.broken}, in " in below:
            assert f"({len(found.cpus)} CPUs, {found.size}, CPUs switched at:" in below
    assert "Also found" not in whole
    assert whole.count("Run again with each CPU as a thread") == len(every)
    wrong = [replace(one, replayed=("step 3: no",) * len(one.replayed)) for one in both]
    assert suite_text("v2", wrong).count("NOT CONFIRMED") == len(every)


def test_cpus_that_do_not_fit_are_named_on_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    text = suite_text("v2", [tried("v2", (4,))])
    for cpu in range(2):
        assert re.search(rf"^CPU{cpu}: \[tdx_pamt_get host/designs/v2.py:\d+\]$", text, re.M)


def test_the_table_of_designs() -> None:
    results = {name: [tried(name, (2,))] for name in ("v2", "merged")}
    text = designs_text(results, {"v2": 0, "merged": 1})
    head, v2, right = (
        next(line for line in text.splitlines() if line.startswith(start)).split()
        for start in ("design", "v2", "merged")
    )
    steps = {found.broken: len(found.steps) for found in results["v2"][0].verdict.counterexamples}
    assert v2[head.index("rem")] == str(steps["bad-remove"])
    assert v2[head.index("rst")] == str(steps["at-rest"])
    assert v2[head.index("fat")] == "."
    assert set(right[1:12]) == {"."}
    assert (v2[-1], right[-1]) == ("0", "1")
    assert max(map(len, text.splitlines())) <= 80


def test_what_was_not_finished_and_what_was_not_confirmed_is_said() -> None:
    stopped = tried("merged", (3,), most_states=5)
    assert "NOT FINISHED" in suite_text("merged", [stopped])
    assert " ? " in designs_text({"merged": [stopped]}, {"merged": 1})
    wrong = tried("v2", (2,))
    wrong = replace(wrong, replayed=("step 3: no",) * len(wrong.replayed))
    assert "NOT CONFIRMED when run again on threads: step 3: no" in suite_text("v2", [wrong])
    assert "NOT CONFIRMED" in designs_text({"v2": [wrong]}, {"v2": 0})


def test_a_verdict_has_its_bounds_below_it() -> None:
    """Of a suite those that every trial has; of one question all, and what else to ask."""
    suite = suite_text(
        "merged", [tried("merged", (2,)), tried("merged", (1,)), tried("merged", (1, 1))]
    )
    one = suite_text("merged", [tried("merged", (2,))])
    for text, wanted, other in (
        (suite, "--json has all bounds", "CPUs by region:"),
        (one, "CPUs by region: 2", "--json has all bounds"),
    ):
        below = text[text.index("within the") :]
        assert "memory model: sequentially consistent" in below
        assert wanted in below
        assert other not in text
    failing = suite_text("merged", [tried("merged", (2,)), tried("merged", (2,), failures=1)])
    for text in (suite, one):  # nothing was refused in any of them
        assert "has trials that refuse them" in " ".join(text.split())
    assert "no trial here reached" in failing


def test_the_first_hour(tmp_path: Path) -> None:
    """Its three lines, its table, and that the mended file no longer fails."""
    page = FIRST_HOUR.read_text(encoding="utf-8")
    diff = re.search(r"```diff\n(.*?)```", page, re.S)
    assert diff is not None
    lines = diff[1].splitlines()
    before = "".join(line[1:] + "\n" for line in lines if line[0] != "+")
    after = "".join(line[1:] + "\n" for line in lines if line[0] != "-")
    assert sum(line[0] != " " for line in lines) == 3
    source = Path(merged.__file__).read_text(encoding="utf-8")
    assert source.count(before) == 1
    mine = tmp_path / "mine.py"
    mine.write_text(source.replace(before, after), encoding="utf-8")
    said = dpamt("verify", "./mine.py", "--cpus", "2", "--save", "mine.json", cwd=tmp_path)
    assert said.code == 1
    head, dots, *told = page[page.index("CPU0    ", diff.end()) :].split("```")[0].splitlines()
    assert head in said.out.splitlines()
    assert dots == "..."
    assert "\n".join(told) in said.out
    mine.write_text(source, encoding="utf-8")
    again = dpamt("verify", "--replay", "mine.json", "./mine.py", cwd=tmp_path)
    assert again.code == 0
    assert "NO LONGER FAILS on this schedule" in again.out
