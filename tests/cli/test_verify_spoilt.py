"""`dpamt verify --check` and `--replay` of documents in which anything may stand anywhere."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cli.command import Ended, dpamt

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 1 << 70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=5),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["a", "broken", "cpu"]), st.integers(0, 3), max_size=2),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("spoilt") / "kept.json"
    dpamt("verify", "v2", "--cpus", "2", "--granularity", "seamcall", "--save", str(file))
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value; of long lists those to the first two items."""
    yield way
    items: list[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        items = list(enumerate(value))[:2]
    for key, item in items:
        yield from places(item, (*way, key))


def spoilt(whole: dict[str, Any], way: tuple[Any, ...], junk: Any) -> Any:
    document = copy.deepcopy(whole)
    if not way:
        return junk
    there: Any = document
    for key in way[:-1]:
        there = there[key]
    there[way[-1]] = junk
    return document


@settings(
    max_examples=20,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_it_ends_in_an_answer_or_in_one_line(
    data: st.DataObject, whole: dict[str, Any], tmp_path: Path
) -> None:
    way = data.draw(st.sampled_from(list(places(whole))))
    file = tmp_path / "spoilt.json"
    file.write_text(json.dumps(spoilt(whole, way, data.draw(JUNK))), encoding="utf-8")
    for how in ("--check", "--replay"):
        ended = dpamt("verify", how, str(file))
        assert ended.code in (0, 1, 2), ended
        if ended.code == 2:
            assert is_refusal(ended), ended


def is_refusal(ended: Ended) -> bool:
    """One line, after the one that says what is executed."""
    lines = [line for line in ended.err.splitlines() if ": Executes " not in line]
    return len(lines) == 1 and lines[0].startswith("dpamt: ")
