"""The list that only an odd bound excuses: wrong designs that hold in all that the suite explores.

A search of the suite has at most 4 CPUs in one region, or 2 regions.  Each design here is `merged`
with one change that needs more: it has to hold within those bounds and to fail one step beyond
them, so that the list neither hides a fault of the verifier nor keeps what the suite has learned to
find.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpamt.host.designs.load import load_design
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import APART, CROSSED, Choices
from dpamt.verify.programs.problem import SEAMCALL
from dpamt.verify.properties.named import properties
from tests.verify.judge.mutants import SOURCES

WITHIN: Final = (((4,), APART, 0), ((2, 2), APART, 0), ((1, 1), CROSSED, 0), ((3,), APART, 1))
"""What the suite explores of get, use and put by SEAMCALLs: CPUs by region, pairs, failures."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """A wrong design, and the bound that excuses that it holds."""

    name: str
    reason: str
    needs: str
    cpus: tuple[int, ...]
    """By region: where it fails."""
    changes: tuple[tuple[str, str], ...]
    """Lines of `merged` and what stands there instead."""

    def text(self) -> str:
        """The design."""
        text = SOURCES["merged"].read_text(encoding="utf-8")
        for line, instead in self.changes:
            assert line in text
            text = text.replace(line, instead, 1)
        return text


BEYOND: Final = (
    Beyond(
        "the fifth user is not counted",
        "the count stops at 4, so a fifth page in use is not counted: 4 CPUs never use 5 at once",
        "5 CPUs in one region",
        (5,),
        (
            (
                "    raised = refcount.inc_not_zero()\n",
                "    raised = refcount.load()\n"
                "    if raised and (raised < 4 or pfn // PAGES_PER_2M < 500):\n"
                "        refcount.add(1)\n",
            ),
        ),
    ),
    Beyond(
        "no third region",
        "the design keeps at most 2 pairs beside those of the TD and tells a third region that it "
        "has one: 2 regions never need 3 pairs at once",
        "1 + 1 + 1 CPUs in 3 regions",
        (1, 1, 1),
        (
            (
                "from dpamt.abi.pages import PAGES_PER_2M\n",
                "from dpamt.abi.pages import PAGES_PER_2M\nfrom dpamt.host.core import refcounts\n",
            ),
            (
                "def tdx_pamt_get(",
                "def init_pamt_metadata(kernel: Kernel) -> int:\n"
                '    kernel.used = kernel.shared.words("host.used")\n'
                "    return refcounts.init_pamt_metadata(kernel)\n\n\n"
                "def tdx_pamt_get(",
            ),
            (
                "    status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])\n",
                "    top = pfn // PAGES_PER_2M > 500\n"
                "    used = 0\n"
                "    status = 0\n"
                "    if top:\n"
                "        used = kernel.used.at(0).load()\n"
                "        kernel.used.at(0).store(used + 1)\n"
                "    if used < 2:\n"
                "        status = tdx_pamt_add(kernel, cpu, pfn, pages[0], pages[1])\n",
            ),
            (
                "    refcount.store(0)\n",
                "    refcount.store(0)\n"
                "    if pfn // PAGES_PER_2M > 500:\n"
                "        used = kernel.used.at(0).load()\n"
                "        kernel.used.at(0).store(used - 1)\n",
            ),
        ),
    ),
)


def verdicts(beyond: Beyond) -> tuple[str, str]:
    """What the verifier says fails within the suite's bounds, and beyond them; empty: it holds."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "design.py"
        file.write_text(beyond.text(), encoding="utf-8")
        within: set[str] = set()
        for cpus, placement, failures in WITHIN:
            within |= _broken(file, cpus, placement, failures)
        outside = _broken(file, beyond.cpus, APART, 0)
    return ", ".join(sorted(within)), ", ".join(sorted(outside))


def _broken(file: Path, cpus: tuple[int, ...], placement: str, failures: int) -> set[str]:
    design = load_design(str(file))
    choices = Choices(failures) if failures else None
    problem = regions(design, cpus, placement, choices)
    found = search_of(problem, properties(design.tolerated), SEAMCALL).explore()
    assert not found.stopped
    return set(found.faults)
