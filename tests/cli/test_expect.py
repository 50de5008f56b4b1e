import json
import subprocess
import sys
from pathlib import Path

from .command import dpamt, environment, refused


def test_the_cases_are_listed() -> None:
    shown = dpamt("expect").out
    assert shown.count("\n") == 2 + 14
    assert "96 GB closed one by one, 100 times" in shown


def test_numbers_that_can_be_and_one_that_cannot() -> None:
    good = dpamt("expect", "--case", "2", "--check", "launched=4200", "--check", "vm1-closed=0")
    assert good.code == 0
    assert "All 2 numbers are possible; 1 checkpoint was not read." in good.out
    bad = dpamt("expect", "--case", "2", "--check", "vm1-closed=2pairs")
    assert bad.code == 1
    assert "16 kB are left: 2 page pairs that no TD uses" in " ".join(bad.out.split())
    odd = dpamt("expect", "--case", "2", "--check", "launched=12")
    assert "no whole number of page pairs" in odd.out


def test_a_kernels_counters_are_a_number(tmp_path: Path) -> None:
    closed, launched = tmp_path / "closed.json", tmp_path / "launched.json"
    regions = [[1, 2], [3, 512], [9, -1]]
    launched.write_text(json.dumps({"dpamt_counts": 1, "regions": regions}))
    closed.write_text(json.dumps({"dpamt_counts": 1, "regions": regions[:1]}))
    words = ("expect", "--case", "2", "--tap", "--check", f"launched={launched}")
    good = dpamt(*words)
    assert good.code == 0
    assert "# 16 kB" in good.out
    bad = dpamt(*words, "--check", f"vm1-closed={closed}")
    assert bad.code == 1
    assert "not ok 3" in bad.out
    assert "expected what the script" in refused("expect", "--case", "2", "--check", "idle=x.json")


def test_a_repeated_case_takes_a_number_for_each_repetition() -> None:
    ended = dpamt(
        *("expect", "--case", "10", "--tap"),
        *("--check", "vm2-closed=0", "--check", "vm2-closed=8", "--check", "launched=4000"),
    )
    assert ended.code == 1
    lines = [line for line in ended.out.splitlines() if not line.startswith("#")]
    assert lines[:2] == ["TAP version 13", "1..8"]
    assert [line.split(" - ")[0] for line in lines[2:]] == [
        f"{'not ok' if number == 8 else 'ok'} {number}" for number in range(1, 9)
    ]
    assert sum("# SKIP" in line for line in lines) == 5


def test_numbers_from_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dpamt", "expect", "--case", "2", "--ktap", "--check", "-"],
        input="launched 4200\nvm1-closed 0 kB\n",
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done
    assert done.stdout.startswith("KTAP version 1\n1..3\n")


def test_the_document_has_the_numbers_of_the_text() -> None:
    document = json.loads(dpamt("expect", "--case", "9", "--host", "64GiB", "--json").out)
    assert document["ok"] is True
    names = [point["name"] for point in document["checkpoints"]]
    assert names == ["idle", "launched", "vm1-closed", "vm2-closed"]
    assert [point["kb"]["most"] > 0 for point in document["checkpoints"]] == [
        *(False, True, False, False)
    ]
    for point in document["checkpoints"]:
        for bound, pairs in point["pairs"].items():
            assert point["kb"][bound] == (None if pairs is None else 8 * pairs)


def test_what_has_no_effect_on_the_list_of_cases_is_refused() -> None:
    for words in (("--design", "v6"), ("--release", "2.0.18"), ("--in-use", "5%"),
                  ("--layout", "q35")):  # fmt: skip
        assert f"{words[0]} has no effect without --case or --td" in refused("expect", *words)
        assert dpamt("expect", "--case", "2", *words).code == 0


def test_refusals_are_one_line() -> None:
    assert "expected 0 to 13" in refused("expect", "--case", "14")
    assert "expected one of them" in refused("expect", "--case", "2", "--td", "1GiB")
    assert "such as launched=4200kB" in refused("expect", "--case", "2", "--check", "launched=-3")
    assert "no such checkpoint" in refused("expect", "--case", "2", "--check", "after=3")
    assert "at most 1" in refused(
        *("expect", "--case", "2", "--check", "launched=8", "--check", "launched=8")
    )
    assert "expected --host as well" in refused("expect", "--case", "2", "--run")
    assert "--in-use 100%" in refused("expect", "--case", "2", "--run", "--host", "4GiB")
    assert "--unit" in refused("expect", "--case", "2", "--unit", "3KiB")
    assert "expected a share" in refused("expect", "--case", "2", "--in-use", "80-20%")
    assert "expected one of" in refused("expect", "--case", "2", "--module", "1.5.06")
    assert "at least" in refused(*("expect", "--case", "7", "--host", "64GiB", "--in-use", "100%"))
    assert "--case or --td" in refused("expect", "--host", "64GiB")
    assert "one for each guest KeyID" in refused("expect", "--td", "60x2MiB", "--host", "64GiB")
