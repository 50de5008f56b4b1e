"""Scenarios: what is accepted, and for what is not one line with file, line, key, expectation."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.run.api import default_scenario
from dpamt.run.check import parse_bytes, size_text
from dpamt.run.scenario import Scenario, load_scenario, scenario_from_text
from dpamt.run.schema import FIELDS, STEP_NAMES, STEPS, TABLES
from dpamt.run.schema_text import reference

DOCS = Path(__file__).parents[2] / "docs" / "scenario.md"

TD = '[[td]]\nname = "a"\nmemory = "1GiB"\n'


def test_the_reference_is_made_of_the_table() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference()


def test_the_example_of_the_reference_loads() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    scenario = scenario_from_text(example, "example")
    assert [side.design for side in scenario.sides] == ["static", "v2"]
    assert scenario.tds[0].memory == 1 << 30


def test_every_field_and_step_is_described() -> None:
    assert {field.table for field in FIELDS} == set(TABLES)
    assert set(STEPS) == set(STEP_NAMES)
    assert len({(field.table, field.name) for field in FIELDS}) == len(FIELDS)


def test_an_empty_scenario_compares_static_and_merged_on_the_1_tib_host() -> None:
    scenario = scenario_from_text("", "empty.toml")
    assert scenario.title == "empty"
    assert scenario.host.machine == "host-1tib"
    assert [(side.pamt, side.design) for side in scenario.sides] == [
        ("static", "static"),
        ("dynamic", "merged"),
    ]


def test_the_default_scenario_tells_the_whole_story() -> None:
    names = [phase.name for phase in default_scenario().phases]
    assert names == ["first TD", "peak", "churn", "all gone"]
    done = {step.do for phase in default_scenario().phases for step in phase.steps}
    assert done == set(STEP_NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[[td]]\nname = "a"\n\nmemory = -1\n',
            'f.toml:4: td[0].memory: expected a size such as "4GiB"',
        ),
        ('[[td]]\nname = "a"\nmemroy = 1\n', "f.toml:3: td[0].memroy: unknown key; did you mean"),
        ('[[td]]\nname = "a"\n', "f.toml:1: td[0].memory: missing; expected a size"),
        ('[[td]]\nmemory = "1GiB"\n', "f.toml:1: td[0].name: missing; expected a name"),
        (TD + "share_2m = 1.5\n", "f.toml:4: td[0].share_2m: expected a number from 0 to 1"),
        (TD + "share_2m = nan\n", "f.toml:4: td[0].share_2m: expected a number"),
        (TD + "vcpus = true\n", "f.toml:4: td[0].vcpus: expected a whole number"),
        (TD + "vcpus = 0\n", "f.toml:4: td[0].vcpus: expected a whole number from 1"),
        (TD + 'image = "2GiB"\n', "f.toml:4: td[0].image: expected at most the TD's memory"),
        (TD + TD, 'f.toml:5: td[1].name: "a" is taken'),
        ('[[td]]\nname = "all"\nmemory = "1GiB"\n', 'f.toml:2: td[0].name: "all" means'),
        ('[[td]]\nname = "a"\nmemory = "3MiB"\n', "f.toml:3: td[0].memory: expected a size"),
        ("td = 1\n", "f.toml:1: td: expected an array of tables, got 1"),
        ("host = []\n", "f.toml:1: host: expected a table"),
        ("seed = -1\n", "f.toml:1: seed: expected a whole number"),
        ("[host]\nnodes = 2\n", "f.toml:2: host.nodes: expected only with"),
        ('[host]\nmodule = "9"\n', 'f.toml:2: host.module: expected one of "1.5.25"'),
        ('[host]\ntdmr_holes = "x"\n', "f.toml:2: host.tdmr_holes: expected one of"),
        ('[[side]]\nname = "a b"\n', "f.toml:2: side[0].name: expected a name"),
        (
            '[[side]]\nname = "a"\npamt = "static"\ndesign = "v2"\n',
            'f.toml:4: side[0].design: expected "static"',
        ),
        (
            '[[side]]\nname = "a"\ndesign = "static"\n',
            "f.toml:3: side[0].design: static never asks",
        ),
        ('[[phase]]\nname = "end"\n', 'f.toml:2: phase[0].name: "end" is taken'),
        ('[[phase]]\nname = "p"\nsteps = [1]\n', "f.toml:3: phase[0].steps[0]: expected a table"),
        (
            TD + '[[phase]]\nname = "p"\nsteps = [\n  { do = "fault" },\n]\n',
            "f.toml:7: phase[0].steps[0]: fault finds no TD",
        ),
        (
            TD + '[[phase]]\nname = "p"\nsteps = [{ do = "build", td = "b" }]\n',
            'f.toml:6: phase[0].steps[0].td: no group "b"; expected one of a, all',
        ),
        (
            TD + '[[phase]]\nname = "p"\nsteps = [{ do = "build", count = 2 }]\n',
            'f.toml:6: phase[0].steps[0].count: more TDs than "a" has',
        ),
        (
            TD
            + '[[phase]]\nname = "p"\nsteps = [{ do = "build" }, { do = "crash" },\n'
            + '{ do = "split" }]\n',
            "f.toml:7: phase[0].steps[2]: split finds no TD",
        ),
    ],
)
def test_a_refusal_names_file_line_and_key(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        scenario_from_text(text, "f.toml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_told_with_the_nearest_or_with_all() -> None:
    with pytest.raises(InputError) as caught:
        scenario_from_text("[host]\nqqqq = 1\nfragmentatio = 1\n", "f.toml")
    known = ", ".join(field.name for field in FIELDS if field.table == "host")
    assert str(caught.value) == f"f.toml:2: host.qqqq: unknown key; expected one of {known}"
    with pytest.raises(InputError) as caught:
        scenario_from_text("[host]\nfragmentatio = 1\n", "f.toml")
    told = "unknown key; did you mean fragmentation?"
    assert str(caught.value) == f"f.toml:2: host.fragmentatio: {told}"


def test_files_are_looked_for_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "box.dmesg").write_text("")
    (tmp_path / "mine.py").write_text("")
    file = tmp_path / "s.toml"
    file.write_text(
        '[host]\nmachine = "box.dmesg"\n[[side]]\nname = "x"\ndesign = "mine.py"\n',
        encoding="utf-8",
    )
    scenario = load_scenario(str(file))
    assert scenario.host.machine == str(tmp_path / "box.dmesg")
    assert scenario.sides[0].design == str(tmp_path / "mine.py")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = 1\n\x00"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "s.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(file))):
        load_scenario(str(file))


def names(scenario: Scenario) -> list[tuple[str, str]]:
    return [(side.name, side.design) for side in scenario.sides]


def test_options_stand_in_for_what_the_scenario_says() -> None:
    base = default_scenario()
    assert names(base.with_options(design="v2")) == [("static", "static"), ("dynamic", "v2")]
    assert names(base.with_options(pamt="dynamic")) == [("dynamic", "merged")]
    assert names(base.with_options(pamt="static")) == [("static", "static")]
    assert names(base.with_options(design="static")) == [("static", "static")]
    assert base.with_options(seed=5).seed == 5
    moved = base.with_options(host="64GiB")
    assert (moved.host.machine, moved.host.packages) == ("64GiB", None)
    assert moved.place("host.machine") == ""
    with pytest.raises(InputError):
        base.with_options(pamt="static", design="v2")
    with pytest.raises(InputError):
        base.with_options(pamt="dynamic", design="static")


@given(st.integers(0, 10**15 - 1))
def test_size_text_reads_back(size: int) -> None:
    assert parse_bytes(size_text(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("4G", 4 << 30), ("1.5 gib", 3 << 29), ("64K", 65536), ("7B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "4", "-4GiB", "4XiB", "0.3K", "1e9G", "4GiBs"])
def test_no_sizes(text: str) -> None:
    assert parse_bytes(text) is None


SCALARS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.text(max_size=12), st.none()
)
NAMES = st.sampled_from([field.name for field in FIELDS] + ["x"])


@st.composite
def toml_values(draw: st.DrawFn) -> str:
    """Some TOML value, well formed."""
    value = draw(SCALARS)
    if value is None:
        return draw(st.sampled_from(["[]", "[{}]", "{}", '[{ do = "build" }]', "07:30:00"]))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() and c.isascii() else "\\u00e9" for c in value) + '"'
    return str(value)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["[host]", "[[td]]", "[[side]]", "[[phase]]", "[td.x]"]),
            st.builds("{} = {}".format, NAMES, toml_values()),
            st.just('"new\\nline" = 1'),
            st.text(max_size=8),
        ),
        max_size=8,
    )
)
def test_nothing_but_input_errors_come_of_any_text(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        scenario_from_text(text, "f.toml")
    except InputError as error:
        refused = str(error)
    else:
        tomllib.loads(text)
        return
    assert re.match(r"f\.toml(:\d+)?: [^\n]+$", refused)
