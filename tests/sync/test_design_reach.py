"""What a design may import and call."""

from pathlib import Path

import pytest

from dpamt.host.designs.load import SHIPPED
from dpamt.sync import design_reach
from dpamt.sync.design_reach import out_of_reach

BY_NAME = "() is used with a name that is no public constant"
DESTRUCTOR = "__del__ is defined: it runs at no place of its own"
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
        ("def f():\n    return list(map(eval, ['1']))", "eval() is called"),
        ("def f(k):\n    return id(k) % 2", "id() is called"),
        ("def f(k):\n    return hash('a') % 2", "hash() is called"),
        ("def f():\n    exit(0)", "exit() is called"),
        ("def f(self):\n    return self._value", "._value is used"),
        ("class A:\n    def f(self):\n        return self._locked", "._locked is used"),
        ("def f(self):\n    return self.__dict__", ".__dict__ is used"),
        ("def f(w):\n    return getattr(w, '_value')", f"getattr{BY_NAME}"),
        ("def f(w):\n    return getattr(w, '_' + 'value')", f"getattr{BY_NAME}"),
        ("def f(w):\n    return list(map(getattr, [w], ['a']))", f"getattr{BY_NAME}"),
        ("def f(w, n):\n    setattr(w, n, 1)", f"setattr{BY_NAME}"),
        ("from operator import attrgetter", "attrgetter is imported"),
        ("import operator\noperator.methodcaller('load')", ".methodcaller is used"),
        ("def f(w):\n    return '{0._value}'.format(w)", "format() is used with a private name"),
        ("def f(w, t):\n    return t.format(w)", "format() is used of a text that is no constant"),
        ("def f(w):\n    return super(type(w), w).load()", "super() is used with arguments"),
        ("def f(w):\n    return type(w).mro()[1]", ".mro is used"),
        ("def f(w):\n    match w:\n        case object(_value=v): pass", "._value is matched"),
        ("def f(k):\n    return k.shared.watch", ".watch is used"),
        ("def f(g):\n    return g.gi_frame", ".gi_frame is used"),
        ("import functools\nfunctools.wraps(len, ('_value',))", "wraps() is used with names"),
        ("def f():\n    return __builtins__", "__builtins__ is used"),
        ("class A(BaseException): pass", "BaseException is used"),
        ("import math\nmath.pi = 3", "math.pi is changed, and is not the file's own"),
        (
            "def f():\n    import math\n    del math.pi",
            "math.pi is changed, and is not the file's own",
        ),
        ("import math\nsetattr(math, 'pi', 3)", "math is changed, and is not the file's own"),
        ("class A:\n    def __del__(self): pass", DESTRUCTOR),
    ],
)
def test_what_is_out_of_reach(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text + "\n", encoding="utf-8")
    (breach,) = out_of_reach(file)
    assert str(breach) == f"{file}:{text.count(chr(10)) + 1}: {said}"


@pytest.mark.parametrize(
    "text",
    [
        "def f(w):\n    return getattr(w, 'index', 0)",
        "class A:\n    def __init__(self):\n        super().__init__()\n        self._mine = 1",
        "def f(n):\n    return 'page {0:x} of {n}'.format(n, n=n)",
        "def f(hash):\n    return hash(1)",
        "import functools\ndef f(g):\n    return functools.wraps(g)",
        "def f(w):\n    match w:\n        case int(real=v): return v",
    ],
)
def test_what_is_within_reach(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text + "\n", encoding="utf-8")
    assert out_of_reach(file) == []


def test_modules_beside_the_design_are_held_to_it_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper\nfrom helper import a\n", encoding="utf-8")
    (tmp_path / "helper.py").write_text("import mine\nimport threading\n", encoding="utf-8")
    (breach,) = out_of_reach(tmp_path / "mine.py")
    assert str(breach) == f"{tmp_path / 'helper.py'}:2: threading is imported"


def test_of_a_package_and_a_module_of_one_name_python_takes_the_package(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper\n", encoding="utf-8")
    (tmp_path / "helper.py").touch()
    (tmp_path / "helper").mkdir()
    (tmp_path / "helper" / "__init__.py").write_text("import threading\n", encoding="utf-8")
    (breach,) = out_of_reach(tmp_path / "mine.py")
    assert str(breach) == f"{tmp_path / 'helper' / '__init__.py'}:1: threading is imported"


@pytest.mark.parametrize("name", ["random", "time", "pytest", "numpy.random"])
def test_a_file_that_only_has_the_name_of_what_is_imported(name: str, tmp_path: Path) -> None:
    """Python takes its own, or the installed one, and not the file beside."""
    (tmp_path / "mine.py").write_text(f"import {name}\n", encoding="utf-8")
    first, _, second = name.partition(".")
    if second:
        (tmp_path / first).mkdir()
        (tmp_path / first / "__init__.py").touch()
        (tmp_path / first / f"{second}.py").touch()
    else:
        (tmp_path / f"{name}.py").write_text("def random():\n    return 0\n", encoding="utf-8")
    (breach,) = out_of_reach(tmp_path / "mine.py")
    assert str(breach).endswith(f"mine.py:1: {name} is imported")


@pytest.mark.parametrize("name", SHIPPED)
def test_designs_that_come_with_dpamt_keep_to_it(name: str) -> None:
    assert out_of_reach(DESIGNS / f"{name.replace('-', '_')}.py") == []


def test_given_designs_keep_to_it() -> None:
    given = Path(__file__).parents[1] / "data" / "designs"
    for file in given.rglob("*.py"):
        assert out_of_reach(file) == []
