"""A search dealt out to shards is the search in one: states, edges, verdicts, lengths."""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import pytest

from dpamt.errors import InputError
from dpamt.host.designs.load import load_design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.cluster.coordinator import sharded_search
from dpamt.verify.cluster.ray_team import RayTeam
from dpamt.verify.cluster.worker import Shard
from dpamt.verify.evidence.certificate import confirm
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS
from dpamt.verify.verdict import Verdict, verdict_of

SEARCHES = [
    Asked("v6", "", (4,), "apart", 0, SEAMCALL, 1_000_000),
    Asked("v2", "", (3,), "apart", 0, SEAMCALL, 1_000_000),
    Asked("lazy", "", (2, 1), "crossed", 0, SEAMCALL, 1_000_000),
    Asked("global-rwlock", "", (2,), "own", 0, LOCKS, 1_000_000),
    Asked("merged", "", (2,), "apart", 1, WORDS, 1_000_000),
    Asked("merged", "faults", (), "apart", 0, SEAMCALL, 1_000_000),
    Asked("v5", "softirq", (), "apart", 0, SEAMCALL, 1_000_000),
]


class Came(NamedTuple):
    """What a search came to; of failures how many moves it takes to get there."""

    verdict: Verdict
    depths: dict[str, int]


class Here:
    """Shards in this process; what they are told goes through pickle, as on other machines."""

    def __init__(self, count: int, asked: Asked) -> None:
        self.count = count
        self.shards = [Shard(index, count, asdict(asked)) for index in range(count)]

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [
            pickle.loads(pickle.dumps(getattr(shard, method)(*pickle.loads(pickle.dumps(each)))))
            for shard, each in zip(self.shards, arguments, strict=True)
        ]


def searched(asked: Asked, jobs: int) -> Came:
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    given = trial.make(design), judges, asked.granularity, asked.most_states
    search = sharded_search(Here(jobs, asked), *given) if jobs else search_of(*given)
    found = search.explore()
    said = verdict_of(search, found)
    assert set(confirm(design, trial, said, judges)) <= {"the same"}
    plain = replace(said, seconds=0.0, counterexamples=())
    return Came(plain, {fault.property: fault.depth for fault in found.faults.values()})


@pytest.mark.parametrize("asked", SEARCHES, ids=lambda asked: f"{asked.design} {asked.trial}")
def test_it_is_the_same_search(asked: Asked) -> None:
    whole = searched(asked, 0)
    assert searched(asked, 2) == whole
    if asked.design in ("v6", "v2"):
        assert searched(asked, 3) == whole


def test_properties_of_ones_own_are_asked_of_every_state(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(
        "def few(view):\n    return sum(view.counts.values()) < 15\n\n\nfew.always = True\n",
        encoding="utf-8",
    )
    asked = Asked("v6", "", (3,), "apart", 0, SEAMCALL, 1_000_000, str(file))
    whole, sharded = searched(asked, 0), searched(asked, 2)
    assert whole.verdict.properties["few"] == "fails"
    assert sharded == whole


def test_bounds_hold_for_all_shards_together() -> None:
    said = searched(replace(SEARCHES[0], most_states=100), 2).verdict
    assert said.verdict == "not finished"
    assert said.states > 100
    assert "(--max-states)" in said.stopped


def test_shards_on_a_ray_cluster() -> None:
    pytest.importorskip("ray")
    asked = replace(SEARCHES[0], cpus=(3,))
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    with RayTeam("local", 2, asdict(asked)) as team:
        search = sharded_search(team, trial.make(design), judges, SEAMCALL, 1_000_000)
        found = search.explore()
        said = verdict_of(search, found)
    assert replace(said, seconds=0.0) == searched(asked, 0).verdict


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"^--ray 127.0.0.1:1: .*; expected a cluster$"):
        RayTeam("127.0.0.1:1", 2, {})


def test_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^--ray: Ray is not installed; expected dpamt\[ray\]$"):
        RayTeam("auto", 2, {})
