"""The schemas take what the commands write, and nothing that lacks a key or has one more."""

import copy
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from dpamt.errors import InputError
from dpamt.report.json_schemas import main, schemas
from dpamt.report.schema_of import DRAFT, schema_of
from tests.cli.command import dpamt

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
LOG = ROOT / "src" / "dpamt" / "platform" / "data" / "module-too-old.dmesg"
RULE = "TDH.MEM.PAGE.AUG:busy=SEPT_TREE:nth=1"


def written(code: int, *arguments: str) -> Any:
    """The document of a command that ends with this exit code."""
    ended = dpamt(*arguments, "--json")
    assert ended.code == code, ended.err
    return json.loads(ended.out)


def run(folder: Path) -> Any:
    """With an injection."""
    return written(0, "run", str(ROOT / "examples" / "scenario.toml"), "--inject", RULE)


def verify(folder: Path) -> Any:
    """A design that fails and one that holds."""
    return written(1, "verify", "v2", "v6", "--cpus", "2")


def expect(folder: Path) -> Any:
    checks = ("--check", "launched=8256", "--check", "vm1-closed=4128", "--run", "--host", "2GiB")
    return written(1, "expect", "--case", "5", "--unit", "2MiB", *checks, "--in-use", "100%")


def decode(folder: Path) -> Any:
    return written(0, "decode", str(LOG))


def plan(folder: Path) -> Any:
    """A host with TDs, run on the model too, and a log that has nothing of memory."""
    log = folder / "short.dmesg"
    log.write_text("virt/tdx: module initialization failed (-28)\n")
    return written(1, "plan", "4GiB", str(log), "--td", "2x64MiB/2vcpu@2M=50%", "--run")


def trace(folder: Path) -> Any:
    """A recording with findings."""
    recording = folder / "recording"
    recording.write_bytes(gzip.decompress((DATA / "boot-false-add.jsonl.gz").read_bytes()))
    return written(1, "trace", str(recording))


def boot(folder: Path) -> Any:
    """A guest that fails on its way, as in tests/cli/test_boot.py."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no qemu-system-x86_64 here")
    from tests.cli.test_boot import run as boot_run

    return json.loads(boot_run(folder, "--json").out)


def conform(folder: Path) -> Any:
    """Scenarios that another release answers otherwise, and a race with a wrong outcome."""
    scenarios = (DATA / "module-vectors.jsonl").read_text().splitlines()[:8]
    lines = map(json.loads, (DATA / "module-races.jsonl").read_text().splitlines())
    race = next(race for race in lines if race["id"] == "C021")
    race["outcomes"][0]["b"]["status"] = "0x1"
    race["outcomes"].pop()
    spoilt = json.loads(scenarios[0])
    spoilt["calls"][0]["expect"]["status"] = "0x1"
    file = folder / "vectors.jsonl"
    file.write_text("\n".join([json.dumps(spoilt), *scenarios[1:], json.dumps(race)]))
    return written(1, "conform", str(file))


DOCUMENTS: Final[dict[str, Callable[[Path], Any]]] = {
    f"{one.__name__}.schema.json": one
    for one in (run, verify, expect, decode, plan, trace, boot, conform)
}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What a command writes; each is run once."""
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        if name not in made:
            made[name] = DOCUMENTS[name](tmp_path_factory.mktemp("document"))
        return made[name]

    return of


def checker(name: str) -> Any:
    jsonschema.Draft202012Validator.check_schema(schemas()[name])
    return jsonschema.Draft202012Validator(schemas()[name])


@pytest.mark.parametrize("name", schemas())
def test_what_a_command_writes_is_taken(name: str, document: Callable[[str], Any]) -> None:
    checker(name).validate(document(name))


@pytest.mark.parametrize(
    "arguments",
    [
        ("4GiB", "--td", "1x64MiB", "--age", "0.01", "--seeds", "2", "--tornado"),
        ("4GiB", "--td", "1x64MiB"),
        ("reserved-areas", "--td", "8x16GiB/4vcpu"),
        ("--fleet", "generated", "2*64GiB", "--max-tds", "9", "--age", "0.05", "--seeds", "2"),
        (
            "--fleet",
            str(ROOT / "examples" / "vms.csv"),
            "256GiB",
            "128GiB:static",
            "--td-share",
            "60",
        ),
    ],
    ids=" ".join,
)
def test_other_forms_of_a_plan_are_taken(arguments: tuple[str, ...]) -> None:
    ended = dpamt("plan", *arguments, "--json")
    assert ended.code in (0, 1), ended.err
    checker("plan.schema.json").validate(json.loads(ended.out))


def test_a_plan_with_the_kernels_counters_is_taken(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    counts.write_text('{"dpamt_counts": 1, "regions": [[2049, 5]]}')
    ended = dpamt("plan", "8GiB", "--counts", str(counts), "--json")
    checker("plan.schema.json").validate(json.loads(ended.out))


def test_both_forms_of_a_decoded_answer_are_taken() -> None:
    values = dpamt("decode", "0xc000050500000000", "34", "--json")
    checker("decode.schema.json").validate(json.loads(values.out))


@pytest.mark.parametrize("name", schemas())
def test_every_key_counts(name: str, document: Callable[[str], Any]) -> None:
    """Each object of a document, without each of its keys in turn, and with one more."""
    taken = checker(name)
    whole = document(name)
    assert taken.is_valid(whole)
    places = list(objects(whole))
    assert len(places) > 10
    for way in first_of_each_kind(places):
        for change in ("less", "more", "other"):
            spoilt = copy.deepcopy(whole)
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


FREE = {"properties", "code", "bounds", "fine", "facts", "registers", "counts", "durations_ns"}
FREE |= {"verify_costs_us"}
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


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "plan.schema.json").write_text("{}")
    with pytest.raises(InputError, match=r"plan\.schema\.json: was not made here"):
        main([str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["plan.schema.json"]
    (tmp_path / "plan.schema.json").unlink()
    main([str(tmp_path)])
    main([str(tmp_path)])
    assert {file.name for file in tmp_path.iterdir()} == set(DOCUMENTS)


def test_the_page_names_every_schema() -> None:
    page = (ROOT / "docs" / "schemas.md").read_text(encoding="utf-8")
    assert all(f"(schemas/{name})" in page for name in schemas())
