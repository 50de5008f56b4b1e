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
from dpamt.trace.vector_shape import check_scenario
from dpamt.trace.vectors import replay

VECTORS = Path(__file__).parent.parent / "data" / "module-vectors.jsonl"
LINES = VECTORS.read_text().splitlines()
FIRST: dict[str, Any] = json.loads(LINES[0])
CONCURRENT = {**FIRST, "id": "C1", "kind": "concurrent", "calls": [], "a": {}, "b": {}}


def fault(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> str:
    """What reading says of a file whose second line is the first scenario, changed."""
    data = copy.deepcopy(FIRST)
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


def test_concurrent_scenarios_are_counted_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    del CONCURRENT["final"]
    path.write_text(json.dumps(CONCURRENT) + "\n\n" + LINES[0] + "\n")
    file = read_vector_file(path)
    assert file.concurrent == ("C1",)
    assert [scenario.place for scenario in file.scenarios] == [f"{path}:3"]


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
