"""A search dealt out to shards is the search in one: states, edges, verdicts, lengths."""

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dpamt.errors import InputError
from dpamt.host.designs import per_2m_lock
from dpamt.host.designs.load import load_design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.cluster import worker
from dpamt.verify.cluster.coordinator import ShardedSearch, sharded_search
from dpamt.verify.cluster.ray_team import RayTeam
from dpamt.verify.cluster.team import Team
from dpamt.verify.evidence.certificate import confirm
from dpamt.verify.explore.compiled.library import library, why_not
from dpamt.verify.explore.judging import Found
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS
from dpamt.verify.verdict import Verdict, verdict_of
from tests.verify.cluster.shards_here import Here

pytestmark = pytest.mark.skipif(library() is None, reason=why_not() or "there is a compiler")

SEARCHES = [
    Asked("v6", "", (4,), "apart", 0, SEAMCALL, 1_000_000),
    Asked("v6", "", (3, 3), "apart", 0, SEAMCALL, 1_000_000),
    Asked("v2", "", (3,), "apart", 0, SEAMCALL, 1_000_000),
    Asked("lazy", "", (2, 1), "crossed", 0, SEAMCALL, 1_000_000),
    Asked("global-rwlock", "", (2,), "own", 0, LOCKS, 1_000_000),
    Asked("merged", "", (2,), "straddling", 0, LOCKS, 1_000_000),
    Asked("merged", "", (2,), "apart", 1, WORDS, 1_000_000),
    Asked("v6", "", (2,), "apart", 0, SEAMCALL, 1_000_000, reductions="none"),
    Asked("merged", "faults", (), "apart", 0, SEAMCALL, 1_000_000),
    Asked("v5", "softirq", (), "apart", 0, SEAMCALL, 1_000_000),
]


class Came(NamedTuple):
    """What a search came to; of failures how many moves it takes to get there."""

    verdict: Verdict
    depths: dict[str, int]


def searched(asked: Asked, search: Search) -> Came:
    return came(asked, search, search.explore())


def came(asked: Asked, search: Search, found: Found) -> Came:
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    said = verdict_of(search, found)
    assert set(confirm(design, trial, said, judges)) <= {"the same"}
    plain = replace(said, seconds=0.0, counterexamples=())
    return Came(plain, {fault.property: fault.depth for fault in found.faults.values()})


def in_one(asked: Asked) -> Came:
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    return searched(
        asked, search_of(trial.make(design), judges, asked.granularity, asked.most_states)
    )


def dealt_out(asked: Asked, team: Team) -> ShardedSearch:
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    return sharded_search(team, trial.make(design), judges, asked.granularity, asked.most_states)


def here(asked: Asked, count: int, round_states: int = 1 << 16) -> Came:
    team = Here(count)
    search = dealt_out(asked, team)
    search.round_states = round_states
    found = searched(asked, search)
    team.close()
    return found


@pytest.mark.parametrize("asked", SEARCHES, ids=lambda asked: f"{asked.design} {asked.trial}")
def test_it_is_the_same_search(asked: Asked) -> None:
    whole = in_one(asked)
    assert here(asked, 2) == whole
    assert here(asked, 3, round_states=50) == whole
    if asked.design in ("v6", "v2"):
        assert here(asked, 1) == whole
        assert here(asked, 7) == whole


