"""SARIF and JUnit say what the verdict says, in the form that their readers ask for."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import jsonschema
import pytest

from tests.cli.command import dpamt, refused

ROOT = Path(__file__).parents[2]

TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
PLACE = {
    "type": "object",
    "required": ["physicalLocation"],
    "properties": {
        "physicalLocation": {
            "type": "object",
            "required": ["artifactLocation", "region"],
            "properties": {
                "artifactLocation": {
                    "type": "object",
                    "required": ["uri"],
                    "properties": {"uri": {"type": "string", "pattern": r"^[^\s\\]+$"}},
                },
                "region": {"properties": {"startLine": {"type": "integer", "minimum": 1}}},
            },
        }
    },
}
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "rules": {"items": {"required": ["id"]}},
                                },
                            }
                        },
                    },
                    "invocations": {
                        "items": {
                            "required": ["executionSuccessful"],
                            "properties": {
                                "toolExecutionNotifications": {
                                    "items": {
                                        "required": ["message"],
                                        "properties": {
                                            "message": TEXT,
                                            "level": {"enum": ["none", "note", "warning", "error"]},
                                        },
                                    }
                                }
                            },
                        }
                    },
                    "results": {
                        "items": {
                            "type": "object",
                            "required": ["message", "ruleId", "ruleIndex", "locations"],
                            "properties": {
                                "message": TEXT,
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "locations": {"items": PLACE, "minItems": 1},
                                "codeFlows": {
                                    "items": {
                                        "required": ["threadFlows"],
                                        "properties": {
                                            "threadFlows": {
                                                "minItems": 1,
                                                "items": {
                                                    "required": ["locations"],
                                                    "properties": {"locations": {"minItems": 1}},
                                                },
                                            }
                                        },
                                    }
                                },
                            },
                        }
                    },
                },
            },
        },
    },
}
"""Required properties and values of the objects used: SARIF 2.1.0, sections 3.13 to 3.58."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the reports of a design that fails, and its verdict as `--save` keeps it."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "my designs").mkdir()
    racy = (ROOT / "examples" / "racy.py").read_text(encoding="utf-8")
    (folder / "my designs" / "racy.py").write_text(racy, encoding="utf-8")
    reports = ("--sarif", "racy.sarif", "--junit", "racy.xml", "--save", "racy.json")
    ended = dpamt("verify", "./my designs/racy.py", "--cpus", "2", *reports, cwd=folder)
    assert ended.code == 1
    return folder


def run_of(path: Path) -> Any:
    log = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    return run


def counterexamples(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "racy.json").read_text(encoding="utf-8"))
    return {
        found["broken"]: found
        for trial in document["designs"][0]["trials"]
        for found in trial["counterexamples"]
    }


def test_sarif_has_each_property_that_fails_and_its_schedule(folder: Path) -> None:
    run = run_of(folder / "racy.sarif")
    found = counterexamples(folder)
    assert {result["ruleId"] for result in run["results"]} == set(found)
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        (flow,) = result["codeFlows"]
        steps = sorted(
            (step["executionOrder"], int(thread["id"].removeprefix("CPU")))
            for thread in flow["threadFlows"]
            for step in thread["locations"]
        )
        schedule = found[result["ruleId"]]["schedule"]
        assert steps == list(enumerate(schedule))
    (invocation,) = run["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (True, 1)


def test_sarif_names_the_users_file_as_it_was_given_and_dpamts_below_its_base(
    folder: Path,
) -> None:
    run = run_of(folder / "racy.sarif")
    lines = (folder / "my designs" / "racy.py").read_text(encoding="utf-8").splitlines()
    for result in run["results"]:
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"] == {"uri": "my%20designs/racy.py"}
        assert 1 <= place["region"]["startLine"] <= len(lines)
    others = {
        place["uri"]
        for result in run["results"]
        for thread in result["codeFlows"][0]["threadFlows"]
        for step in thread["locations"]
        for place in [step["location"]["physicalLocation"]["artifactLocation"]]
        if place.get("uriBaseId") == "DPAMT"
    }
    assert others
    assert all((ROOT / "src" / "dpamt" / name).is_file() for name in others)
    assert set(run["originalUriBaseIds"]) == {"DPAMT"}


def test_junit_has_a_case_for_each_property(folder: Path) -> None:
    root = Xml.parse(folder / "racy.xml").getroot()
    (suite,) = root
    failed = {case.get("name") for case in suite if case.find("failure") is not None}
    assert failed == set(counterexamples(folder))
    for one in (root, suite):
        assert one.get("tests") == str(len(suite))
        assert (one.get("failures"), one.get("errors")) == (str(len(failed)), "0")
    texts = [case.findtext("failure", "") for case in suite]
    assert any("CPU1: -> TDH.PHYMEM.PAMT.REMOVE -> " in text for text in texts)


def test_a_design_that_holds_has_no_result(tmp_path: Path) -> None:
    ended = dpamt("verify", "v6", "--cpus", "2", "--sarif", "v6", "--junit", "x", cwd=tmp_path)
    assert ended.code == 0
    run = run_of(tmp_path / "v6")
    assert run["results"] == []
    notes = [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]]
    assert any("no trial reached host/designs/v6.py" in note for note in notes)
    root = Xml.parse(tmp_path / "x").getroot()
    assert len(root.findall("testsuite")) == 2
    assert (root.get("failures"), root.get("errors")) == ("0", "0")


def test_what_is_not_finished_is_an_error(tmp_path: Path) -> None:
    """The exit code is 1 then: nothing may look like a success."""
    asks = ("verify", "v6", "--cpus", "3", "--max-states", "20")
    assert dpamt(*asks, "--sarif", "s", "--junit", "j", cwd=tmp_path).code == 1
    (invocation,) = run_of(tmp_path / "s")["invocations"]
    assert invocation["executionSuccessful"] is False
    assert "error" in {note["level"] for note in invocation["toolExecutionNotifications"]}
    root = Xml.parse(tmp_path / "j").getroot()
    assert int(root.get("errors", "0")) > 0
    assert all("not finished" in error.get("message", "") for error in root.iter("error"))


@pytest.mark.parametrize("option", ["--sarif", "--junit"])
def test_they_are_outputs_like_all_others(option: str, folder: Path) -> None:
    quick = ("verify", "v6", "--cpus", "2", option)
    (folder / "diary").write_text("dear diary\n", encoding="utf-8")
    assert "dpamt did not write it" in refused(*quick, "diary", cwd=folder)
    assert "is a verdict that dpamt verify wrote" in refused(*quick, "racy.json", cwd=folder)
    for _ in range(2):  # its own it knows
        assert dpamt(*quick, f"own{option}", cwd=folder).code == 0
    with_check = ("verify", "--check", "racy.json", "./my designs/racy.py", option, "new")
    assert "has no effect with --check" in refused(*with_check, cwd=folder)
