"""The verifier against the judge: same verdicts, same answers, same ways to end."""

from collections.abc import Callable, Hashable
from itertools import permutations, product
from pathlib import Path

import pytest

from dpamt.host.designs.base import Design
from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.sync.observed import Address
from dpamt.sync.shared import Snapshot
from dpamt.verify.explore.blocks import Engine
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.explore.state import REST, Words
from dpamt.verify.learn.automaton import CONTEXT, LOCK_ORDER
from dpamt.verify.learn.values import read_word
from dpamt.verify.programs.get_put import regions, softirq
from dpamt.verify.programs.ground import APART, CROSSED, OWN, Choices
from dpamt.verify.programs.own_pages import demote_and_get
from dpamt.verify.programs.problem import GRANULARITIES, LOCKS, SEAMCALL, WORDS, Problem
from dpamt.verify.programs.whole_tds import split
from dpamt.verify.properties.named import MISSING, properties
from tests.verify.judge.compare import compared
from tests.verify.judge.problems import one_by_one, plain
from tests.verify.judge.search import Judge, Said, answer
from tests.verify.searched import states_of

DESIGNS = Path(__file__).parents[2] / "data" / "designs"
DYNAMIC = [name for name in SHIPPED if load_design(name).dynamic_pamt]


def as_each_its_own(search: Search, state: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The state with the threads of each class in every order."""
    capacity = search.capacity
    orders = []
    first = capacity
    for kind in search.problem.classes:
        orders.append(sorted(set(permutations(state[first : first + kind.count]))))
        first += kind.count
    return [(*state[:capacity], *(n for part in order for n in part)) for order in product(*orders)]


def answers_of(search: Search) -> set[Hashable]:
    found = set()
    for state in states_of(search):
        for _, _, _, block in search.moves(state):
            for event in block.events:
                if event.kind not in (CONTEXT, LOCK_ORDER):  # the judge has no such events
                    found.add(answer(event))
                if event.kind == "misuse":
                    break
    return found


def rests_of(search: Search) -> set[Snapshot]:
    found = set()
    for state in states_of(search):
        if all(search.engine.ended[local] for local in state[search.capacity :]):
            for ordered in as_each_its_own(search, state):
                search.put_back(ordered)
                found.add(search.problem.shared.snapshot())
    return found


def words_of(search: Search) -> list[Address]:
    """The words that the search keeps, each instance's own ones too; not what it takes as fixed."""
    words = search.engine.words
    found = [slot.address for slot in words.shared]
    for kind, slots in zip(search.problem.classes, words.own, strict=True):
        named = {Address(word.array, word.indices[0]): word for word in kind.own}
        for slot in slots:
            word = named.get(slot.address)
            indices = word.indices if word else (slot.address.number,)
            found += [Address(slot.address.array, index) for index in indices]
    return [address for address in found if not address.array.endswith(REST)]


def states_at(search: Search, addresses: list[Address]) -> set[tuple[Hashable, ...]]:
    """What those words hold together, in every state of the search."""
    found = set()
    array_of = search.problem.shared.array
    for state in states_of(search):
        for ordered in as_each_its_own(search, state):
            search.put_back(ordered)
            found.add(tuple(read_word(array_of(array), number) for array, number in addresses))
    return found


def compare(design: Design, own: Problem, problem: Problem, granularity: str) -> Said:
    """Both sides agree in every answer and every end; what the verifier sees, the judge does."""
    judged = properties(design.tolerated)
    judge = Judge(own, judged, longest=10_000)
    said = judge.explore(granularity)
    search = search_of(problem, judged, granularity)
    found = search.explore()
    assert not found.stopped
    assert not said.cut
    assert set(found.faults) == said.broken
    assert answers_of(search) == said.answers
    assert rests_of(search) == judge.snapshots(said.ends)
    addresses = words_of(search)
    assert states_at(search, addresses) <= judge.memory.seen_at(addresses, said.memories)
    assert said.states > found.states
    return said


def alike(
    design: Design,
    cpus: tuple[int, ...],
    placement: str = APART,
    choices: Choices | None = None,
) -> Problem:
    """Threads that stand for themselves, and take the same pages for the pair of a region."""
    return one_by_one(design, cpus, placement, choices, own_pairs=False)


@pytest.mark.parametrize("name", DYNAMIC)
def test_two_cpus_in_one_region(name: str) -> None:
    design = load_design(name)
    compare(design, alike(design, (2,)), regions(design, (2,)), SEAMCALL)


@pytest.mark.parametrize("name", ["merged", "v6"])
def test_two_cpus_and_the_modules_locks(name: str) -> None:
    design = load_design(name)
    compare(design, alike(design, (2,)), regions(design, (2,)), LOCKS)


@pytest.mark.parametrize(
    ("name", "cpus", "placement", "choices"),
    [
        ("v2", (2,), OWN, None),
        ("per-2m-lock", (1, 1), CROSSED, None),
        ("per-2m-rwlock", (1, 1), CROSSED, None),
        ("merged", (2,), APART, Choices(1)),
        ("v3", (2,), APART, Choices(1)),
    ],
)
def test_where_pairs_lie_and_allocations_that_fail(
    name: str, cpus: tuple[int, ...], placement: str, choices: Choices | None
) -> None:
    design = load_design(name)
    own = alike(design, cpus, placement, choices)
    compare(design, own, regions(design, cpus, placement, choices), SEAMCALL)


@pytest.mark.parametrize(
    ("name", "make", "granularity"),
    [
        ("v5", softirq, SEAMCALL),
        ("v5", softirq, WORDS),
        ("merged", demote_and_get, SEAMCALL),
        ("per-2m-lock", demote_and_get, LOCKS),
    ],
)
def test_other_programs(name: str, make: Callable[[Design], Problem], granularity: str) -> None:
    design = load_design(name)
    compare(design, plain(make(design)), make(design), granularity)


def test_a_split_beside_a_fault() -> None:
    """KVM's own paths, in their whole length; v5 has what the split forgets to count."""
    for name in ("merged", "v5"):
        design = load_design(name)
        said = compare(design, plain(split(design)), split(design), SEAMCALL)
        assert bool(said.broken) == (name == "v5")


def racing() -> Design:
    """As v6, but a count that is not 0 is looked at and raised in two steps."""
    return load_design(str(DESIGNS / "a_race.py"))


def test_a_race_between_two_steps_of_the_host() -> None:
    design = racing()
    said = compare(design, alike(design, (2,)), regions(design, (2,)), SEAMCALL)
    assert MISSING in said.broken


@pytest.mark.parametrize("granted", ["is_guarded", "is_counter"])
def test_an_engine_that_takes_too_much_for_granted_is_noticed(
    granted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can fail."""
    monkeypatch.setattr(Words, granted, lambda words, address: True)
    monkeypatch.setattr(Words, "no_counter", lambda words, address: None)
    if granted == "is_counter":
        monkeypatch.setattr(Engine, "_is_counting", lambda engine, node, step: True)
    design = racing()
    with pytest.raises(AssertionError):
        compare(design, alike(design, (2,)), regions(design, (2,)), SEAMCALL)


def everything() -> None:
    """Every design at every granularity; a minute or two."""
    for granularity in GRANULARITIES:
        for name in DYNAMIC:
            design = load_design(name)
            said = compare(design, alike(design, (2,)), regions(design, (2,)), granularity)
            print(f"{granularity:9} {name:14} agrees; {said.states} states here", flush=True)


if __name__ == "__main__":
    everything()


def test_nothing_counts_that_comes_after_a_misuse(tmp_path: Path) -> None:
    """A lock that is let go twice, then an allocation under it: only the first is wrong."""
    text = (DESIGNS / "one_lock.py").read_text(encoding="utf-8")
    once = "        refcount.store(count - 1)\n        lock.unlock()\n        return\n"
    assert once in text
    more = "            lock.unlock()\n            lock.lock()\n"
    more += "            alloc_pamt_pages(kernel, None)\n            lock.unlock()\n"
    twice = once.replace("        return\n", f"        if count == 2:\n{more}        return\n")
    path = tmp_path / "twice.py"
    path.write_text(text.replace(once, twice), encoding="utf-8")
    found = compared("twice", load_design(str(path)))
    assert [(one.engine.broken, one.judge.broken) for one in found] == [(("kernel",),) * 2] * 3
