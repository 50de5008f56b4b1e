"""Designs by name and from users' files: what loads, and how what does not is explained."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpamt.errors import InputError
from dpamt.host.core import refcounts
from dpamt.host.designs import load, merged
from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.host.designs.untouched import members

GOOD = """
def tdx_pamt_get(kernel, cpu, pfn, cache):
    return 0


def tdx_pamt_put(kernel, cpu, pfn):
    pass
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_designs_load_and_keep_their_name(name: str) -> None:
    design = load_design(name)
    assert design.name == name
    assert design.dynamic_pamt == (name != "static")
    assert design.meminfo == (name in ("v1", "v2"))
    assert design.pool_for_every_vm == (name == "v2")


def test_shipped_list_is_every_design_file() -> None:
    folder = Path(load.__file__).parent
    others = {"__init__", "base", "beside", "hazards", "load", "untouched"}
    files = {file.stem for file in folder.glob("*.py")} - others
    assert files == {name.replace("-", "_") for name in SHIPPED}


def test_a_users_file_gets_the_common_refcounts(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    design = load_design(str(file))
    assert (design.name, design.source, design.dynamic_pamt) == ("mine", str(file), True)
    assert design.init_pamt_metadata is refcounts.init_pamt_metadata
    assert design.free_pamt_metadata is refcounts.free_pamt_metadata


def test_a_copy_of_a_shipped_design_is_a_users_design(tmp_path: Path) -> None:
    file = tmp_path / "copy.py"
    file.write_text(Path(merged.__file__).read_text())
    assert load_design(str(file)).dynamic_pamt


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("def broken(:\n", ":1: ", "expected a Python file with a design"),
        ("x = 1\ny = 1 / 0\n", ":2: ", "ZeroDivisionError"),
        ("import no_such_module_here\n", ":1: ", "ModuleNotFoundError"),
        ("import sys\nsys.exit()\n", ":2: ", "SystemExit; expected a design that loads"),
        (GOOD.replace("return", "yield"), ":2: ", "tdx_pamt_get awaits or yields"),
        (GOOD.replace("def tdx_pamt_get", "async def tdx_pamt_get"), ":2: ", "awaits or yields"),
        (GOOD.replace("tdx_pamt_put", "other"), ": ", "tdx_pamt_put is missing"),
        (GOOD.replace("pfn, cache", "pfn"), ":2: ", "tdx_pamt_get(kernel, cpu, pfn, cache)"),
        (GOOD + "tdx_pamt_get = 3\n", ": ", "tdx_pamt_get is int"),
        (GOOD + "MEMINFO = 'yes'\n", ": ", "MEMINFO is 'yes'; expected True or False"),
        (GOOD + "COUNTS = 'some'\n", ": ", 'expected one of "pages", "at-least", "none"'),
        (GOOD + "SEPT_BACKING = 1\n", ": ", 'SEPT_BACKING is 1; expected one of "link", "top-up"'),
        (GOOD + "SEPT_PUT = 'never'\n", ": ", 'expected one of "at-once", "rcu"'),
        (GOOD + "SEPT_CACHE_PAGES = 3\n", ": ", "expected a number from 5 up"),
        (GOOD + "TOLERATED = (3,)\n", ": ", "TOLERATED has 3; expected pairs (leaf number"),
        (GOOD + "def tdx_pamt_hint(pfn):\n    pass\n", ":8: ", "tdx_pamt_hint(kernel, cpu, pfn)"),
        (
            GOOD + "def tdx_pamt_demote(kernel):\n    pass\n",
            ":8: ",
            "tdx_pamt_demote(kernel, cpu, tdr, gpa, pfn, sept, pages)",
        ),
        (
            GOOD + "def free_pamt_metadata():\n    pass\n",
            ":8: ",
            "expected a function free_pamt_metadata(kernel)",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, text: str, line: str, expected: str
) -> None:
    file = tmp_path / "design.py"
    file.write_text(text)
    with pytest.raises(InputError) as raised:
        load_design(str(file))
    message = str(raised.value)
    assert message.startswith(f"{file}{line}")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["nothing", "no/such/design.py", "gone.py", "/"])
def test_what_is_not_there_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError, match="expected"):
        load_design(name)


def test_a_binary_file_is_an_input_error(tmp_path: Path) -> None:
    file = tmp_path / "binary.py"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_design(str(file))
    file.write_bytes(b"x = 1\0")
    with pytest.raises(InputError, match=":1: "):
        load_design(str(file))


@pytest.mark.parametrize("returned", ["None", "True", "0.0", "'x'", "5", "[]"])
def test_a_get_that_returns_no_errno_is_refused_when_it_does(tmp_path: Path, returned: str) -> None:
    file = tmp_path / "design.py"
    file.write_text(GOOD.replace("return 0", f"return {returned} if pfn else -12"))
    get: Any = load_design(str(file)).tdx_pamt_get
    assert get(None, None, 0, None) == -12
    with pytest.raises(InputError, match=r"design\.py:2: tdx_pamt_get returned .*expected 0 or"):
        get(None, None, 1, None)


