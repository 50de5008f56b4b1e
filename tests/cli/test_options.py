"""Options mean the same in every verb; one that has no effect with the others is refused."""

import json
import re
from pathlib import Path

import pytest

import dpamt as dpamt_package
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.cli.list import FILES, KINDS
from dpamt.cli.main import VERBS
from dpamt.host.designs.load import SHIPPED
from dpamt.module.releases import RELEASES
from dpamt.verify.programs.suite import SUITE

from .command import dpamt, refused
from .test_outputs import parser_of


@pytest.mark.parametrize("verb", VERBS)
def test_an_error_points_to_the_help_of_its_verb(verb: str) -> None:
    line = refused(verb, "--no-such-option")
    assert line.endswith(f"(dpamt {verb} --help)")


def test_an_option_that_is_nearly_one_is_guessed() -> None:
    assert "did you mean --html?" in refused("plan", "1GiB", "--hmtl", "page")
    assert "did you mean" not in refused("plan", "1GiB", "--xyzzy")


def test_a_beginning_of_an_option_is_not_one() -> None:
    """Else a new option would change what an old script means."""
    assert "no argument '--pam=static' is known; did you mean --pamt?" in refused(
        "run", "--pam=static"
    )


SAME = {"--release": "--module", "--jobs": "--processes"}


@pytest.mark.parametrize("verb", VERBS)
def test_one_thing_has_one_name(verb: str) -> None:
    """Old names go on, as second ones, wherever the first is there."""
    options = parser_of(verb)._option_string_actions
    for name, old in SAME.items():
        if verb != "verify":
            assert options.get(name) is options.get(old)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("plan", "1GiB", "--seeds", "3"), "--seeds has no effect here"),
        (
            ("plan", "1GiB", "--seed", "3"),
            "--seed has no effect here; expected it with --age or --fleet",
        ),
        (("plan", "1GiB", "--pair-pages", "pool"), "--pair-pages has no effect here"),
        (("plan", "1GiB", "--control-pages", "pool"), "--control-pages has no effect here"),
        (("plan", "1GiB", "--jobs", "2"), "--jobs has no effect here; expected it with --fleet"),
        (("plan", "1GiB", "--share-2m", "50"), "--share-2m without TDs"),
        (("plan", "1GiB", "--max-tds", "50"), "--max-tds has no effect here"),
        (("plan", "1GiB", "--ray", "local"), "--ray has no effect here"),
        (("plan", "1GiB", "--out", "folder"), "--out has no effect here"),
        (("plan", "1GiB", "--run"), "--run without TDs; expected --td as well"),
        (("plan", "1GiB", "--age", "1"), "--age without TDs; expected --td"),
        (
            ("plan", "1GiB", "--fleet", "generated", "--td", "1x1GiB"),
            "--td with --fleet; expected one",
        ),
        (("plan", "1GiB", "--fleet", "generated", "--pair-pages", "pool"), "--pair-pages has no"),
        (
            ("plan", "1GiB", "--fleet", "generated", "--release", "2.0.18"),
            "--release has no effect",
        ),
        (("plan", "1GiB", "--force"), "--force without a file to write"),
        (("boot", "--vmlinux", "x", "--property", "leak"), "--property has no effect without"),
        (("boot", "--vmlinux", "x", "--build", "y"), "--build has no effect without --exercise"),
        (("boot", "--vmlinux", "x", "--console", "--json"), "--console has no effect with --json"),
        (("run", "--memory", "1GiB", "--host", "1GiB"), "--memory has no effect with --host"),
        (("decode", "--as", "leaf", "TDX_OPERAND_BUSY"), "TDX_OPERAND_BUSY is a status; expected"),
    ],
)
def test_an_option_without_effect_is_refused(
    arguments: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    assert told in refused(*arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_size_is_a_size_everywhere() -> None:
    assert "expected size (such as 64GiB)" in refused("run", "--memory", "my.dmesg")


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n  # another\n"])
def test_a_scenario_with_nothing_in_it_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text(text)
    assert refused("run", "empty.toml", cwd=tmp_path) == (
        "empty.toml: nothing in it; expected a scenario (docs/scenario.md)"
    )


def test_tds_that_are_never_built_are_refused(tmp_path: Path) -> None:
    text = '[host]\nmachine = "1GiB"\n[[td]]\nname = "a"\nmemory = "4MiB"\n'
    (tmp_path / "tds.toml").write_text(text)
    assert "tds.toml:3: td[0]: no phase builds a TD" in refused("run", "tds.toml", cwd=tmp_path)


NAMES = {
    "designs": list(SHIPPED),
    "trials": [trial.name for trial in SUITE],
    "releases": list(RELEASES),
    "leaves": [name for _, name in sorted(LEAF_NAMES.items())],
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_there_is_is_listed(kind: str) -> None:
    ended, document = dpamt("list", kind), dpamt("list", kind, "--json")
    rows = json.loads(document.out)[kind]
    assert (ended.code, document.code) == (0, 0)
    names = [row["name"] for row in rows]
    assert names == NAMES.get(kind, names)
    assert names
    beginnings = [line for line in ended.out.splitlines() if not line.startswith(" ")]
    assert all(line.startswith(name) for line, name in zip(beginnings, names, strict=True))


def test_what_is_listed_is_taken(tmp_path: Path) -> None:
    """A host, a scenario and a leaf by the names that the list has."""
    host = json.loads(dpamt("list", "hosts", "--json").out)["hosts"][0]["name"]
    assert dpamt("plan", host).code in (0, 1)
    assert "default" in dpamt("list", "scenarios").out
    ended = dpamt("run", "default", "--memory", "1GiB", "--release", "1.5.25", "--pamt", "dynamic")
    assert ended.code == 0
    assert "TDX module 1.5.25" in ended.out
    (tmp_path / "default").write_text("x")
    assert refused("run", "default", cwd=tmp_path).startswith("default:1:")


@pytest.mark.parametrize("kind", FILES)
def test_the_file_of_what_is_listed(kind: str, tmp_path: Path) -> None:
    """Whoever has the command alone, and no checkout, starts from it."""
    folder, ending = FILES[kind]
    for row in json.loads(dpamt("list", kind, "--json").out)[kind]:
        ended = dpamt("list", kind, "--source", row["name"])
        name = row["name"].replace("-", "_") if ending == ".py" else row["name"]
        file = Path(dpamt_package.__file__).parent / folder / f"{name}{ending}"
        assert ended.out == file.read_text("utf-8")


def test_the_source_of_a_design_is_a_design(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(dpamt("list", "designs", "--source", "v2").out)
    ended = dpamt("verify", "./mine.py", "--cpus", "2", cwd=tmp_path)
    assert ended.code == 1
    assert "FAILS: at-rest, bad-remove, leak." in ended.out


def test_the_contract_of_a_design_names_all_that_its_file_may_have() -> None:
    said = dpamt("list", "designs", "--source", "base").out
    assert {"``tdx_pamt_get(", "``tdx_pamt_put(", "``SPARE_PAGES"} <= set(
        re.findall(r"``\w+\(?", said)
    )


def test_the_source_of_nothing() -> None:
    assert refused("list", "designs", "--source", "x").startswith(
        "list designs --source x: expected one of static, lazy"
    )
    assert "they have no files; expected one of designs, hosts" in refused(
        "list", "trials", "--source", "pages"
    )
