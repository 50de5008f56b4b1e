"""A thread that changes what no word shows is refused, with the line; one that reads it is not."""

from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.host.designs.load import load_design
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import SEAMCALL
from dpamt.verify.properties.named import properties

HEAD = """
from collections import deque
from dpamt.host.core import refcounts
from dpamt.host.designs import merged

DYNAMIC_PAMT = True


def init_pamt_metadata(kernel):
    kernel.mine = %s
    return refcounts.init_pamt_metadata(kernel)


class Box:
    n = 0


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
    "a queue of the kernel": ("deque()", "mine.append(pfn)", "kernel.mine"),
    "what lies in a dict": ("{1: []}", "mine[1].append(pfn)", r"kernel.mine\[1\]"),
    "bytes that can be changed": ("bytearray(8)", "mine[0] += 1", "kernel.mine"),
    "an object of a global": ("0", "alias = box; alias.n = alias.n + 1", "box"),
    "a class": ("0", "kind = type(box); kind.n = kind.n + 1", "Box.n"),
    "a list of a global": ("0", "alias = pages; alias.append(pfn)", "pages"),
    "an attribute of a function": ("0", "me = tdx_pamt_get; me.n = pfn", "tdx_pamt_get"),
}


def search(tmp_path: Path, kept: str, line: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD % kept + f"    {line}\n    return error\n", encoding="utf-8")
    design = load_design(str(file))
    search_of(regions(design, (2,)), properties(), SEAMCALL).explore()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused(tmp_path: Path, name: str) -> None:
    kept, line, what = CHANGES[name]
    number = (HEAD % kept).count("\n") + 1
    with pytest.raises(InputError, match=rf"mine.py:{number}: {what}.* is changed by a thread"):
        search(tmp_path, kept, line)


@pytest.mark.parametrize("kept", ["(1, 2)", "[1]", "{1: 2}", "frozenset([1])", "Box()"])
def test_what_is_only_read_is_fine(tmp_path: Path, kept: str) -> None:
    search(tmp_path, kept, "known = mine is box")


def test_what_hides_a_position_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"kernel.mine is a list_iterator, whose position"):
        search(tmp_path, "iter([1])", "known = mine is box")


def test_what_goes_by_chance_is_refused(tmp_path: Path) -> None:
    """The same results, and another step: a random number, the time, a counter in C."""
    line = (
        "import random\n    if random.random() < 0.5:\n        kernel.pamt_refcounts.at(7).load()\n"
        "    kernel.pamt_refcounts.at(8).load()"
    )
    with pytest.raises(InputError, match=r"mine.py:\d+: .* goes by something that no word shows"):
        search(tmp_path, "0", line)
