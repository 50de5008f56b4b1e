"""What a thread does before its first step: a finding in the initial state, and everywhere after.

The design's get warns at once, before it takes a page or a lock, so a thread that begins with a get
has warned before its first step.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from dpamt.host.designs import merged
from dpamt.host.designs.load import load_design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.evidence.certificate import SAME, Tried, confirm, plain, refined
from dpamt.verify.evidence.checking import differences
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS
from dpamt.verify.properties.named import KERNEL
from dpamt.verify.verdict import verify
from tests.cli.command import dpamt
from tests.verify.cluster.shards_here import Here

MERGED = Path(merged.__file__).read_text(encoding="utf-8")
HEAD = (
    "    pages = alloc_pamt_pages(kernel, cache)\n    if pages is None:\n        return -ENOMEM\n"
)
assert MERGED.count(HEAD) == 1


@pytest.fixture
def warns(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MERGED.replace(HEAD, f'    kernel.log.warn("at once")\n{HEAD}'))
    return file


@pytest.mark.parametrize("shards", [0, 2])
@pytest.mark.parametrize("granularity", [SEAMCALL, LOCKS, WORDS])
def test_it_is_found_and_stands_every_check(warns: Path, granularity: str, shards: int) -> None:
    asked = Asked(str(warns), "", (2, 1), "apart", 0, granularity, 100_000)
    design = load_design(str(warns))
    trial, judges = prepare(asked, design)
    team = Here(shards) if shards else None
    said = verify(trial.make(design), judges, granularity, team=team)
    if team is not None:
        team.close()
    assert said.verdict == "fails"
    assert {name for name, how in said.properties.items() if how == "fails"} == {KERNEL}
    (found,) = said.counterexamples
    assert (found.text, found.steps, found.turns) == ("at once", (), ())
    tried = Tried(asked, trial, said, confirm(design, trial, said, judges))
    assert tried.replayed == (SAME,)
    (looked,) = refined(design, [tried])
    assert looked.fine == ({} if granularity == WORDS else {KERNEL: "found"})
    kept = {
        **plain(said.as_json()),
        "trial": trial.name,
        "meaning": trial.meaning,
        "replayed": [SAME],
        "fine": looked.fine,
    }
    assert differences(kept, looked, design, "kept", True) == []
    better = replace(looked, verdict=replace(said, properties=dict.fromkeys(said.properties, "?")))
    assert differences(kept, better, design, "kept", True)


def test_it_is_shown(warns: Path) -> None:
    ended = dpamt(
        *("verify", "./mine.py", "--cpus", "2", "--save", "kept.json", "--html", "mine.html"),
        cwd=warns.parent,
    )
    assert ended.code == 1
    assert "kernel, in 2 CPUs: at once\nIt fails in the initial state, before any" in ended.out
    again = dpamt("verify", "--replay", "kept.json", "./mine.py", cwd=warns.parent)
    assert again.code == 1
    assert "FAILS AGAIN" in again.out
    assert "in other words" not in again.out
    checked = dpamt("verify", "--check", "kept.json", "./mine.py", cwd=warns.parent)
    assert (checked.code, "2 CPUs: fails, 24 states: the same" in checked.out) == (0, True)
    assert "at once" in (warns.parent / "mine.html").read_text(encoding="utf-8")
