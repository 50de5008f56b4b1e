"""PAMT in use now, beside a plan: text and JSON."""

from collections.abc import Iterator
from typing import Any

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.plan.counted import InUseNow
from dpamt.report.run_text import paragraph
from dpamt.report.units import amount, count


def counted_text(now: InUseNow, source: str) -> str:
    """A section that ends with a line break."""
    return "\n".join(_lines(now, source)) + "\n"


def _lines(now: InUseNow, source: str) -> Iterator[str]:
    title = paragraph(f"In use now, by the kernel's counters in {source}")
    yield from title
    yield "=" * max(map(len, title))
    if now.differences:
        yield from paragraph(f"DIFFERS from the plan: {'; '.join(now.differences)}.", "  ")
    else:
        yield from paragraph("The kernel's TDMRs and their PAMT are those of the plan.", "  ")
    for name, size in (
        ("1G level", now.level_1g),
        ("2M level", now.level_2m),
        ("page bitmap, or 4K level", now.level_4k_or_bitmap),
        (f"{count(now.pairs)} page pair{'' if now.pairs == 1 else 's'}", now.pair_bytes),
        ("all", now.all),
    ):
        yield f"  {name:36}{amount(size):>16}"
    if now.pairs:
        share = 100 * now.pages / (now.pairs * PAGES_PER_2M)
        yield from paragraph(
            f"{count(now.pages)} pages of 4K are in use in these regions, {share:.1f} % of them; "
            f"packed together they would need {count(now.packed)} "
            f"page pair{'' if now.packed == 1 else 's'}.",
            "  ",
        )


def counted_json(now: InUseNow, source: str) -> dict[str, Any]:
    """Bytes and counts."""
    return {
        "source": source,
        "level_1g": now.level_1g,
        "level_2m": now.level_2m,
        "level_4k_or_bitmap": now.level_4k_or_bitmap,
        "pairs": now.pairs,
        "pair_bytes": now.pair_bytes,
        "pages": now.pages,
        "pairs_if_packed": now.packed,
        "all": now.all,
        "differences": list(now.differences),
    }
