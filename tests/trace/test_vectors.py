"""The module against 121 scenarios of a real one, and the judge against false records."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dpamt.errors import InputError, ModelError
from dpamt.module.releases import RELEASES
from dpamt.trace.vector_file import Json, Scenario, VectorFile, read_vectors
from dpamt.trace.vectors import SHUTDOWN, replay, replay_all, replay_file

VECTORS = Path(__file__).parent.parent / "data" / "module-vectors.jsonl"
SCENARIOS = {scenario.id: scenario for scenario in read_vectors(VECTORS)}
DEMOTE = SCENARIOS["D085"]


def test_all_scenarios_are_there() -> None:
    assert len(SCENARIOS) == 121
    assert sum(name.startswith("D") for name in SCENARIOS) == 71


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_agrees(name: str) -> None:
    result = replay(SCENARIOS[name])
    assert result.agrees, str(result)
    recorded = SCENARIOS[name].calls
    counts = [
        call.get("repeat", {"count": 1})["count"] for call in recorded if call["leaf"][0] != "@"
    ]
    assert result.calls == sum(counts)
    assert name in str(result)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario_agrees_lock_by_lock(name: str) -> None:
    result = replay(SCENARIOS[name], step_by_step=True)
    assert result.agrees, str(result)


def altered(scenario: Scenario, change: Callable[[Json, list[Json], Json], None]) -> Scenario:
    """The scenario with setup, calls or final changed."""
    setup, calls, final = copy.deepcopy((scenario.setup, scenario.calls, scenario.final))
    change(setup, calls, final)
    return replace(scenario, setup=setup, calls=calls, final=final)


def test_a_false_status_is_told_with_both_answers() -> None:
    def change(setup: Json, calls: list[Json], final: Json) -> None:
        calls[3]["expect"]["status"] = "0x8000020000000001"

    result = replay(altered(DEMOTE, change))
    assert result.difference is not None
    assert result.difference.index == 3
    assert result.difference.recorded.status == 0x8000020000000001
    assert result.difference.given.status == 0
    assert not result.agrees
    assert "TDX_OPERAND_BUSY" in str(result)
    assert "TDX_SUCCESS" in str(result)


def test_a_false_register_and_an_unlisted_one_are_told() -> None:
    index = next(i for i, call in enumerate(DEMOTE.calls) if call["leaf"] == "TDH.MEM.SEPT.ADD")

    def wrong(setup: Json, calls: list[Json], final: Json) -> None:
        calls[index]["expect"]["rcx"] = "0x5"

    def unlisted(setup: Json, calls: list[Json], final: Json) -> None:
        del calls[index]["expect"]["rcx"]

    for change in (wrong, unlisted):
        result = replay(altered(DEMOTE, change))
        assert result.difference is not None
        assert result.difference.index == index
        assert set(result.difference.given.registers) == {"rcx"}


def test_a_stale_register_is_ignored() -> None:
    scenario = SCENARIOS["D017"]
    index = next(i for i, call in enumerate(scenario.calls) if "stale" in call["expect"])

    def change(setup: Json, calls: list[Json], final: Json) -> None:
        calls[index]["expect"]["rdx"] = "0xabc000"

    assert replay(altered(scenario, change)).agrees


def test_a_missing_shutdown_and_a_surprising_one_are_told() -> None:
    scenario = SCENARIOS["D125"]

    def survived(setup: Json, calls: list[Json], final: Json) -> None:
        calls[-1]["expect"] = {"status": "0x0"}

    result = replay(altered(scenario, survived))
    assert result.difference is not None
    assert result.difference.given.event == SHUTDOWN
    assert "fatal error" in result.difference.shutdown
    assert "shutdown" in str(result)

    def expected(setup: Json, calls: list[Json], final: Json) -> None:
        calls[0]["expect"] = {"fatal": True}

    assert not replay(altered(scenario, expected)).agrees


@pytest.mark.parametrize("key", ["entries", "bitmap", "tds", "pamt"])
def test_false_final_metadata_is_told(key: str) -> None:
    def fewer(setup: Json, calls: list[Json], final: Json) -> None:
        if key == "pamt":
            final[key][0]["rcx"] = "0x8"
        else:
            del final[key][0]

    result = replay(altered(DEMOTE, fewer))
    assert result.difference is None
    assert result.final
    assert not result.agrees


def test_a_repeated_call_names_its_repetition() -> None:
    index = next(i for i, call in enumerate(DEMOTE.calls) if "repeat" in call)

    def change(setup: Json, calls: list[Json], final: Json) -> None:
        calls[index]["repeat"]["step"] = {"rcx": "0x3000"}
        calls[index]["repeat"]["count"] = 10

    result = replay(altered(DEMOTE, change))
    assert result.difference is not None
    assert result.difference.index == index
    assert result.difference.repetition > 0
    assert f"repetition {result.difference.repetition}" in str(result)


def contended() -> Scenario:
    """DEMOTE while another host CPU wants the S-EPT tree."""
    index = next(i for i, call in enumerate(DEMOTE.calls) if call["leaf"] == "TDH.MEM.PAGE.DEMOTE")

    def change(setup: Json, calls: list[Json], final: Json) -> None:
        demote = copy.deepcopy(calls[index])
        demote["expect"] = {"status": "0x8000020600000000"}
        calls[index:index] = [{"leaf": "@TREE_LOCK_CONTENDED_NEXT"}, demote]

    return altered(DEMOTE, change)


def test_contention_for_the_tree_is_played_once() -> None:
    assert replay(contended()).agrees
    calls: list[Json] = [
        {"leaf": "@TREE_LOCK_CONTENDED_NEXT"},
        {"leaf": "TDH.MEM.TRACK", "expect": {"status": "0x0"}},
    ]
    with pytest.raises(InputError, match="no host priority"):
        replay(minimal(calls), "2.0.08")


def minimal(calls: list[Json]) -> Scenario:
    return replace(SCENARIOS["D001"], calls=calls)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([{"leaf": "@RELEASE", "lock": "KOT", "mode": "shared"}], "not held"),
        ([{"leaf": "@HOLD", "lock": "KOT", "mode": "exclusive"}] * 2, "not free"),
        ([{"leaf": "@HOLD", "lock": "KOT", "mode": "host_priority"}], r"calls\[0\].mode"),
        ([{"leaf": "@HOLD", "lock": "TDMR", "index": 9, "mode": "shared"}], r"calls\[0\].index: 9"),
        (
            [{"leaf": "@HOLD", "level": "2M", "hpa": "0x0", "mode": "shared"}],
            r"calls\[0\].hpa: 0x0; expected an address in a TDMR",
        ),
        (
            [{"leaf": "TDG.MEM.PAGE.ACCEPT", "tdr": "0x5000", "expect": {"status": "0x0"}}],
            r"calls\[0\].tdr: 0x5000; expected a TD",
        ),
    ],
)
def test_a_step_that_cannot_be_done_is_one_clear_line(calls: list[Json], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        replay(minimal(calls))
    assert "module-vectors.jsonl:1: calls[" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_sept_entry_to_hold_must_be_there() -> None:
    scenario = next(
        scenario
        for scenario in SCENARIOS.values()
        if any(call.get("lock") == "SEPT_ENTRY" for call in scenario.calls)
    )
    index = next(i for i, c in enumerate(scenario.calls) if c.get("lock") == "SEPT_ENTRY")

    def elsewhere(setup: Json, calls: list[Json], final: Json) -> None:
        calls[index]["gpa"] = "0x7f0000000000"

    with pytest.raises(InputError, match=rf"calls\[{index}\]: 0x7f0000000000 has no S-EPT entry"):
        replay(altered(scenario, elsewhere))


def test_a_set_up_that_the_model_refuses_is_a_disagreement() -> None:
    def change(setup: Json, calls: list[Json], final: Json) -> None:
        setup["tdmrs"][0]["size"] = "0x1000"

    result = replay(altered(DEMOTE, change))
    assert not result.agrees
    assert result.calls == 0
    assert "TDX_INVALID_TDMR" in str(result)


def test_a_guest_that_leaves_is_told() -> None:
    """ACCEPT of a page that the TD does not have: a TD exit, whatever was recorded."""
    index, call = next(
        (i, call)
        for i, call in enumerate(SCENARIOS["D083"].calls)
        if call["leaf"] == "TDG.MEM.PAGE.ACCEPT"
    )

    def change(setup: Json, calls: list[Json], final: Json) -> None:
        calls[index] = {**call, "rcx": "0x7fffc0000000"}

    result = replay(altered(SCENARIOS["D083"], change))
    assert result.difference is not None
    assert result.difference.given.event.startswith("TD exit")


def test_what_breaks_the_model_names_the_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_scenario: Scenario, _release: str) -> None:
        raise KeyError(5)

    monkeypatch.setattr("dpamt.trace.vectors.build_module", broken)
    with pytest.raises(ModelError, match=r"jsonl:\d+: D085: KeyError: 5"):
        replay_all(VectorFile(VECTORS, (DEMOTE,), ()), "1.5.25")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no scenario"),
        ("[1]\n", r":1: \[1\]; expected a JSON object"),
        ('{"id": 1}\n', "no 'title'"),
        ('\n{"id": \n', ":2: "),
    ],
)
def test_a_file_that_is_no_vector_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "vectors.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_vectors(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a vector file"):
        replay_file(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected a vector file"):
        replay_file(tmp_path / "binary")


def test_a_file_is_replayed_in_order(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(VECTORS.read_text().splitlines()[:4]))
    results = replay_file(path)
    assert [result.id for result in results] == [
        json.loads(line)["id"] for line in path.read_text().splitlines()
    ]
    assert all(result.agrees for result in results)


def test_other_releases_differ_where_they_should() -> None:
    """DEMOTE and PROMOTE under a pending interrupt: without L2 VMs 2.0.18 does not look."""
    assert replay(SCENARIOS["D135"], "1.5.25").agrees
    assert set(RELEASES) == {"1.5.25", "2.0.08", "2.0.18"}
    result = replay(SCENARIOS["D141"], "2.0.18")
    assert result.agrees
    assert not replay(SCENARIOS["D131"], "2.0.18").agrees
