"""What the bounds of a trial say of its machine is what the machine has."""

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.programs.get_put import regions


@pytest.mark.parametrize("cpus", [(1,), (4,), (2, 3)])
def test_the_pages_of_a_region(cpus: tuple[int, ...]) -> None:
    """Those of the region with most CPUs: a design that goes by other pages was not tried."""
    problem = regions(load_design("merged"), cpus)
    pages = max((kind.pages for kind in problem.classes), key=len)
    offsets = [hex(page % 512) for page in pages]
    assert problem.bounds["pages of a region that are used"] == ", ".join(offsets)
