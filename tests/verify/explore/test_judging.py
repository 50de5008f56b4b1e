"""What a search says of its states, asked again the slow way: each state, each property, each time.

The oracle walks the states breadth first by the search's own moves, and keeps nothing: no answer is
remembered, every state is put back into the machine and audited, and the nearest failure of each
property is the first that is met.  Livelocks are looked for by walking backwards from every end.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.explore.judging import FAILS, HOLDS, Fault, Found
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import Choices
from dpamt.verify.programs.problem import LOCKS, SEAMCALL, WORDS, Problem
from dpamt.verify.programs.suite import trials_of
from dpamt.verify.properties.from_file import Custom, View, properties_of, view_of, with_custom
from dpamt.verify.properties.named import LIVELOCK, Property, properties

from .backwards import lead_to

NEVER: Final = 1 << 60
GIVEN: Final = Path(__file__).parents[2] / "data" / "designs"


def slowly(search: Search) -> Found:
    """What the search should have found; its blocks are all known."""
    problem, judges, capacity = search.problem, search.properties, search.capacity
    found = Found(HOLDS)
    first = search.first_state()
    depths, order = {first: 0}, [first]
    before: dict[tuple[int, ...], list[tuple[int, ...]]] = {first: []}
    good: list[tuple[int, ...]] = []

    def note(name: str, text: str, state: int, thread: int, way: int, depth: int) -> None:
        if text and name not in found.faults:
            found.faults[name] = Fault(name, text, state, thread, way, depth)

    def lines(audit: Callable[[], list[str]], state: tuple[int, ...]) -> list[str]:
        search.put_back(state)
        said = audit()
        search.put_back(first)
        return said

    def whole(state: tuple[int, ...]) -> None:
        for one in judges:
            if one.of_state is not None and problem.always_arrays:
                text = "; ".join(filter(one.of_state, lines(problem.always, state)))
                note(one.name, text, order.index(state), -1, 0, depths[state])

    whole(first)
    for number, state in enumerate(order):
        after = search.moves(state)
        found.transitions += len(after)
        if not after:
            good.append(state)
            stand = [search.engine.ended[local] for local in state[capacity:]]
            for one in judges:
                if all(stand) and one.of_rest is not None:
                    text = "; ".join(filter(one.of_rest, lines(problem.at_rest, state)))
                    note(one.name, text, number, -1, 0, depths[state])
                if not all(stand) and one.of_deadlock is not None:
                    note(one.name, "waits", number, -1, 0, depths[state])
        for position, way, key, block in after:
            for one in judges:
                if one.of_event is not None:
                    for text in map(one.of_event, block.events):
                        note(one.name, text, number, position, way, depths[state] + 1)
            if any(event.kind in ("raised", "misuse") for event in block.events):
                good.append(state)
                continue
            then = search.packing.unpack(key)
            if then not in depths:
                depths[then] = depths[state] + 1
                order.append(then)
                before[then] = []
                whole(then)
            before[then].append(state)
    found.ends, found.states, found.depth = len(set(good)), len(order), max(depths.values())
    leads = lead_to(good, before)
    stuck = [number for number, state in enumerate(order) if state not in leads]
    if stuck:
        text = "from here on no way leads to the end of every thread"
        found.faults[LIVELOCK] = Fault(LIVELOCK, text, stuck[0], -1, 0, depths[order[stuck[0]]])
    found.verdict = FAILS if found.faults else HOLDS
    return found


def asked_as(problem: Problem, judges: tuple[Property, ...], granularity: str) -> dict[str, Fault]:
    """Both ways; the faults."""
    search = search_of(problem, judges, granularity)
    search.compiled_from = NEVER
    found = search.explore()
    expected = slowly(search)
    numbers = ("verdict", "states", "transitions", "depth", "ends")
    assert {name: getattr(found, name) for name in numbers} == {
        name: getattr(expected, name) for name in numbers
    }
    told = {name: fault for name, fault in found.faults.items() if fault.text != "waits"}
    for name, fault in expected.faults.items():
        if fault.text == "waits":  # where each thread stands is the judge's own text
            assert "CPU" in told[name].text
            told[name] = told[name]._replace(text="waits")
    assert told == expected.faults
    return told


def trial(design: str, name: str) -> tuple[Any, str]:
    loaded = load_design(design)
    one = next(one for one in trials_of(loaded) if one.name == name)
    return one.make(loaded), one.granularity


@pytest.mark.parametrize(
    ("design", "cpus", "granularity", "failures"),
    [
        ("v2", (2,), SEAMCALL, 0),
        ("v2", (3,), SEAMCALL, 0),
        ("v3-simple", (2,), WORDS, 0),
        ("lazy", (2,), LOCKS, 0),
        ("merged", (2, 1), SEAMCALL, 1),
        ("v3", (2,), SEAMCALL, 1),
        (str(GIVEN / "wrong_is_locked.py"), (2,), LOCKS, 0),
        (str(GIVEN / "wrong_nomem_frees_wrong.py"), (2,), SEAMCALL, 1),
    ],
)
def test_get_and_put(design: str, cpus: tuple[int, ...], granularity: str, failures: int) -> None:
    loaded = load_design(design)
    problem = regions(loaded, cpus, choices=Choices(failures) if failures else None)
    asked_as(problem, properties(loaded.tolerated), granularity)


@pytest.mark.parametrize(
    ("design", "name", "broken"),
    [("v5", "softirq", "deadlock"), ("per-2m-rwlock", "crossed pairs", "deadlock")],
)
def test_trials_that_wait_for_ever(design: str, name: str, broken: str) -> None:
    problem, granularity = trial(design, name)
    assert broken in asked_as(problem, properties(load_design(design).tolerated), granularity)


def asked_of(problem: Problem) -> tuple[Custom, ...]:
    """Properties of counts and pairs, beside those of the TD that is there before."""
    before = view_of(problem)
    counts, pairs = sum(before.counts.values()), len(before.pairs)

    def few(view: View) -> object:
        return sum(view.counts.values()) < counts + 2 or "two"

    def paired(view: View) -> bool:
        return view.counts.keys() == view.pairs.keys()

    def no_pair(view: View) -> bool:
        return len(view.pairs) == pairs

    return (
        Custom("mine.py", "few", few, True),
        Custom("mine.py", "paired", paired, True),
        Custom("mine.py", "no_pair", no_pair, True),
        Custom("mine.py", "none_left", no_pair, False),
    )


COUNTS_AND_PAIRS: Final = ("host.pamt_refcounts", "module.pamt.2m")


@pytest.mark.parametrize("arrays", [("",), COUNTS_AND_PAIRS], ids=["all", "some"])
@pytest.mark.parametrize(("design", "granularity"), [("v6", SEAMCALL), ("v2", SEAMCALL)])
def test_properties_of_every_state(design: str, granularity: str, arrays: tuple[str, ...]) -> None:
    """Of all arrays, or of those alone that hold what is asked about: the same answers."""
    loaded = load_design(design)
    problem = regions(loaded, (2,))
    asked = asked_of(problem)
    problem = with_custom(problem, asked)
    problem.always_arrays = arrays
    judges = (*properties(loaded.tolerated), *properties_of(asked))
    faults = asked_as(problem, judges, granularity)
    assert {"few", "no_pair", "paired"} <= faults.keys()
    assert 0 < faults["no_pair"].depth < faults["few"].depth
    assert "none_left" not in faults
