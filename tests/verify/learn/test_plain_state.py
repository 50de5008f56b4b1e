"""A thread that changes what no word shows is refused, with the line; one that reads it is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.host.core.kernel import Cpu
from dpamt.host.designs import merged
from dpamt.host.designs.load import load_design
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import SEAMCALL
from dpamt.verify.properties.named import properties

HEAD = """
from abc import ABC
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple
from dpamt.host.core import refcounts
from dpamt.host.designs import merged

DYNAMIC_PAMT = True


def init_pamt_metadata(kernel):
    kernel.mine = %s
    return refcounts.init_pamt_metadata(kernel)


class Box:
    n = 0


class Pages(list):
    pass


class Named(NamedTuple):
    first: int


@dataclass(frozen=True)
class Data:
    first: int


class Level(IntEnum):
    ONE = 1


class Kind(ABC):
    pass


class OneSlot:
    __slots__ = "busy"


class Mangled:
    __slots__ = ("__busy",)

    def put(self, value):
        self.__busy = value


box = Box()
pages = []
tdx_pamt_put = merged.tdx_pamt_put


def tdx_pamt_get(kernel, cpu, pfn, cache):
    error = merged.tdx_pamt_get(kernel, cpu, pfn, cache)
    mine = kernel.mine
"""
CHANGES = {
    "a set of the kernel": ("set()", "mine.add(pfn)", "kernel.mine"),
    "a list of the kernel": ("[0]", "mine[0] = pfn", r"kernel.mine\[0\]"),
    "True in the place of 1": ("[1]", "mine[0] = pfn >= 1 << 18 or 1", r"kernel.mine\[0\]"),
    "-0.0 in the place of 0.0": ("[0.0]", "mine[0] = -0.0 if pfn >> 18 else 0.0", r"kernel.mine"),
    "a queue of the kernel": ("deque()", "mine.append(pfn)", "kernel.mine"),
    "what lies in a dict": ("{1: []}", "mine[1].append(pfn)", r"kernel.mine\[1\]"),
    "bytes that can be changed": ("bytearray(8)", "mine[0] += 1", "kernel.mine"),
    "an object of a global": ("0", "alias = box; alias.n = alias.n + 1", "box"),
    "a class": ("0", "kind = type(box); kind.n = kind.n + 1", "Box.n"),
    "a list of a global": ("0", "alias = pages; alias.append(pfn)", "pages"),
    "an attribute of a subclass of list": ("Pages()", "mine.n = pfn", r"kernel.mine\.n"),
    "a slot that is one string": ("OneSlot()", "mine.busy = pfn", r"kernel.mine\.busy"),
    "a slot with a mangled name": ("Mangled()", "mine.put(pfn)", "kernel.mine"),
    "a global with underscores": ("0", "globals()['__b'] = pfn", "__b"),
    "an attribute with underscores": ("Box()", "mine.__pages__ = pfn", "kernel.mine"),
    "an attribute of dpamt's function": ("0", "setattr(merged.tdx_pamt_get, 'n', pfn)", ""),
    "an attribute of dpamt's class": ("0", "setattr(type(cpu), 'taken', pfn)", ""),
    "the design": ("0", "object.__setattr__(kernel.design, 'b', pfn)", "kernel.design"),
    "another CPU": ("0", "setattr(kernel.cpus[1], 'bulk', pfn)", r"kernel.cpus\[1\]"),
    "a function of dpamt": ("0", "setattr(merged, 'taken', pfn)", ""),
    "an attribute of a function": ("0", "me = tdx_pamt_get; me.n = pfn", "tdx_pamt_get"),
}

NO_LINE = {"an attribute of dpamt's class", "a function of dpamt"}
"""What is not put back, so that the second run does not show the line."""
PUT = HEAD[: HEAD.index("self.__busy = value")].count("\n") + 1


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    """What these designs leave on dpamt's own function, module and class is of no other test."""
    yield
    vars(merged.tdx_pamt_get).pop("n", None)
    vars(merged).pop("taken", None)
    if hasattr(Cpu, "taken"):
        del Cpu.taken


def search(tmp_path: Path, kept: str, line: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD % kept + f"    {line}\n    return error\n", encoding="utf-8")
    design = load_design(str(file))
    search_of(regions(design, (2,)), properties(), SEAMCALL).explore()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused(tmp_path: Path, name: str) -> None:
    kept, line, what = CHANGES[name]
    number = (HEAD % kept).count("\n") + 1
    where = "" if name in NO_LINE else rf"mine.py:({number}|{PUT}): "
    with pytest.raises(InputError, match=rf"{where}{what}.* is changed by a thread"):
        search(tmp_path, kept, line)


@pytest.mark.parametrize(
    "kept",
    [
        "(1, 2)",
        "[1]",
        "{1: 2}",
        "frozenset([1])",
        "Box()",
        "Named(1)",
        "Data(1)",
        "Level.ONE",
        "Kind()",
    ],
)
def test_what_is_only_read_is_fine(tmp_path: Path, kept: str) -> None:
    search(tmp_path, kept, "known = mine is box")


@pytest.mark.parametrize(
    "kept",
    [
        "__import__('types').SimpleNamespace(b=0)",
        "__import__('array').array('q', [0])",
        "__import__('functools').partial(print, 1)",
        "__import__('contextvars').ContextVar('x')",
        "__import__('threading').local()",
        "__import__('collections').UserDict()",
        "__import__('queue').LifoQueue()",
        "ValueError()",
        "open('/dev/null')",
        "__import__('weakref').WeakKeyDictionary()",
    ],
)
def test_what_cannot_be_watched_is_refused(tmp_path: Path, kept: str) -> None:
    with pytest.raises(InputError, match=r"kernel.mine is a .* cannot be watched"):
        search(tmp_path, kept, "known = mine is box")


def test_what_hides_a_position_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kernel.mine is a list_iterator, and what it holds"):
        search(tmp_path, "iter([1])", "known = mine is box")


def test_what_goes_by_chance_is_refused(tmp_path: Path) -> None:
    """The same results, and another step: a random number, the time, a counter in C."""
    line = (
        "import random\n    if random.random() < 0.5:\n        kernel.pamt_refcounts.at(7).load()\n"
        "    kernel.pamt_refcounts.at(8).load()"
    )
    with pytest.raises(InputError, match=r"mine.py:\d+: .* goes by something that no word shows"):
        search(tmp_path, "0", line)
