"""The discipline check, on code that keeps it, on code that breaks it, and on our own rooms."""

import textwrap
from pathlib import Path

import pytest

import dpamt
from dpamt.sync.discipline import check_files

PACKAGE = Path(dpamt.__file__).parent

SET_UP_OR_SHOW = {
    # Runs before any second CPU does, or only looks: no thread of a verification executes these.
    "module/view.py",
    "module/view_sept.py",
}


def test_our_own_rooms_keep_it() -> None:
    files = [
        file
        for room in ("module", "host")
        for file in (PACKAGE / room).rglob("*.py")
        if str(file.relative_to(PACKAGE)) not in SET_UP_OR_SHOW
    ]
    breaches = check_files(files)
    assert not breaches, "\n" + "\n".join(str(breach) for breach in breaches)


@pytest.mark.parametrize(
    "body",
    [
        "x = word.load()",
        "word.store(x + 1)",
        "return word.load()",
        "if not lock.try_shared():\n    return",
        "while word.inc_not_zero():\n    word.add(-1)",
        "for i in range(3):\n    words[i].store(0)",
        "x = word.load() if flag else other.load()",
        "if quick() or word.load():\n    pass",
        "for y in items:\n    print(y)",
    ],
)
def test_code_that_keeps_it(tmp_path: Path, body: str) -> None:
    assert breaches_of(tmp_path, body) == []


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("x = word.load() + other.load()", 2),
        ("f(word.load())", 2),
        ("x = 1\nx += word.load()", 3),
        ("x = [w.load() for w in words]", 2),
        ("x = lambda: word.load()", 2),
        ("for w in words:\n    w.store(0)", 2),
        ("x = helper() + 1", 2),
        ("try:\n    word.store(0)\nexcept BaseException:\n    pass", 4),
        ("words[index.load()] = 1", 2),
        ("raise ValueError(word.load())", 2),
    ],
)
def test_code_that_breaks_it_is_named_by_line(tmp_path: Path, body: str, line: int) -> None:
    assert line in {at for at, _ in breaches_of(tmp_path, body)}


def breaches_of(tmp_path: Path, body: str) -> list[tuple[int, str]]:
    file = tmp_path / "code.py"
    helper = "\ndef helper():\n    return word.load()\n"
    file.write_text("def f():\n" + textwrap.indent(body, "    ") + "\n" + helper)
    return [(breach.line, breach.reason) for breach in check_files([file])]
