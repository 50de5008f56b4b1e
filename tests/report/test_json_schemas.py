"""The schemas take what the commands write, and nothing that lacks a key or has one more."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dpamt.report.json_schemas import DRAFT, schema_of, schemas
from tests.cli.command import dpamt

ROOT = Path(__file__).parents[2]
LOG = ROOT / "src" / "dpamt" / "platform" / "data" / "module-too-old.dmesg"
RULE = "TDH.MEM.PAGE.AUG:busy=SEPT_TREE:nth=1"


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """A run with an injection, and verdicts of a design that fails and of one that holds."""
    scenario = str(ROOT / "examples" / "scenario.toml")
    run = dpamt("run", scenario, "--inject", RULE, "--json")
    verify = dpamt("verify", "v2", "v6", "--cpus", "2", "--json")
    assert (run.code, verify.code) == (0, 1), (run.err, verify.err)
    checks = ("--check", "launched=8256", "--check", "vm1-closed=4128", "--run", "--host", "2GiB")
    full = ("--in-use", "100%", "--json")
    expect = dpamt("expect", "--case", "5", "--unit", "2MiB", *checks, *full)
    decode = dpamt("decode", str(LOG), "--json")
    assert (expect.code, decode.code) == (1, 0), (expect.err, decode.err)
    return {
        "run.schema.json": json.loads(run.out),
        "verify.schema.json": json.loads(verify.out),
        "expect.schema.json": json.loads(expect.out),
        "decode.schema.json": json.loads(decode.out),
    }


def checker(name: str) -> Any:
    jsonschema.Draft202012Validator.check_schema(schemas()[name])
    return jsonschema.Draft202012Validator(schemas()[name])


@pytest.mark.parametrize("name", schemas())
def test_what_a_command_writes_is_taken(name: str, documents: dict[str, Any]) -> None:
    checker(name).validate(documents[name])


def test_both_forms_of_a_decoded_answer_are_taken() -> None:
    values = dpamt("decode", "0xc000050500000000", "34", "--json")
    checker("decode.schema.json").validate(json.loads(values.out))


@pytest.mark.parametrize("name", schemas())
def test_every_key_counts(name: str, documents: dict[str, Any]) -> None:
    """Each object of a document, without each of its keys in turn, and with one more."""
    taken = checker(name)
    assert taken.is_valid(documents[name])
    places = list(objects(documents[name]))
    assert len(places) > 20
    for way in first_of_each_kind(places):
        for change in ("less", "more", "other"):
            spoilt = copy.deepcopy(documents[name])
            found = at(spoilt, way)
            key = sorted(found)[0]
            if change == "less":
                del found[key]
            elif change == "more":
                found["somebody's"] = 1
            else:
                found[key] = object()
            assert not taken.is_valid(spoilt), (way, change)


def objects(value: Any, way: tuple[Any, ...] = ()) -> Any:
    """The ways to all objects that are not empty, in the document."""
    if isinstance(value, dict):
        if value:
            yield way
        for key, inner in value.items():
            yield from objects(inner, (*way, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from objects(inner, (*way, number))


FREE = {"properties", "code", "bounds", "fine", "facts"}
"""Objects whose keys are names: any key may be there."""


def first_of_each_kind(places: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    kinds: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for way in places:
        kind = tuple(part for part in way if isinstance(part, str))
        if not kind or kind[-1] not in FREE:
            kinds.setdefault(kind, way)
    return list(kinds.values())


def at(value: Any, way: tuple[Any, ...]) -> Any:
    for part in way:
        value = value[part]
    return value


@pytest.mark.parametrize("name", schemas())
def test_the_files_have_not_drifted(name: str) -> None:
    """`make docs` writes them again."""
    file = ROOT / "docs" / "schemas" / name
    assert json.loads(file.read_text(encoding="utf-8")) == schemas()[name]
    assert schemas()[name]["$schema"] == DRAFT


def test_a_type_without_a_schema_is_refused() -> None:
    with pytest.raises(TypeError, match="no schema"):
        schema_of(set[int])
