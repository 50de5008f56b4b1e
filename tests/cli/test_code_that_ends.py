"""Code of the user's that ends the interpreter: its exit code is never taken for a verdict."""

from pathlib import Path

import pytest

from dpamt.host.designs import merged

from .command import dpamt, refused

DESIGN = Path(merged.__file__).read_text(encoding="utf-8")
FIRST = "    pages = alloc_pamt_pages(kernel, cache)\n"
ENDS = ("raise SystemExit(0)", "raise SystemExit", "raise SystemExit('no\\nline')")
"""The first would be a clean verdict; ``exit(0)`` is refused before it runs."""


@pytest.mark.parametrize("code", ENDS)
@pytest.mark.parametrize("words", [("verify", "--cpus", "2"), ("verify",), ("run", "--design")])
def test_a_design(code: str, words: tuple[str, ...], tmp_path: Path) -> None:
    assert FIRST in DESIGN
    made = DESIGN.replace(FIRST, f"    {code}\n{FIRST}", 1)
    (tmp_path / "mine.py").write_text(made, encoding="utf-8")
    last = words[-1:] == ("--design",)
    arguments = (*words, "./mine.py") if last else (words[0], "./mine.py", *words[1:])
    line = refused(*arguments, cwd=tmp_path)
    assert "mine.py:" in line
    assert "SystemExit" in line
    assert "expected a design that runs" in line


@pytest.mark.parametrize("code", ENDS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_property(code: str, inside: bool, tmp_path: Path) -> None:
    made = (
        f"def mine(view):\n    {code}\n"
        if inside
        else f"{code}\ndef mine(view):\n    return True\n"
    )
    (tmp_path / "mine.py").write_text(made, encoding="utf-8")
    ended = dpamt("verify", "merged", "--cpus", "2", "--property", "mine.py", cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "SystemExit" in ended.err
    assert len(ended.err.splitlines()) == 1
