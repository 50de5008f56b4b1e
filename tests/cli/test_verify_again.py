"""`dpamt verify`: verdicts that are kept, checked, replayed and drawn; properties of one's own."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpamt.host.designs import merged
from tests.cli.command import dpamt, environment, refused

MERGED = Path(merged.__file__).read_text(encoding="utf-8")
RIGHT = "    if count > 1:\n"
OWN_CODE = "dpamt: Executes no Python file but dpamt's own.\n"
THE_FILE = "dpamt: Executes mine.py as the design ./mine.py; all else is dpamt's own.\n"
WRONG = "    if count > 2:\n"
assert MERGED.count(RIGHT) == 1


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a design of one's own that fails, beside it."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "mine.py").write_text(MERGED.replace(RIGHT, WRONG), encoding="utf-8")
    ended = dpamt("verify", "./mine.py", "--cpus", "2", "--save", "mine.json", cwd=folder)
    assert (ended.code, ended.err) == (1, "dpamt: wrote mine.json\n")
    assert (
        "Run again with each CPU as a thread, every step on the real word: the same." in ended.out
    )
    return folder


def spoilt(kept: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads((kept / "mine.json").read_text(encoding="utf-8"))
    change(document)
    file = folder / "spoilt.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return str(file)


def mended(kept: Path, folder: Path) -> Path:
    """The same certificate beside a design without the fault."""
    (folder / "mine.py").write_text(MERGED, encoding="utf-8")
    (folder / "mine.json").write_bytes((kept / "mine.json").read_bytes())
    return folder


def test_the_document_is_the_same_kept_or_printed(kept: Path) -> None:
    printed = json.loads(dpamt("verify", "./mine.py", "--cpus", "2", "--json", cwd=kept).out)
    saved = json.loads((kept / "mine.json").read_text(encoding="utf-8"))
    for document in (printed, saved):
        for trial in document["designs"][0]["trials"]:
            del trial["seconds"]
            assert set(trial["replayed"]) == {"the same"}
    assert printed == saved


def test_a_certificate_is_checked(kept: Path) -> None:
    ended = dpamt("verify", "--check", "mine.json", "mine.py", cwd=kept)
    assert (ended.code, ended.err) == (0, THE_FILE)
    assert ended.out.startswith("mine, no trial of the suite: 1 of its own\n")
    assert ended.out.endswith("As the certificate says, and it does not have the whole suite.\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("states", 1),
        ("states", 64.0),
        ("verdict", "holds"),
        ("code", {"design": "0" * 64}),
        ("properties", {"fatal": "fails"}),
        ("trial", "one region"),
        ("meaning", "4 CPUs in one region"),
        ("bounds", {"memory model": "x86"}),
        ("assumptions", ["none"]),
        ("not_reached", ["mine.py:1 x"]),
        ("module", "1.5.25"),
        ("counterexamples", []),
        ("fine", {"leak": "found"}),
    ],
)
def test_a_certificate_that_is_not_so(kept: Path, tmp_path: Path, name: str, value: object) -> None:
    def change(document: dict[str, Any]) -> None:
        trial = document["designs"][0]["trials"][0]
        trial[name] = value
        if name == "counterexamples":
            trial["replayed"] = []

    ended = dpamt("verify", "--check", spoilt(kept, tmp_path, change), str(kept / "mine.py"))
    assert ended.code == 1
    assert f"\n  {name}: " in ended.out
    assert "DIFFERS\n" in ended.out
    assert "DIFFERS from the certificate." in ended.out


def test_a_certificate_of_other_code(kept: Path, tmp_path: Path) -> None:
    ended = dpamt("verify", "--check", "mine.json", "mine.py", cwd=mended(kept, tmp_path))
    assert ended.code == 1
    assert "verdict: fails in the certificate, holds now" in ended.out
    assert "code: the design and what its file defines are not those" in ended.out
    assert "code: the functions that ran are not those of the certificate" in ended.out


def test_a_replay_fails_again(kept: Path) -> None:
    ended = dpamt("verify", "--replay", "mine.json", "mine.py", cwd=kept)
    assert (ended.code, ended.err) == (1, THE_FILE)
    assert "FAILS AGAIN: the same" in ended.out
    assert "[tdx_pamt_put mine.py:" in ended.out
    assert "departs" not in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())


def test_a_replay_of_mended_code_says_so(kept: Path, tmp_path: Path) -> None:
    ended = dpamt("verify", "--replay", "mine.json", "mine.py", cwd=mended(kept, tmp_path))
    assert (ended.code, ended.err) == (0, THE_FILE)
    assert "NO LONGER FAILS on this schedule" in ended.out
    assert "departs from the schedule at step " in ended.out
    assert "FAILS AGAIN" not in ended.out


def test_pages_are_drawn_of_verdicts_and_of_replays(kept: Path, tmp_path: Path) -> None:
    pages = [str(tmp_path / name) for name in ("a.html", "a.json", "b.html", "b.json")]
    dpamt(
        "verify", "./mine.py", "--cpus", "2", "--html", pages[0], "--perfetto", pages[1], cwd=kept
    )
    dpamt(
        "verify",
        "--replay",
        "mine.json",
        "mine.py",
        "--html",
        pages[2],
        "--perfetto",
        pages[3],
        cwd=kept,
    )
    for page in pages:
        text = Path(page).read_text(encoding="utf-8")
        assert "tdx_pamt_put" in text
        if page.endswith(".json"):
            assert json.loads(text)["traceEvents"]


def test_nothing_is_drawn_where_nothing_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ended = dpamt("verify", "merged", "--cpus", "2", "--html", str(page))
    assert ended.code == 0
    assert ended.err == f"dpamt: {page}: not written, nothing failed\n"
    assert not page.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(format=0), "format: '0'; expected"),
        (lambda d: d.update(format=1), "format: '1'; expected 3, as --save of dpamt"),
        (lambda d: d.pop("designs"), "document: 'designs' is missing"),
        (lambda d: d.update(designs=[]), "no design in it"),
        (lambda d: d.update(designs=[1]), "as --save writes"),
        (lambda d: d.update(note="all is well"), "'note' is no name that --save writes"),
        (lambda d: d["designs"][0].update(trials=[]), "no trial of mine"),
        (lambda d: d["designs"][0].update(design=["mine"]), "design: expected its name"),
        (lambda d: d.update(designs={"a": 1}), "as --save writes"),
        (lambda d: d["designs"][0]["trials"][0].update(counterexamples="ab"), "as --save writes"),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(broken=[1]),
            "broken, text: expected texts",
        ),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(steps="abc"),
            "expected the form of --json",
        ),
        (lambda d: d["designs"][0]["trials"].append(d["designs"][0]["trials"][0]), "twice"),
        (lambda d: d["designs"][0]["trials"][0].pop("asked"), "'asked'"),
        (lambda d: d["designs"][0]["trials"][0].update(note=1), "'note' is no name"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(cpus=[0]), "cpus"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(cpus=[13, 12]), "cpus"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(failures=1 << 70), "failures"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(most_states=True), "most_states"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(trial="words"), "one of them"),
        (
            lambda d: d["designs"][0]["trials"][0]["asked"].update(trial="no", cpus=[]),
            "expected one of",
        ),
        (
            lambda d: d["designs"][0]["trials"][0].update(counterexamples=[], replayed=[]),
            "no counterexample",
        ),
        (lambda d: d["designs"][0]["trials"][0].update(replayed=[]), "replayed"),
        (lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].pop("turns"), "'turns'"),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(turns=[[9, 1]]),
            "CPUs from 0 to 1",
        ),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(
                turns=[[0, 10**9], [1, 10**30]]
            ),
            "expected the 2 CPUs of its trial, turns of (CPU, steps)",
        ),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(cpus=["a", "b"]),
            "expected the 2 CPUs of its trial",
        ),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(text="\x1b[2J"),
            "a text with control characters",
        ),
        (lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(format=1), "format"),
    ],
)
def test_a_document_that_is_none(
    kept: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    ended = dpamt(
        "verify", "--replay", spoilt(kept, tmp_path, change), str(kept / "mine.py"), cwd=tmp_path
    )
    assert (ended.code, ended.out) == (2, "")
    *executes, line = ended.err.splitlines()
    assert told in line
    assert all(line.startswith("dpamt: Executes ") for line in executes)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--replay", "nosuch.json"), "nosuch.json: "),
        (("--check", "nosuch.json"), "nosuch.json: "),
        (("merged", "--check", "nosuch.json"), "merged: expected with --check only Python files"),
        (("--all", "--replay", "nosuch.json"), "--all: has no effect with --replay"),
        (("--check", "a", "--whole"), "--whole: has no effect with --check"),
        (("--check", "a", "--json"), "--json: has no effect with --check"),
        (("--check", "a", "--max-states", "9"), "--max-states: has no effect with --check"),
        (("--replay", "a", "--jobs", "2"), "--jobs: has no effect with --replay"),
        (("--replay", "a", "--max-memory", "1GiB"), "--max-memory: has no effect with --replay"),
        (("--replay", "a", "--trial", "words"), "--trial: has no effect with --replay"),
        (("--replay", "a", "--cpus", "2"), "--cpus: has no effect with --replay"),
        (("--resume", "a", "--engine", "python"), "--engine: has no effect with --resume"),
        (("--resume", "a", "--granularity", "words"), "--granularity: has no effect with"),
        (("--failures", "1"), "--failures: expected with --cpus"),
        (("--pairs", "own"), "--pairs: expected with --cpus"),
        (("--cpus", "2", "--pairs", "crossed"), "--pairs crossed: expected several regions"),
        (("--trial", "words", "--cpus", "2"), "--trial, --cpus: expected one of them"),
        (("--whole", "--json"), "--whole: expected without --json"),
        (("--all", "--whole"), "--whole: expected with one design"),
        (("v2", "v6", "--whole"), "--whole: expected with one design"),
        (("--check", "a", "--replay", "b"), "--replay, --check, --resume: expected one of them"),
        (("--check", "a", "--html", "b"), "--html: has no effect with --check"),
        (("--cpus", "2", "--property", "nosuch.py"), "nosuch.py: "),
        (("--cpus", "1", "--json", "--save", "no/such/file"), "no/such/file: "),
    ],
)
def test_bad_usage_is_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("verify", *arguments, cwd=tmp_path)


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    assert "a.json:1: column 2: " in refused("verify", "--check", "a.json", cwd=tmp_path)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of two trials of the suite for a design of dpamt."""
    file = tmp_path_factory.mktemp("trial") / "kept.json"
    assert dpamt("verify", "v6", "--trial", "words", "--save", str(file)).code == 0
    return file


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["designs"][0].update(suite="whole", left_out=[]), "suite: whole in the cert"),
        (lambda d: d["designs"][0]["left_out"].remove("faults"), "left_out: "),
        (lambda d: d["designs"][0].update(design="merged"), "design: merged in the certificate"),
        (lambda d: d["designs"][0]["trials"][0].update(trial="faults"), "trial: faults in the"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(design="merged"), "design: v6 in"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(granularity="locks"), "states: "),
        (lambda d: d.update(clean=False), "clean: False in the certificate, True now"),
        (lambda d: d.update(code="0"), "code: dpamt's own is not that of the certificate"),
        (lambda d: d.update(dpamt="9.9"), "dpamt: 9.9 in the certificate"),
    ],
)
def test_a_certificate_that_says_too_much(
    trial: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    document = json.loads(trial.read_text(encoding="utf-8"))
    change(document)
    (tmp_path / "spoilt.json").write_text(json.dumps(document), encoding="utf-8")
    ended = dpamt("verify", "--check", "spoilt.json", cwd=tmp_path)
    assert ended.code == 1
    assert told in ended.out
    assert ended.out.endswith("DIFFERS from the certificate.\n")


def test_a_certificate_of_a_part_says_so(trial: Path) -> None:
    document = json.loads(trial.read_text(encoding="utf-8"))
    (one,) = document["designs"]
    assert (one["suite"], document["clean"]) == ("part", True)
    assert "words" not in one["left_out"]
    assert {"one region", "faults", "split"} <= set(one["left_out"])
    ended = dpamt("verify", "--check", str(trial))
    assert (ended.code, ended.err) == (0, OWN_CODE)
    assert ended.out.startswith("v6, a part of the suite: without one region, ")
    assert ended.out.endswith("As the certificate says, and it does not have the whole suite.\n")


def test_other_bytecode_is_not_compared_and_that_is_said(trial: Path, tmp_path: Path) -> None:
    document = json.loads(trial.read_text(encoding="utf-8"))
    document.update(python="3.1.4", code="0")
    document["designs"][0]["trials"][0]["code"] = {}
    (tmp_path / "other.json").write_text(json.dumps(document), encoding="utf-8")
    ended = dpamt("verify", "--check", "other.json", cwd=tmp_path)
    assert ended.code == 0
    assert "Made with Python 3.1.4, this is 3." in ended.out


def test_a_counterexample_that_was_touched(kept: Path, tmp_path: Path) -> None:
    """Each kept schedule is run again: what is told of it has to be what happens."""

    def change(document: dict[str, Any]) -> None:
        found = document["designs"][0]["trials"][0]["counterexamples"][0]
        found["steps"][3]["line"] += 1

    ended = dpamt("verify", "--check", spoilt(kept, tmp_path, change), str(kept / "mine.py"))
    assert ended.code == 1
    assert "its steps are not those that its schedule takes" in ended.out


@pytest.mark.parametrize(
    ("source", "code", "told"),
    [
        ("def backed(view):\n    return view.counts.keys() == view.pairs.keys()\n", 0, "HOLDS"),
        (
            "def calm(view):\n    return 0x3fe not in view.counts or 'somebody counts'\n"
            "calm.always = True\n",
            1,
            "calm, in 2 CPUs: somebody counts",
        ),
        ("def calm(view):\n    return 0x3fe not in view.counts\n", 0, "HOLDS"),
        ("def wrong(view):\n    return False\n", 1, "wrong, in 2 CPUs: does not hold"),
    ],
)
def test_a_property_of_ones_own(tmp_path: Path, source: str, code: int, told: str) -> None:
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    ended = dpamt(
        "verify", "--cpus", "2", "--property", "mine.py", "--save", "a.json", cwd=tmp_path
    )
    assert (ended.code, ended.err) == (code, "dpamt: wrote a.json\n")
    assert told in ended.out
    assert "NOT CONFIRMED" not in ended.out
    mine = ("--property", "mine.py")
    again = dpamt("verify", "--check", "a.json", *mine, cwd=tmp_path)
    assert again.code == 0
    assert again.err == "dpamt: Executes mine.py as the properties; all else is dpamt's own.\n"
    if code:
        again = dpamt("verify", "--replay", "a.json", *mine, cwd=tmp_path)
        assert "FAILS AGAIN: the same" in again.out
    told = refused("verify", "--check", "a.json", cwd=tmp_path)
    assert "is not executed because a document names it; expected --property FILE" in told
    (tmp_path / "mine.py").write_text(f"{source}\ndef more(view):\n    return True\n")
    again = dpamt("verify", "--check", "a.json", *mine, cwd=tmp_path)
    assert again.code == 1
    assert "code: the functions of the property file are not those" in again.out


def test_the_properties_of_the_documents(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
    (tmp_path / "mine.py").write_text(page.split("```python\n")[1].split("```")[0])
    ended = dpamt("verify", "--cpus", "2", "--property", "mine.py", "--json", cwd=tmp_path)
    verdicts = json.loads(ended.out)["designs"][0]["trials"][0]["properties"]
    assert (verdicts["backed"], verdicts["few"]) == ("holds", "holds")
    ended = dpamt("verify", "v2", "--cpus", "2", "--property", "mine.py", "--json", cwd=tmp_path)
    verdicts = json.loads(ended.out)["designs"][0]["trials"][0]["properties"]
    assert (verdicts["backed"], verdicts["few"]) == ("fails", "holds")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder, source in (("a", MERGED), ("b", MERGED.replace(RIGHT, WRONG))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(source, encoding="utf-8")
    arguments = ("a/mine.py", "b/mine.py", "--cpus", "2")
    assert dpamt("verify", *arguments, cwd=tmp_path).code == 1
    ended = dpamt("verify", *arguments, "--json", cwd=tmp_path)
    verdicts = [one["trials"][0]["verdict"] for one in json.loads(ended.out)["designs"]]
    assert verdicts == ["holds", "fails"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def f(view):\n    return 3\n", "f: returned 3"),
        ("def f(view):\n    return view.no\n", "f: AttributeError"),
        ("def f():\n    return True\n", "f: expected one parameter, view"),
        ("def leak(view):\n    return True\n", "no property has yet"),
        ("def f(view:\n", ":1: "),
        ("1 / 0\n", "ZeroDivisionError"),
        ("", "expected a function name(view)"),
    ],
)
def test_a_property_file_that_is_none(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    said = refused("verify", "--cpus", "1", "--property", "mine.py", cwd=tmp_path)
    assert said.startswith("mine.py:")
    assert told in said


def test_interrupted_it_writes_nothing(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "dpamt", "verify", "--all", "--save", "a.json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    time.sleep(3)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, "", "dpamt: interrupted\n")
    assert list(tmp_path.iterdir()) == []
