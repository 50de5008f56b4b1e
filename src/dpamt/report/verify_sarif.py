"""Verdicts as a SARIF 2.1.0 log, the form in which code hosts take results of analysis tools.

A counterexample is a result; its schedule is a code flow with a thread flow for each CPU, whose
``executionOrder`` says which CPU goes when.  What a verdict rests on, and a search that was not
finished, are notifications of the run.  Source: OASIS, Static Analysis Results Interchange Format
(SARIF) Version 2.1.0.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import quote

import dpamt
from dpamt.report.verify_text import assumptions_of, nearest, not_reached_of, told_lines
from dpamt.verify.evidence.certificate import SAME, Tried, is_clean, lock_order_of
from dpamt.verify.evidence.counterexample import Counterexample, StepTold
from dpamt.verify.properties.named import LOCK_ORDER, properties

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
PACKAGE: Final = "DPAMT"
"""The base of files of dpamt's own package; a design of the user's is named as it was given."""

Log = dict[str, Any]


def sarif_log(results: Mapping[str, Sequence[Tried]]) -> str:
    """The log's text, of the trials by name of a design."""
    meanings = {judge.name: judge.meaning for judge in properties()}
    asked = dict.fromkeys(
        name for every in results.values() for one in every for name in one.verdict.properties
    )
    rules = [
        {
            "id": name,
            "shortDescription": {"text": meanings.get(name, f"{name}, a property of your own")},
            "defaultConfiguration": {"level": "error"},
        }
        for name in asked
    ]
    found = [result for name, every in results.items() for result in _results(name, every)]
    for result in found:
        result["ruleIndex"] = list(asked).index(result["ruleId"])
    clean = is_clean(results)
    run = {
        "tool": {"driver": {"name": "dpamt", "version": dpamt.__version__, "rules": rules}},
        "originalUriBaseIds": {
            PACKAGE: {"description": {"text": "the folder of the Python package dpamt"}}
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": not _unfinished(results),
                "exitCode": 0 if clean else 1,
                "toolExecutionNotifications": [
                    note for name, every in results.items() for note in _notes(name, every)
                ],
            }
        ],
        "results": found,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _unfinished(results: Mapping[str, Sequence[Tried]]) -> bool:
    return any(one.verdict.stopped for every in results.values() for one in every)


def _results(name: str, tried: Sequence[Tried]) -> Iterator[Log]:
    """The nearest counterexample of each property, then what only all trials together break."""
    for one, found, again in nearest(tried):
        said = found.text.replace(f"{found.broken}: ", "")
        confirmed = "" if again == SAME else f" Not confirmed when run again on threads: {again}."
        given = one.asked.design
        yield {
            "ruleId": found.broken,
            "level": "error",
            "message": {"text": f"{name}, in {one.trial.name} ({found.size}): {said}.{confirmed}"},
            "locations": [_location(_failing_step(found, given), given)],
            "codeFlows": [_code_flow(found, given)],
            "partialFingerprints": {"dpamt/v1": _fingerprint(name, one.trial.name, found.broken)},
        }
    for text in lock_order_of(tried):
        yield {
            "ruleId": LOCK_ORDER,
            "level": "error",
            "message": {"text": f"{name}, over its trials together: {text}"},
            "locations": [_location(None, tried[0].asked.design)],
            "partialFingerprints": {"dpamt/v1": _fingerprint(name, text, LOCK_ORDER)},
        }


def _fingerprint(*parts: str) -> str:
    """The same for the same failure of a design whose lines have moved."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _notes(name: str, tried: Sequence[Tried]) -> Iterator[Log]:
    for one in tried:
        if one.verdict.stopped:
            yield _note("error", f"{name}, {one.trial.name}: not finished: {one.verdict.stopped}")
    for line in assumptions_of(tried):
        yield _note("note", f"{name} rests on: {line}")
    for line in not_reached_of(tried):
        yield _note("note", f"{name}: no trial reached {line}")


def _note(level: str, text: str) -> Log:
    return {"level": level, "message": {"text": text}}


def _failing_step(found: Counterexample, given: str) -> StepTold | None:
    """The last step in the design's file; else in the host's code."""
    own = PurePath(given).name if given.endswith(".py") else f"{given.replace('-', '_')}.py"
    host = [step for step in found.steps if not step.file.startswith(("verify/", "module/"))]
    of_design = [step for step in host if PurePath(step.file).name == own]
    every = of_design or host
    return every[-1] if every else None


def _code_flow(found: Counterexample, given: str) -> Log:
    """The schedule: each step at its CPU, in the order in which they happen."""
    flows = []
    for cpu, what in enumerate(found.cpus):
        locations = [
            _step(step, order, given) for order, step in enumerate(found.steps) if step.cpu == cpu
        ]
        if locations:
            flows.append({"id": f"CPU{cpu}", "message": {"text": what}, "locations": locations})
    return {"message": {"text": found.size}, "threadFlows": flows}


def _step(step: StepTold, order: int, given: str) -> Log:
    lines = told_lines(step, False)
    importance = "important" if lines else "unimportant"
    return {
        "location": {
            **_location(step, given),
            "message": {"text": "; ".join(lines) or f"{step.word}.{step.method}"},
        },
        "executionOrder": order,
        "importance": "essential" if step.switched else importance,
    }


def _location(step: StepTold | None, given: str) -> Log:
    """Where a step stands; without one, the beginning of the design."""
    if step is None:
        file = given if given.endswith(".py") else f"host/designs/{given.replace('-', '_')}.py"
        physical: Log = {"artifactLocation": _artifact(file, given), "region": {"startLine": 1}}
        return {"physicalLocation": physical}
    return {
        "physicalLocation": {
            "artifactLocation": _artifact(step.file, given),
            "region": {"startLine": max(step.line, 1)},
        },
        "logicalLocations": [{"fullyQualifiedName": step.function, "kind": "function"}],
    }


def _artifact(file: str, given: str) -> Log:
    """A file of the package below its base; the user's files as the design was given."""
    if given.endswith(".py"):
        beside = Path(given).parent / PurePath(file).name
        if "/" not in file or beside == Path(given):
            return {"uri": beside.as_uri() if beside.is_absolute() else quote(beside.as_posix())}
    return {"uri": quote(file), "uriBaseId": PACKAGE}
