"""The discipline check, on code that keeps it, on code that breaks it, and on our own rooms."""

import textwrap
from pathlib import Path

import pytest

import dpamt
from dpamt.sync.discipline import check_files

PACKAGE = Path(dpamt.__file__).parent

NEVER_STEP_BY_STEP = {
    # No thread of a verification executes these: they only look, or stand in a plain run's way.
    "module/view.py",
    "module/view_sept.py",
    "module/injection.py",
    "module/bulk/calls.py",
    "module/bulk/quiet.py",
    # Before there is a thread.
    "host/designs/beside.py",
}


def test_our_own_rooms_keep_it() -> None:
    files = [
        file
        for room in ("module", "host")
        for file in (PACKAGE / room).rglob("*.py")
        if str(file.relative_to(PACKAGE)) not in NEVER_STEP_BY_STEP
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
        "for i in range(n):\n    word.store(i)\nn = 2",
        "for i in range(3):\n    n = i\n    word.store(n)",
        "try:\n    word.store(0)\nexcept ValueError as error:\n    word.store(1)\n    raise error",
        "try:\n    word.store(0)\nexcept ValueError:\n    raise",
        "try:\n    word.store(0)\nfinally:\n    x = 1",
        "def inner(n=1):\n    return word.load()\nreturn inner",
        "word.store(*values)",
        "word.store(f'{x}')",
        "x: int = word.load()",
        "a[0] = word.load()",
        "table = {}\ntable[1] = 2",
        "class Local:\n    def method(self):\n        return word.load()",
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
        ("try:\n    x = 1\nfinally:\n    word.store(0)", 5),
        ("try:\n    return 1\nfinally:\n    helper()", 5),
        ("with lock:\n    word.store(0)", 3),
        ("with word.load():\n    x = 1", 2),
        ("for i in range(3):\n    i = 1\n    word.store(i)", 3),
        ("for i in range(n):\n    word.store(i)\n    n = 2", 4),
        ("for i in range(n):\n    word.store(i)\n    n += 1", 4),
        ("for i in range(n):\n    word.store(i)\n    for n in range(2):\n        x = n", 4),
        ("for i in range(len(found)):\n    word.store(i)\n    found.append(i)", 4),
        ("for i in range(len(found)):\n    x = (i := 1)\n    word.store(i)", 3),
        ("for i in range(3):\n    word.store(i)\n    del i", 4),
        ("for a[0] in range(3):\n    word.store(1)", 2),
        ("for i in enumerate(range(3)):\n    word.store(1)", 2),
        ("match word.load():\n    case 0:\n        x = 1", 2),
        ("match x:\n    case 0:\n        word.store(1)", 4),
        ("if (x := word.load()):\n    y = x", 2),
        ("word.store(x := word.load())", 2),
        ("word.store(*helper())", 2),
        ("x = f'{word.load()}'", 2),
        ("def inner(n=word.load()):\n    return n", 2),
        ("def inner(*, n=word.load()):\n    return n", 2),
        ("@helper()\ndef inner():\n    return 1", 2),
        ("words[word.load()] += 1", 2),
        ("class Local:\n    x = word.load()", 3),
        ("yield 1\nword.store(1)", 3),
        ("yield word.load()", 2),
        ("async def inner():\n    word.store(1)", 3),
        ("try:\n    x = 1\nexcept ValueError:\n    word.store(1)\n    raise", 6),
        ("try:\n    x = 1\nexcept (ValueError, BaseException):\n    x = 2", 4),
        ("try:\n    x = 1\nexcept* ValueError:\n    word.store(1)", 5),
        ("x = 1\ndef inner():\n    nonlocal x\n    x = 2\n    word.store(1)", 4),
        ("global seen\nseen = word.load()", 2),
        ("table[1] = word.load()", 2),
        ("table.append(1)", 2),
        ("helper.calls = 1", 2),
        ("del words[word.load()]", 2),
        ("assert word.load() > 1", 2),
        ("assert x, word.load()", 2),
        ("return 0 < word.load()", 2),
        ("x = (word.load(), 1)", 2),
        ("x = sorted(items, key=lambda n: words[n].load())", 2),
    ],
)
def test_code_that_breaks_it_is_named_by_line(tmp_path: Path, body: str, line: int) -> None:
    assert line in {at for at, _ in breaches_of(tmp_path, body)}


def breaches_of(tmp_path: Path, body: str) -> list[tuple[int, str]]:
    file = tmp_path / "code.py"
    helper = "\ntable = []\n\ndef helper():\n    return word.load()\n"
    file.write_text("def f():\n" + textwrap.indent(body, "    ") + "\n" + helper)
    return [(breach.line, breach.reason) for breach in check_files([file])]
