"""What a word holds in C, and that a search refuses more."""

from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.host.designs import merged
from dpamt.host.designs.load import load_design
from dpamt.sync.word_sizes import bits_of, holds
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import SEAMCALL
from dpamt.verify.properties.named import properties

COUNTS = "host.dpamt_refcounts"
"""Their name where DPAMT_NAMES is set, as in merged."""


@pytest.mark.parametrize("array", ["host.pamt_refcounts", COUNTS])
def test_a_count_is_an_int(array: str) -> None:
    assert bits_of(array) == 32
    assert holds(array, (1 << 31) - 1)
    assert holds(array, -(1 << 31))
    assert not holds(array, 1 << 31)
    assert not holds(array, -(1 << 31) - 1)


def test_any_other_word_is_a_long_signed_or_not() -> None:
    assert holds("host.mine", (1 << 64) - 1)
    assert holds("host.mine", -(1 << 63))
    assert not holds("host.mine", 1 << 64)
    assert holds("module.pamt.bitmap", 1 << 500)
    assert not holds("host.mine", -(1 << 63) - 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("refcount.add(1 << 31)", r"mine.py:\d+: add\(\) of host.dpamt_refcounts.* is given 0x80"),
        ("refcount.add((1 << 31) - 1)", r"host.dpamt_refcounts.* becomes 0x80000000 by add\(\)"),
        ("kernel.pamt_pairs.store(1 << 64)", r"mine.py:\d+: store\(\) of host.pamt_pairs"),
    ],
)
def test_what_wraps_round_in_c_is_refused(body: str, said: str, tmp_path: Path) -> None:
    """Two of them cancel each other out here, and in C the first one is undefined or negative."""
    text = Path(merged.__file__).read_text()
    old = "    refcount.store(1)\n"
    assert old in text
    back = body.replace("add(", "add(-(").replace(")", "))", 1) if "add" in body else ""
    undo = f"    if pfn >= 1 << 18:\n        {back}\n" if back else ""
    more = f"{old}    if pfn >= 1 << 18:\n        {body}\n{undo}"
    file = tmp_path / "mine.py"
    file.write_text(text.replace(old, more))
    with pytest.raises(InputError, match=said):
        search_of(regions(load_design(str(file)), (2,)), properties(), SEAMCALL).explore()
