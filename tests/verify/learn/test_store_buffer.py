"""A store and a later load of another word are told where x86 may turn them round, only there."""

from pathlib import Path

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import WORDS
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify

ONE_LOCK = Path(__file__).parents[2] / "data" / "designs" / "one_lock.py"

FLAGS = """    mine, theirs = kernel.flags.at(pfn & 1), kernel.flags.at(1 - (pfn & 1))
    {store}
{between}    {load}
    mine.store(0)
    if seen > 5:
        return -EIO
"""
INIT = """DYNAMIC_PAMT: Final = True


def init_pamt_metadata(kernel: Kernel) -> int:
    kernel.flags = kernel.shared.words("host.flags")
    return refcounts.init_pamt_metadata(kernel)
"""


def notes(
    tmp_path: Path, store: str, between: str = "", load: str = "seen = theirs.load()"
) -> list[str]:
    text = ONE_LOCK.read_text(encoding="utf-8")
    text = text.replace("DYNAMIC_PAMT: Final = True\n", INIT, 1)
    text = text.replace("from typing", "from dpamt.host.core import refcounts\nfrom typing", 1)
    head = "    if not kernel.dynamic_pamt:\n        return 0\n"
    assert head in text
    flags = FLAGS.format(store=store, between=between, load=load)
    path = tmp_path / "mine.py"
    path.write_text(text.replace(head, head + flags, 1), encoding="utf-8")
    said = verify(regions(load_design(str(path)), (2,)), properties(), WORDS)
    return [line for line in said.assumptions if "store buffer" in line]


def test_both_lines_are_named(tmp_path: Path) -> None:
    (told,) = notes(tmp_path, "mine.store(1)")
    lines = (tmp_path / "mine.py").read_text(encoding="utf-8").split("\n")
    stored = lines.index("    mine.store(1)") + 1
    loaded = lines.index("    seen = theirs.load()") + 1
    assert f"load host.flags in tdx_pamt_get (mine.py:{loaded})" in told
    assert f"stored in tdx_pamt_get (mine.py:{stored})" in told


LOCKED = """    other = kernel.pamt.region_locks.at(7)
    other.lock()
    other.unlock()
"""


@pytest.mark.parametrize(
    ("store", "between", "load"),
    [
        ("mine.xchg(1)", "", "seen = theirs.load()"),
        ("mine.store(1)", LOCKED, "seen = theirs.load()"),
        ("mine.store(1)", "", "seen = theirs.fetch_add(0)"),
    ],
)
def test_what_empties_the_buffer_between_is_seen(
    store: str, between: str, load: str, tmp_path: Path
) -> None:
    assert not notes(tmp_path, store, between, load)


@pytest.mark.parametrize("name", ["merged", "v6"])
def test_what_is_guarded_by_a_lock_is_not_told(name: str) -> None:
    said = verify(regions(load_design(name), (2,)), properties(), WORDS)
    assert not said.assumptions
