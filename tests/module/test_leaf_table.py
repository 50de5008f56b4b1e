"""A leaf is its handler and its row: none has the one without the other."""

import sys
from pathlib import Path

import pytest

from dpamt.abi.leaf_table import LEAF_OPERANDS
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.module import leaves
from dpamt.module.leaves import table


def test_every_handler_has_its_row_and_the_other_way_round() -> None:
    assert set(table.HANDLERS) == set(LEAF_OPERANDS)
    assert list(table.HANDLERS) == sorted(table.HANDLERS)


def test_a_handler_is_named_as_its_leaf() -> None:
    for number, handler in table.HANDLERS.items():
        name = getattr(handler, "__name__", "")
        assert name.upper().replace("_", ".") == LEAF_NAMES[number]


def test_a_name_of_no_leaf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mem_page_ogle.py").write_text("def tdh_mem_page_ogle(lp, args):\n    ...\n")
    monkeypatch.setattr(leaves, "__path__", [*leaves.__path__, str(tmp_path)])
    try:
        with pytest.raises(ImportError, match="tdh_mem_page_ogle is named after no leaf"):
            list(table._found())
    finally:
        sys.modules.pop("dpamt.module.leaves.mem_page_ogle", None)
        vars(leaves).pop("mem_page_ogle", None)
