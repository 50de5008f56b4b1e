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
WRONG = "    if count > 2:\n"
assert MERGED.count(RIGHT) == 1


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a design of one's own that fails, beside it."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "mine.py").write_text(MERGED.replace(RIGHT, WRONG), encoding="utf-8")
    ended = dpamt("verify", "./mine.py", "--cpus", "2", "--save", "mine.json", cwd=folder)
    assert (ended.code, ended.err) == (1, "")
    assert "Run again with each CPU a thread, every step on the word itself: the same." in ended.out
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
    ended = dpamt("verify", "--check", "mine.json", cwd=kept)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("As the certificate says.\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("states", 1), ("verdict", "holds"), ("code", "0" * 64), ("properties", {"fatal": "fails"})],
)
def test_a_certificate_that_is_not_so(kept: Path, tmp_path: Path, name: str, value: object) -> None:
    def change(document: dict[str, Any]) -> None:
        trial = document["designs"][0]["trials"][0]
        trial[name] = value
        trial["asked"]["design"] = str(kept / "mine.py")

    ended = dpamt("verify", "--check", spoilt(kept, tmp_path, change))
    assert ended.code == 1
    assert f"\n  {name}: " in ended.out
    assert "DIFFERS from the certificate." in ended.out


def test_a_certificate_of_other_code(kept: Path, tmp_path: Path) -> None:
    ended = dpamt("verify", "--check", "mine.json", cwd=mended(kept, tmp_path))
    assert ended.code == 1
    assert "verdict: fails in the certificate, holds now" in ended.out
    assert "code: the functions that ran are not those of the certificate" in ended.out


def test_a_replay_fails_again(kept: Path) -> None:
    ended = dpamt("verify", "--replay", "mine.json", cwd=kept)
    assert (ended.code, ended.err) == (1, "")
    assert "FAILS AGAIN: the same" in ended.out
    assert "[tdx_pamt_put mine.py:" in ended.out
    assert "departs" not in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines())


def test_a_replay_of_mended_code_says_so(kept: Path, tmp_path: Path) -> None:
    ended = dpamt("verify", "--replay", "mine.json", cwd=mended(kept, tmp_path))
    assert (ended.code, ended.err) == (0, "")
    assert "NO LONGER FAILS on this schedule" in ended.out
    assert "departs from the schedule at step " in ended.out
    assert "FAILS AGAIN" not in ended.out


def test_pages_are_drawn_of_verdicts_and_of_replays(kept: Path, tmp_path: Path) -> None:
    pages = [str(tmp_path / name) for name in ("a.html", "a.json", "b.html", "b.json")]
    dpamt(
        "verify", "./mine.py", "--cpus", "2", "--html", pages[0], "--perfetto", pages[1], cwd=kept
    )
    dpamt("verify", "--replay", "mine.json", "--html", pages[2], "--perfetto", pages[3], cwd=kept)
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
        (lambda d: d.update(format=0), "format: expected"),
        (lambda d: d.pop("designs"), "format: expected"),
        (lambda d: d.update(designs=[1]), "as --save writes"),
        (lambda d: d["designs"][0]["trials"][0].pop("asked"), "'asked'"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(cpus=[0]), "cpus"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(trial="no"), "expected one of"),
        (lambda d: d["designs"][0]["trials"][0]["asked"].update(design="no"), "expected one of"),
        (lambda d: d["designs"][0]["trials"][0].update(counterexamples=[]), "no counterexample"),
        (lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].pop("turns"), "'turns'"),
        (
            lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(turns=[[9, 1]]),
            "CPUs from 0 to 1",
        ),
        (lambda d: d["designs"][0]["trials"][0]["counterexamples"][0].update(format=1), "format"),
    ],
)
def test_a_document_that_is_none(
    kept: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    def here(document: dict[str, Any]) -> None:
        document["designs"][0]["trials"][0]["asked"]["design"] = str(kept / "mine.py")
        change(document)

    assert told in refused("verify", "--replay", spoilt(kept, tmp_path, here))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--replay", "nosuch.json"), "nosuch.json: "),
        (("--check", "nosuch.json"), "nosuch.json: "),
        (("merged", "--check", "nosuch.json"), "--check: expected alone"),
        (("--all", "--replay", "nosuch.json"), "--replay: expected alone"),
        (("--check", "a", "--replay", "b"), "--replay, --check, --resume: expected one of them"),
        (("--check", "a", "--html", "b"), "--check: expected without --html"),
        (("--cpus", "2", "--property", "nosuch.py"), "nosuch.py: "),
        (("--cpus", "1", "--json", "--save", "no/such/file"), "no/such/file: "),
    ],
)
def test_bad_usage_is_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("verify", *arguments, cwd=tmp_path)


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    assert "a.json: " in refused("verify", "--check", "a.json", cwd=tmp_path)


@pytest.mark.parametrize(
    ("source", "code", "told"),
    [
        ("def backed(view):\n    return view.counts.keys() == view.pairs.keys()\n", 0, "HOLDS"),
        (
            "def calm(view):\n    return 0x1fe not in view.counts or 'somebody counts'\n"
            "calm.always = True\n",
            1,
            "calm, in 2 CPUs: somebody counts",
        ),
        ("def calm(view):\n    return 0x1fe not in view.counts\n", 0, "HOLDS"),
        ("def wrong(view):\n    return False\n", 1, "wrong, in 2 CPUs: does not hold"),
    ],
)
def test_a_property_of_ones_own(tmp_path: Path, source: str, code: int, told: str) -> None:
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    ended = dpamt(
        "verify", "--cpus", "2", "--property", "mine.py", "--save", "a.json", cwd=tmp_path
    )
    assert (ended.code, ended.err) == (code, "")
    assert told in ended.out
    assert "NOT CONFIRMED" not in ended.out
    assert dpamt("verify", "--check", "a.json", cwd=tmp_path).code == 0
    if code:
        assert "FAILS AGAIN: the same" in dpamt("verify", "--replay", "a.json", cwd=tmp_path).out


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