def test_states_are_dealt_out_evenly() -> None:
    team = Here(3)
    found = dealt_out(SEARCHES[1], team).explore()
    parts = [len(shard.rest().onward) // 4 for shard in team.shards if shard is not None]
    assert sum(parts) == found.states
    assert max(parts) < 1.1 * min(parts)


def test_properties_of_ones_own_are_asked_of_every_state(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def few(view):\n    return sum(view.counts.values()) < 15\n\n\nfew.always = True\n",
        encoding="utf-8",
    )
    asked = Asked("v6", "", (3,), "apart", 0, SEAMCALL, 1_000_000, str(file))
    whole, sharded = in_one(asked), here(asked, 2)
    assert whole.verdict.properties["few"] == "fails"
    assert sharded == whole


def going_round(folder: Path) -> Asked:
    """A CPU waits after its get until the count is one more than before: two may wait for ever."""
    text = Path(per_2m_lock.__file__).read_text(encoding="utf-8")
    begin, end = "    status = 0\n    lock.lock()\n", "    return -EIO if status else 0\n"
    assert (text.count(begin), text.count(end)) == (1, 1)
    text = text.replace(begin, f"    seen = refcount.load()\n{begin}")
    waits = "    while True:\n        now = refcount.load()\n        if now == seen + 1:\n"
    text = text.replace(end, f"{waits}            break\n{end}")
    file = folder / "going_round.py"
    file.write_text(text, encoding="utf-8")
    return Asked(str(file), "", (3,), "apart", 0, SEAMCALL, 1_000_000)


def test_a_way_that_never_ends_is_found(tmp_path: Path) -> None:
    asked = going_round(tmp_path)
    whole = in_one(asked)
    assert whole.verdict.properties["livelock"] == "fails"
    assert here(asked, 2) == whole
    assert here(asked, 3, round_states=7) == whole


@pytest.mark.parametrize("name", ["v6", "v2", "lazy", "going round"])
def test_asked_of_every_edge_it_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = next((each for each in SEARCHES if each.design == name), going_round(tmp_path))
    whole = in_one(asked)
    ask = ShardedSearch._ask

    def every_edge(
        self: ShardedSearch, begins: list[int], ends: list[int], every_edge: bool
    ) -> int:
        return ask(self, begins, ends, True) if every_edge else 0

    monkeypatch.setattr(ShardedSearch, "_ask", every_edge)
    assert here(asked, 3) == whole


def test_bounds_hold_for_all_shards_together() -> None:
    said = here(replace(SEARCHES[0], most_states=100), 2).verdict
    assert said.verdict == "not finished"
    assert said.states > 100
    assert "(--max-states)" in said.stopped
    search = dealt_out(SEARCHES[0], Here(2))
    search.most_memory = 1 << 20
    assert "(--max-memory)" in search.explore().stopped


# A shard that is lost.


def with_losses(
    asked: Asked, count: int, lost_at: Sequence[int], copy_seconds: float
) -> tuple[Came, int]:
    team = Here(count, lost_at)
    search = dealt_out(asked, team)
    search.copy_seconds, search.round_states = copy_seconds, 40
    found = searched(asked, search)
    team.close()
    return found, team.calls


@pytest.mark.parametrize(("number", "copy_seconds"), [(0, 0.0), (0, 1e9), (2, 0.0)])
def test_a_lost_shard_changes_nothing(
    number: int, copy_seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = SEARCHES[number]
    whole, calls = with_losses(asked, 2, (), copy_seconds)
    assert whole == in_one(asked)
    for lost_at in range(0, calls, max(1, calls // 9)):
        again, _ = with_losses(asked, 2, (lost_at,), copy_seconds)
        assert again == whole, lost_at
        said = capsys.readouterr().err
        assert re.fullmatch(
            r"dpamt: lost at depth \d+: shard [12]; a new shard is made, and the search "
            r"(continues from depth \d+ \([\d,]+ states\)|restarts, because .*)\n",
            said,
        )
        assert copy_seconds < 1 or "restarts" in said


def test_it_goes_on_from_the_last_copy(capsys: pytest.CaptureFixture[str]) -> None:
    whole, calls = with_losses(SEARCHES[1], 2, (), 0.0)
    late, more = with_losses(SEARCHES[1], 2, (calls * 2 // 3,), 0.0)
    assert late == whole
    depth = re.search(r"continues from depth (\d+)", capsys.readouterr().err)
    assert depth
    assert int(depth[1]) > 5
    assert more < calls * 3 // 2
    several, _ = with_losses(SEARCHES[1], 2, (50, 300, calls, calls + 100), 0.0)
    assert several == whole


def test_shards_that_are_lost_again_and_again_end_the_search() -> None:
    with pytest.raises(InputError, match=r"^--ray: shards were lost 4 times in a row, .*memory$"):
        with_losses(SEARCHES[0], 2, range(10_000), 1e9)


def test_a_disk_that_is_full_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("dpamt.verify.cluster.copies.pickle.dump", full)
    again, _ = with_losses(SEARCHES[0], 2, (300,), 0.0)
    assert again == in_one(SEARCHES[0])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "dpamt: no more copies of the states are made: No space left on device"
    assert len(said) == 2


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "library", lambda: None)
    monkeypatch.setattr(worker, "why_not", lambda: "no C compiler (cc) is on the path")
    expected = r"^--ray: \S+: no C compiler \(cc\) is on the path; expected a C compiler on each"
    with pytest.raises(InputError, match=expected):
        here(SEARCHES[0], 2)


# On Ray.


def test_shards_on_a_ray_cluster_and_one_of_them_killed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    asked = SEARCHES[1]
    with RayTeam("local", 2) as team:
        assert searched(asked, dealt_out(asked, team)) == in_one(asked)
        search = dealt_out(asked, team)
        search.copy_seconds = 0.0
        relay, rounds = team.relay, 0

        def killing(*given: Any) -> list[list[Any]]:
            nonlocal rounds
            rounds += 1
            if rounds == 30:
                os.kill(team.places[1][1], signal.SIGKILL)
            return relay(*given)

        monkeypatch.setattr(team, "relay", killing)
        assert searched(asked, search) == in_one(asked)
    said = capsys.readouterr().err
    assert re.search(r"^dpamt: lost at depth \d+: shard 2 of 2 \(\S+, process \d+\); ", said)
    assert len(said.splitlines()) == 1
