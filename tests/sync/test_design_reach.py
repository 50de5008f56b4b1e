"""What a design may import and call."""

from pathlib import Path

import pytest

from dpamt.host.designs.load import SHIPPED
from dpamt.sync import design_reach
from dpamt.sync.design_reach import out_of_reach

DESIGNS = Path(design_reach.__file__).parents[1] / "host" / "designs"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os", "os is imported"),
        ("import os.path", "os.path is imported"),
        ("from time import time", "time is imported"),
        ("def f():\n    import random", "random is imported"),
        ("import dpamt.module.module", "dpamt.module.module is imported"),
        ("from dpamt import verify", "dpamt.verify is imported"),
        ("from dpamt.verify.learn import automaton", "dpamt.verify.learn is imported"),
        ("def f():\n    globals()['a'] = 1", "globals() is called"),
        ("def f():\n    open('a', 'w')", "open() is called"),
        ("def f(w):\n    return w._value", "._value is used"),
        ("def f(w):\n    return type(w).__mro__", ".__mro__ is used"),
        (
            "from dpamt.sync import Word\ndef f(w: Word) -> Word:\n    return Word.load(w)",
            "Word is used, and is no word itself",
        ),
        ("def f():\n    __import__('os')", "__import__() is called"),
    ],
)
def test_what_is_out_of_reach(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text + "\n", encoding="utf-8")
    (breach,) = out_of_reach(file)
    assert str(breach) == f"{file}:{text.count(chr(10)) + 1}: {said}"


def test_modules_beside_the_design_are_held_to_it_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper\nfrom helper import a\n", encoding="utf-8")
    (tmp_path / "helper.py").write_text("import mine\nimport threading\n", encoding="utf-8")
    (breach,) = out_of_reach(tmp_path / "mine.py")
    assert str(breach) == f"{tmp_path / 'helper.py'}:2: threading is imported"


@pytest.mark.parametrize("name", SHIPPED)
def test_designs_that_come_with_dpamt_keep_to_it(name: str) -> None:
    assert out_of_reach(DESIGNS / f"{name.replace('-', '_')}.py") == []


def test_given_designs_keep_to_it() -> None:
    given = Path(__file__).parents[1] / "data" / "designs"
    for file in given.rglob("*.py"):
        assert out_of_reach(file) == []