def test_what_a_design_declares_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        GOOD
        + 'COUNTS = "none"\nTOLERATED = ((58, 3 << 32),)\nSEPT_BACKING = "top-up"\n'
        + 'SEPT_PUT = "rcu"\nSEPT_CACHE_PAGES = 6\nSPLIT_BACKS_SEPT = CACHE_FROM_CREATE = False\n'
        + "def tdx_pamt_missing(kernel, cpu, pfn, cache):\n    return -12 if pfn else None\n"
        + "def tdx_pamt_hint(kernel, cpu, pfn):\n    pass\n"
    )
    design: Any = load_design(str(file))
    assert (design.counts, design.sept_backing, design.sept_put) == ("none", "top-up", "rcu")
    assert design.tolerated == frozenset({(58, 3 << 32)})
    assert (design.sept_cache_pages, design.split_backs_sept) == (6, False)
    assert not design.cache_from_create
    assert design.tdx_pamt_hint is not None
    assert design.tdx_pamt_missing(None, None, 1, None) == -12
    with pytest.raises(InputError, match="tdx_pamt_missing returned None; expected 0 or"):
        design.tdx_pamt_missing(None, None, 0, None)


def test_names_with_hyphens_are_modules_with_underscores() -> None:
    assert load_design("per-2m-lock").name == "per-2m-lock"
    assert load_design("merged").tdx_pamt_missing is None
    with pytest.raises(InputError, match="per-2m-lock"):
        load_design("per_2m_lock")


CHANGES = {
    "a function": (
        "from dpamt.host.core import pairs\npairs.tdx_pamt_remove = len",
        "pairs.tdx_pamt",
    ),
    "a constant": ("from dpamt.abi import status\nstatus.TDX_SUCCESS = 5", "status.TDX_SUCCESS"),
    "a method": (
        "from dpamt.host.core.kernel import KernelLog\nKernelLog.warn = print",
        "KernelLog.warn",
    ),
    "the code of a function": (
        "from dpamt.host.core import pairs\npairs.tdx_pamt_add.__code__ = (lambda *a: 0).__code__",
        "tdx_pamt_add.__code__",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_changes_dpamt_is_refused_and_it_is_put_back(name: str, tmp_path: Path) -> None:
    before = members()
    text, what = CHANGES[name]
    file = tmp_path / "mine.py"
    file.write_text(f"{text}\n{GOOD}")
    with pytest.raises(InputError, match=f"{what}.* is changed; expected a design that leaves"):
        load_design(str(file))
    assert members() == before


def test_what_changes_dpamt_at_boot_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    change = "    from dpamt.host.core import pairs\n    setattr(pairs, 'tdx_pamt_remove', len)"
    file.write_text(f"{GOOD}\n\ndef init_pamt_metadata(kernel):\n{change}\n    return 0\n")
    design = load_design(str(file))
    with pytest.raises(InputError, match=r"pairs.tdx_pamt_remove is changed"):
        design.init_pamt_metadata(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["SystemExit(0)", "GeneratorExit"])
def test_what_would_end_dpamt_is_an_error_of_the_design(what: str, tmp_path: Path) -> None:
    """It would have ended with exit code 0, or with a traceback."""
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace("    return 0", f"    raise {what}"))
    design = load_design(str(file))
    with pytest.raises(InputError, match=r"mine.py:3: tdx_pamt_get: \w+.*; expected a design that"):
        design.tdx_pamt_get(None, None, 0, None)  # type: ignore[arg-type]


@pytest.fixture
def same_path() -> Iterator[None]:
    """Paths and modules as they were."""
    path, modules = [*sys.path], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_module_beside_a_design_is_found(tmp_path: Path, same_path: None) -> None:
    (tmp_path / "dpamt_test_deeper.py").write_text("NUMBER = -7\n")
    (tmp_path / "dpamt_test_helper.py").write_text("from dpamt_test_deeper import NUMBER\n")
    file = tmp_path / "mine.py"
    text = GOOD.replace("    return 0", "    import dpamt_test_helper as h\n    return h.NUMBER")
    file.write_text(text)
    assert load_design(str(file)).tdx_pamt_get(None, None, 0, None) == -7  # type: ignore[arg-type]


def test_modules_of_the_same_name_beside_two_designs(tmp_path: Path, same_path: None) -> None:
    """Python knows one of a name: the second design would run with the first one's."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "dpamt_test_helper.py").write_text(f"NAME = {folder!r}\n")
        (tmp_path / folder / "mine.py").write_text("import dpamt_test_helper\n" + GOOD)
    load_design(str(tmp_path / "one" / "mine.py"))
    with pytest.raises(InputError, match=r"dpamt_test_helper is imported, which is .*one/"):
        load_design(str(tmp_path / "two" / "mine.py"))


@pytest.mark.parametrize("name", ["random", "time", "json"])
def test_a_file_named_as_a_module_of_python(name: str, tmp_path: Path, same_path: None) -> None:
    """What may be imported is looked up beside the design; Python takes its own."""
    (tmp_path / f"{name}.py").write_text("")
    file = tmp_path / "mine.py"
    file.write_text(f"import {name}\n{GOOD}")
    with pytest.raises(InputError, match=f"{name} is imported, which is .* and not .*{name}.py"):
        load_design(str(file))
