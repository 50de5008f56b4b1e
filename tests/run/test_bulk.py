"""A run in bulk tells the same story as one page by page, to the last number."""

import pytest

from dpamt.run.api import run_scenario
from dpamt.run.bulk import CountedBulk
from dpamt.run.world import World

SCENARIO = """
title = "bulk"
[host]
machine = "2GiB"
seed = 3
fragmentation = {fragmentation}

[[side]]
name = "static"
[[side]]
name = "merged"
[[side]]
name = "v2"

[[td]]
name = "huge"
memory = "64MiB"
image = "3MiB"
share_2m = 0.5
vcpus = 2

[[td]]
name = "small"
memory = "40MiB"
image = "4100KiB"
count = 2

[[phase]]
name = "life"
steps = [
  {{ do = "build" }},
  {{ do = "fault", share = 0.6 }},
  {{ do = "convert", share = 0.3, chunk = "64KiB" }},
  {{ do = "convert", share = 0.5, chunk = "2MiB" }},
  {{ do = "split", share = 0.3 }},
  {{ do = "balloon", share = 0.4 }},
  {{ do = "fault", share = 1.0 }},
]
[[phase]]
name = "last"
steps = [{{ do = "shutdown" }}]
"""


@pytest.mark.parametrize("fragmentation", [0, 0.5])
def test_the_whole_document_is_the_same(
    monkeypatch: pytest.MonkeyPatch, fragmentation: float
) -> None:
    text = SCENARIO.format(fragmentation=fragmentation)
    taken = []
    zap = CountedBulk.page_zap

    def counting(self: CountedBulk, tdr: int, gfn: int, count: int, track: bool) -> int:
        done = zap(self, tdr, gfn, count, track)
        taken.append(done)
        return done

    monkeypatch.setattr(CountedBulk, "page_zap", counting)
    in_bulk = run_scenario(text)
    assert sum(taken) > 1000, "the bulk path is not used"
    monkeypatch.setattr(World, "in_bulk", False)
    taken.clear()
    page_by_page = run_scenario(text)
    assert not taken
    assert in_bulk.clean
    assert in_bulk == page_by_page
