"""docs/hazards.md, written from the table of hazards: `python -m dpamt.report.hazard_page`."""

from typing import Final

from dpamt.host.designs.hazards import HAZARDS

_HEAD: Final = """# What can go wrong

Every hazard that was raised about Dynamic PAMT in the kernel community, from the table in
`src/dpamt/host/designs/hazards.py` (`make docs` writes this page from it). *Designs* are the
designs of dpamt that have the hazard, as they were posted or discussed. *Fixed in* is the first
design after them that does not have it.

| | hazard | raised by | kind | shows as | designs | fixed in |
|---|---|---|---|---|---|---|
"""


def hazard_page() -> str:
    """The page."""
    rows = []
    for hazard in HAZARDS:
        title = f"{hazard.title} ({hazard.note})" if hazard.note else hazard.title
        designs = ", ".join(f"`{name}`" for name in hazard.designs) or "-"
        fixed = f"`{hazard.fixed_in}`" if hazard.fixed_in else "-"
        cells = (hazard.id, title, hazard.raised, hazard.kind, hazard.sign, designs, fixed)
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(hazard_page(), end="")
