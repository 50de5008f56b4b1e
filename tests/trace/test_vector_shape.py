"""What a vector file may hold: every fault is one line that names file, line and field."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.trace.vector_file import Scenario, read_vector_file, read_vectors
from dpamt.trace.vector_shape import check_race, check_scenario
from dpamt.trace.vectors import replay

VECTORS = Path(__file__).parent.parent / "data" / "module-vectors.jsonl"
LINES = VECTORS.read_text().splitlines()
FIRST: dict[str, Any] = json.loads(LINES[0])
RACES = [json.loads(line) for line in (VECTORS.parent / "module-races.jsonl").open()]


def fault(
    change: Callable[[dict[str, Any]], None], tmp_path: Path, scenario: dict[str, Any] = FIRST
) -> str:
    """What reading says of a file whose second line is the first scenario, changed."""
    data = copy.deepcopy(scenario)
    change(data)
    path = tmp_path / "v.jsonl"
    path.write_text(LINES[1] + "\n" + json.dumps(data) + "\n")
    with pytest.raises(InputError) as caught:
        read_vectors(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at: Any = data
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        at: Any = data
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("title", value=5), ":2: title: 5; expected a text"),
        (drop("setup", "cmrs"), ":2: setup: no 'cmrs'"),
        (put("setup", "cmrs", value=[]), ":2: setup.cmrs: []; expected a list that is not empty"),
        (put("setup", "cmrs", value=[["0x0"]]), ":2: setup.cmrs[0]: ['0x0']; expected a pair"),
        (put("setup", "sys_state", value="ASLEEP"), ":2: setup.sys_state: 'ASLEEP'; expected one"),
        (drop("setup", "tdmrs", 0, "size"), ":2: setup.tdmrs[0]: no 'size'"),
        (put("setup", "tdmrs", 0, "sise", value=1), ":2: setup.tdmrs[0]: key 'sise'"),
        (put("setup", "dynamic_pamt", value=1), ":2: setup.dynamic_pamt: 1; expected true"),
        (put("setup", "max_pa_bits", value=64), ":2: setup.max_pa_bits: 64; expected a whole"),
        (put("setup", "private_hkids", value=[9, 8]), ":2: setup.private_hkids: [9, 8]; expected"),
        (put("setup", "held", value=[{}]), ":2: setup.held[0]: no 'mode'"),
        (put("calls", value={}), ":2: calls: {}; expected a list"),
        (put("calls", 0, value=[]), ":2: calls[0]: []; expected an object"),
        (put("calls", 0, "leaf", value="TDH.NAP"), ":2: calls[0].leaf: 'TDH.NAP'; expected the"),
        (put("calls", 0, "leaf", value="#x"), ":2: calls[0].leaf: '#x'"),
        (put("calls", 0, "leaf", value="@NAP"), ":2: calls[0].leaf: '@NAP'; expected one of"),
        (put("calls", 0, "rcx", value="zero"), ":2: calls[0].rcx: 'zero'; expected a number"),
        (put("calls", 0, "rcx", value=-1), ":2: calls[0].rcx: -1; expected an unsigned 64-bit"),
        (put("calls", 0, "rcx", value=True), ":2: calls[0].rcx: True; expected a number"),
        (put("calls", 0, "rxc", value=0), ":2: calls[0]: key 'rxc'; expected leaf, rcx"),
        (put("calls", 0, "version", value=300), ":2: calls[0].version: 300"),
        (drop("calls", 0, "expect"), ":2: calls[0]: no 'expect'"),
        (drop("calls", 0, "expect", "status"), ":2: calls[0].expect: no 'status'"),
        (put("calls", 0, "expect", "stale", value=["rax"]), ":2: calls[0].expect.stale[0]: 'rax'"),
        (put("calls", 0, "repeat", value={"count": 2}), ":2: calls[0].repeat: no 'step'"),
        (
            put("calls", 0, value={"leaf": "@HOLD", "mode": "shared", "lock": "NAP"}),
            ":2: calls[0].lock: 'NAP'; expected one of KOT",
        ),
        (
            put("calls", 0, value={"leaf": "@HOLD", "mode": "shared", "level": "2M"}),
            ":2: calls[0]: no 'hpa'",
        ),
        (
            put("calls", 0, value={"leaf": "TDG.MEM.PAGE.ACCEPT", "expect": {"status": 0}}),
            ":2: calls[0]: no 'tdr'",
        ),
        (put("final", "entries", 0, "level", value="3M"), ":2: final.entries[0].level: '3M'"),
        (put("final", "pamt", 0, "page", value=None), ":2: final.pamt[0].page: None"),
        (put("final", "bitmap", value=[[1, 2, 3]]), ":2: final.bitmap[0]: [1, 2, 3]"),
    ],
)
def test_a_fault_names_file_line_and_field(
    change: Callable[[dict[str, Any]], None], told: str, tmp_path: Path
) -> None:
    assert fault(change, tmp_path).startswith(told)


def test_all_recorded_scenarios_are_well_formed() -> None:
    for line in LINES:
        check_scenario(json.loads(line), "here")


def test_scenarios_and_races_may_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps(RACES[0]) + "\n\n" + LINES[0] + "\n")
    file = read_vector_file(path)
    assert [race.before.id for race in file.races] == ["C001"]
    assert [scenario.place for scenario in file.scenarios] == [f"{path}:3"]


def test_all_recorded_races_are_well_formed() -> None:
    for race in RACES:
        check_race(race, "here")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda race: race.pop("a"), ":2: no 'a'"),
        (put("b", value=[]), ":2: b: []"),
        (put("a", "leaf", value="@HOLD"), ":2: a.leaf: '@HOLD'; expected the name of a leaf"),
        (put("a", "leaf", value="TDG.MEM.PAGE.ACCEPT"), ":2: a.leaf: 'TDG.MEM.PAGE.ACCEPT'"),
        (put("a", "repeat", value={"count": 2, "step": {}}), ":2: a: key 'repeat'"),
        (put("setup", "held", value=[{"lock": "KOT", "mode": "shared"}]), ":2: setup.held: "),
        (
            lambda race: race["calls"].append({"leaf": "@INTERRUPT_PENDING", "value": 1}),
            ":2: calls[1].leaf: '@INTERRUPT_PENDING'; expected a leaf, before a race",
        ),
        (lambda race: race["calls"][0].pop("expect"), ":2: calls[0]: no 'expect'"),
        (put("outcomes", value=[]), ":2: outcomes: []; expected a list that is not empty"),
        (lambda race: race["outcomes"][1].pop("b"), ":2: outcomes[1]: no 'b'"),
        (put("outcomes", 0, "a", value={}), ":2: outcomes[0].a: no 'status'"),
        (
            put("outcomes", 0, "a", value={"unfinished": "yes"}),
            ":2: outcomes[0].a: key 'unfinished'",
        ),
        (put("outcomes", 0, "a", "rcx", value=-1), ":2: outcomes[0].a.rcx: -1"),
        (lambda race: race["outcomes"][0].pop("final"), ":2: outcomes[0]: no 'final'"),
        (put("outcomes", 0, "final", "nodes", 0, value={"hpa": 1}), ":2: outcomes[0].final.nodes"),
        (put("outcomes", 0, "sequential", value="no"), ":2: outcomes[0].sequential: 'no'"),
    ],
)
def test_a_fault_of_a_race_names_file_line_and_field(
    change: Callable[[dict[str, Any]], None], told: str, tmp_path: Path
) -> None:
    race = next(race for race in RACES if race["id"] == "C007")
    race = copy.deepcopy(race)
    race["outcomes"][0]["final"]["nodes"] = [{"hpa": 0, "count": 0, "hpa0": 0, "hpa1": 0}]
    assert fault(change, tmp_path, race).startswith(told)


def test_what_is_no_json_says_where(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(LINES[0] + "\n" + LINES[1][:50])
    with pytest.raises(InputError, match=rf"{path}:2: column \d+: .*; expected a JSON object"):
        read_vectors(path)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        read_vectors(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


SMALL: list[dict[str, Any]] = sorted(map(json.loads, LINES), key=lambda d: len(json.dumps(d)))[:8]
JUNK = [None, True, -1, 0, 1 << 70, 1.5, "", "0x", "TDH.VP.FLUSH", [], {}, [0], [[0, 0]], {"a": 1}]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_refused_in_one_line_or_replayed(data: st.DataObject) -> None:
    """No damaged file ever ends in anything but a result or an InputError."""
    damaged = copy.deepcopy(data.draw(st.sampled_from(SMALL)))
    place = data.draw(st.sampled_from(sorted(places(damaged), key=str)))
    put(*place, value=data.draw(st.sampled_from(JUNK)))(damaged)
    told = refused(lambda: check_scenario(damaged, "damaged.jsonl:1"))
    if not told:
        parts = (damaged[key] for key in ("id", "title", "setup", "calls", "final"))
        told = refused(lambda: replay(Scenario("damaged.jsonl:1", *parts)))
    assert not told or (told.startswith("damaged.jsonl:1: ") and "\n" not in told)


def refused(action: Callable[[], Any]) -> str:
    """What an action says when it refuses its input; empty when it does not."""
    try:
        action()
    except InputError as error:
        return str(error)
    return ""
