"""`dpamt verify`: verdicts, counterexamples, a design of one's own, and what it refuses."""

import json
from pathlib import Path

import pytest

from dpamt.cli.main import main
from dpamt.host.designs import merged

MERGED = Path(merged.__file__).read_text(encoding="utf-8")


def verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["verify", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_design_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = verify(capsys, "merged", "--cpus", "3")
    assert (code, err) == (0, "")
    assert "HOLDS: missing-pair" in out
    assert "CPUs by region: 3" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_design_that_fails_shows_the_two_cpus(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = verify(capsys, "v2", "--cpus", "2")
    assert code == 1
    assert "FAILS: at-rest, bad-remove, leak." in out
    table = out[out.index("CPU0 ") :]
    assert "[tdx_pamt_put host/designs/v2.py:" in table
    assert "TDX_NO_PAMT_PAGE_PAIR" in table
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = verify(capsys, "v2", "--cpus", "2", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["clean"] is False
    (trial,) = document["designs"][0]["trials"]
    assert trial["properties"]["bad-remove"] == "fails"
    assert trial["properties"]["fatal"] == "holds"
    for found in trial["counterexamples"]:
        assert found["schedule"] == [step["cpu"] for step in found["steps"]]
        assert set(found["schedule"]) == {0, 1}


@pytest.mark.parametrize(
    ("line", "mutated", "broken"),
    [
        ("    if count > 1:\n", "    if count > 2:\n", "bad-remove"),
        ("    raised = refcount.inc_not_zero()\n", "    raised = refcount.load()\n", "bad-remove"),
        ("    refcount.store(0)\n", "    refcount.store(1)\n", "missing-pair"),
        (
            "    lock.lock()\n    raised = refcount.inc_not_zero()\n    if raised:\n",
            "    raised = refcount.inc_not_zero()\n    lock.lock()\n    if raised:\n",
            "double-add",
        ),
    ],
)
def test_a_design_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str, mutated: str, broken: str
) -> None:
    assert MERGED.count(line) == 1
    file = tmp_path / "mine.py"
    file.write_text(MERGED.replace(line, mutated), encoding="utf-8")
    code, out, _ = verify(capsys, str(file), "--cpus", "3")
    assert code == 1
    assert broken in out[out.index("FAILS: ") :]
    assert "mine.py:" in out


def test_a_design_that_hides_a_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        MERGED.replace("    refcount.store(0)\n", "    refcount.store(refcount.load() - 1)\n"),
        encoding="utf-8",
    )
    code, out, err = verify(capsys, str(file))
    assert (code, out) == (2, "")
    assert "mine.py:" in err
    assert "in the middle of an expression" in err


STORE = "    refcount.store(1)\n"


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        ('    refcount.store("1" + 1)\n', "tdx_pamt_get: TypeError: can only concatenate"),
        ("    assert kernel is None\n", "tdx_pamt_get: AssertionError; expected a design"),
        ("    kernel.nosuch.add(1)\n", "tdx_pamt_get: AttributeError: "),
        ("    kernel.mine = 1\n", "kernel.mine is changed, and is no word"),
        ("    mine = kernel\n    mine.pamt.n = 1\n", "mine.pamt.n is changed, and"),
        ("    kernel.cpus.pop()\n", "kernel.cpus is changed, and is no word"),
        ('    setattr(kernel, "n", 1)\n', "kernel is changed, and is no word"),
        ("    helper(kernel)\n" + STORE, "kernel.hidden is changed while other CPUs run"),
        ("    if not kernel.log.warnings:\n" + "    " + STORE, "kernel.log.warnings is read while"),
        ("    held = iter([1])\n" + STORE + "    next(held)\n", "cannot be shown"),
    ],
)
def test_what_goes_wrong_in_a_design_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, instead: str, told: str
) -> None:
    assert MERGED.count(STORE) == 1
    text = MERGED.replace(STORE, instead) + "\n\ndef helper(k):\n    k.hidden = 1\n"
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    code, out, err = verify(capsys, str(file), "--cpus", "2")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    line = next(
        n
        for n, line in enumerate(text.splitlines(), 1)
        if line in (instead.splitlines()[0], instead.splitlines()[-1], "    k.hidden = 1")
    )
    lines = [line, line + 1, text[: text.index("k.hidden")].count("\n") + 1]
    assert any(f"dpamt: {file}:{n}: " in err for n in lines)
    assert told in err


def test_a_design_that_one_cpu_alone_breaks_is_a_finding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MERGED.replace(STORE, "    pass\n"), encoding="utf-8")
    code, out, err = verify(capsys, str(file), "--cpus", "2")
    assert (code, out) == (1, "")
    assert err.startswith(f"dpamt: design {file}: no TD can be made, one CPU alone: WARNING: arch/")
    assert err.count("\n") == 1


def test_a_lock_that_one_cpu_alone_misuses_is_told_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    text = MERGED.replace(STORE, STORE + "    lock.unlock()\n")
    file.write_text(text, encoding="utf-8")
    code, out, err = verify(capsys, str(file), "--cpus", "2")
    assert (code, out) == (1, "")
    line = text[: text.index(STORE)].count("\n") + 3  # the unlock behind that one
    told = "tdx_pamt_get: dpamt_lock released while not held"
    assert err == f"dpamt: {file}:{line}: {told}\n"


def test_what_goes_wrong_in_a_design_that_runs_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    text = MERGED.replace(STORE, '    refcount.store("1" + 1)\n')
    file.write_text(text, encoding="utf-8")
    code = main(["run", "--memory", "8GiB", "--design", str(file)])
    err = capsys.readouterr().err
    line = text[: text.index('"1" + 1')].count("\n") + 1
    assert code == 2
    assert err.startswith(f"dpamt: {file}:{line}: tdx_pamt_get: TypeError: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nosuch",), "expected one of static, lazy"),
        (("static",), "never asks for Dynamic PAMT"),
        (("--cpus", "25"), "expected CPUs"),
        (("--trial", "nope"), "expected one of"),
        (("merged", "--all"), "expected without names"),
        (("--granularity", "fine"), "invalid choice"),
    ],
)
def test_bad_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    try:
        code, out, err = verify(capsys, *arguments)
    except SystemExit as stopped:
        code, (out, err) = int(stopped.code or 0), capsys.readouterr()
    assert code == 2
    assert not out
    assert told in err
    assert err.count("\n") == 1


def test_a_search_that_is_stopped_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = verify(capsys, "merged", "--cpus", "4", "--max-states", "10")
    assert code == 1
    assert "NOT FINISHED" in out
