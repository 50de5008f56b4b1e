"""What shards were sent piece by piece is what the coordinator has learned."""

from dataclasses import replace

import pytest

from dpamt.verify.asked import Asked
from dpamt.verify.explore.compiled.library import library, why_not
from dpamt.verify.programs.problem import SEAMCALL, WORDS
from tests.verify.cluster.shards_here import Here
from tests.verify.cluster.test_coordinator import dealt_out

pytestmark = pytest.mark.skipif(library() is None, reason=why_not() or "there is a compiler")
ASKED = Asked("merged", "", (2,), "apart", 1, WORDS, 1_000_000)


@pytest.mark.parametrize(
    "asked", [ASKED, replace(ASKED, design="v2", cpus=(3,), failures=0, granularity=SEAMCALL)]
)
def test_tables_of_shards_are_those_of_the_coordinator(asked: Asked) -> None:
    team = Here(2)
    search = dealt_out(asked, team)
    search.explore()
    message = search._teacher.message()
    for shard in team.shards:
        assert shard is not None
        shard._learn(message)
        pupil, teacher = shard._pupil, search._teacher
        arrays = teacher._learned.arrays()
        assert {name: values.tobytes() for name, values in pupil._arrays.items()} == {
            name: values.tobytes() for name, values in arrays.items()
        }
        assert pupil.layout.bits == teacher._learned.layout().bits
        for name in ("slots", "threads", "classes", "locals", "interrupts", "ordered"):
            assert getattr(pupil.tables, name) == getattr(teacher._tables, name)
    team.close()


def test_only_what_is_new_is_sent() -> None:
    team = Here(1)
    search = dealt_out(ASKED, team)
    search.explore()
    search._teacher.message()
    again = search._teacher.message()
    assert again.arrays == []
    assert again.blocks == []
    team.close()
