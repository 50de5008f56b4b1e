"""Plain state that designs change: found; and no design that comes with dpamt changes any."""

from pathlib import Path

import pytest

from dpamt.host import designs
from dpamt.sync.plain_state import plain_changes

CHANGES = [
    "kernel.n = 1",
    "kernel.n += 1",
    "kernel.n: int = 1",
    "del kernel.n",
    "kernel.seen[pfn] = 1",
    "kernel.seen.append(pfn)",
    "kernel.pamt.seen.setdefault(pfn, 1)",
    "setattr(kernel, 'n', 1)",
    "a = kernel.pamt; b = a.list; b[0] = 1",
    "kernel.a, x = 1, 2",
]
NO_CHANGES = [
    "x = kernel.n",
    "kernel.pamt_refcounts.at(pfn).add(1)",
    "kernel.pamt_refcounts.at(pfn).clear()",
    "mine = []; mine.append(kernel)",
    "mine = {}; mine[pfn] = kernel",
    "cache.pages = 1",
    "kernel.log.warn('x')",
]


def changes_of(tmp_path: Path, statement: str) -> list[int]:
    file = tmp_path / "design.py"
    file.write_text(
        f"def tdx_pamt_get(kernel, cpu, pfn, cache):\n    {statement}\n", encoding="utf-8"
    )
    return [breach.line for breach in plain_changes(file)]


@pytest.mark.parametrize("statement", CHANGES)
def test_a_change_is_found(tmp_path: Path, statement: str) -> None:
    assert changes_of(tmp_path, statement) == [2]


@pytest.mark.parametrize("statement", NO_CHANGES)
def test_what_is_private_or_a_word_is_none(tmp_path: Path, statement: str) -> None:
    assert changes_of(tmp_path, statement) == []


def test_designs_that_come_with_dpamt_change_none() -> None:
    files = sorted(Path(designs.__file__).parent.glob("*.py"))
    assert len(files) > 10
    assert [str(breach) for file in files for breach in plain_changes(file)] == []


def test_what_a_hook_calls_is_looked_at_and_what_runs_at_boot_is_not(tmp_path: Path) -> None:
    file = tmp_path / "design.py"
    file.write_text(
        "def tdx_pamt_put(kernel, cpu, pfn):\n    _count(kernel)\n"
        "def _count(kernel):\n    kernel.n = 1\n"
        "def init_pamt_metadata(kernel):\n    kernel.n = 0\n    return 0\n",
        encoding="utf-8",
    )
    assert [breach.line for breach in plain_changes(file)] == [4]
