"""docs/hazards.md is what the table of hazards makes of itself."""

import re
from pathlib import Path

from dpamt.host.designs.hazards import HAZARDS
from dpamt.report.hazard_page import hazard_page

PAGE = Path(__file__).parents[2] / "docs" / "hazards.md"


def test_the_page_has_not_drifted() -> None:
    """`make docs` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == hazard_page()


def test_a_row_for_each_hazard_and_an_even_table() -> None:
    rows = [line for line in hazard_page().splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(HAZARDS)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
