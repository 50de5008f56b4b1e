"""A certificate held against the code of now: everything it says is worked out again.

Nothing is copied from it: names, meanings and bounds come from the suite, numbers from a new
search, each kept counterexample is run again on threads as it stands, and the headline from what
came of that.  What it says besides, how many seconds a search took, is not compared, and means
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import dpamt
from dpamt.errors import InputError
from dpamt.host.designs.base import Design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.evidence.certificate import (
    COMPARED,
    PYTHON,
    Tried,
    how_again,
    lock_order_of,
    plain,
    suite_of,
)
from dpamt.verify.evidence.checkpoint import same_but_path
from dpamt.verify.evidence.code_hash import dpamt_hash
from dpamt.verify.evidence.counterexample import from_json
from dpamt.verify.evidence.refine import Refinement
from dpamt.verify.evidence.replay import replay

_PARTS: Final = {
    "design": "the design and what its file defines are not those of the certificate",
    "properties": "the functions of the property file are not those of the certificate",
    "ran": "the functions that ran are not those of the certificate",
}


def same_bytecode(kept: Mapping[str, Any]) -> bool:
    """Whether hashes of code can be compared: both are of one minor release of Python."""
    return str(kept["python"]).split(".")[:2] == PYTHON.split(".")[:2]


def head_differences(kept: Mapping[str, Any], clean: bool) -> list[str]:
    """What the document says of the whole, against what was found now."""
    lines = []
    if kept["clean"] is not clean:
        lines.append(f"clean: {kept['clean']} in the certificate, {clean} now")
    if kept["dpamt"] != dpamt.__version__:
        lines.append(f"dpamt: {kept['dpamt']} in the certificate, {dpamt.__version__} now")
    if same_bytecode(kept) and kept["code"] != dpamt_hash():
        lines.append("code: dpamt's own is not that of the certificate")
    return lines


def design_differences(
    design: Design,
    kept: Mapping[str, Any],
    asked: list[Asked],
    given: str,
    tried: Sequence[Tried],
) -> list[str]:
    """What the document says of one design; ``given`` is the name or file that was loaded.

    ``tried`` are its trials as they came out now.
    """
    lines = []
    names = {design.name, asked[0].design, given}
    if kept["design"] not in names:
        lines.append(f"design: {kept['design']} in the certificate, {design.name} now")
    now = suite_of(design, asked)
    now["lock_order"] = plain(lock_order_of(tried))
    for name in ("suite", "left_out", "lock_order"):
        if kept[name] != now[name]:
            lines.append(f"{name}: {kept[name]} in the certificate, {now[name]} now")
    return lines


def differences(
    kept: Mapping[str, Any], tried: Tried, design: Design, where: str, same_python: bool
) -> list[str]:
    """In what the new verdict of a trial is not what was kept; empty: it is the same."""
    now = plain({"trial": tried.trial.name, "meaning": tried.trial.meaning})
    now |= plain(tried.verdict.as_json())
    lines = [
        f"{name}: {kept[name]} in the certificate, {now[name]} now"
        for name in ("trial", "meaning", *COMPARED)
        if kept[name] != now[name] or type(kept[name]) is not type(now[name])
    ]
    before, after = kept["bounds"], now["bounds"]
    if not isinstance(before, dict) or same_but_path(before) != same_but_path(after):
        lines.append(f"bounds: {before} in the certificate, {after} now")
    if same_python:
        lines += [
            f"code: {said}"
            for part, said in _PARTS.items()
            if kept["code"].get(part) != now["code"][part]
        ]
    return [*lines, *_counterexamples(kept, tried, design, where)]


def _counterexamples(
    kept: Mapping[str, Any], tried: Tried, design: Design, where: str
) -> list[str]:
    """What it says of failures: each of them fails, on its own schedule and with its own text."""
    lines = []
    failing = sorted(found.broken for found in tried.verdict.counterexamples)
    told = sorted(str(found["broken"]) for found in kept["counterexamples"])
    if told != failing:
        lines.append(f"counterexamples: of {told} in the certificate, of {failing} now")
    trial, judges = prepare(tried.asked, design)
    fine = None
    for found, said in zip(kept["counterexamples"], kept["replayed"], strict=True):
        broken = found["broken"]
        try:
            coarse = from_json(found, where)
            again = replay(trial.make(design), judges, found)
        except InputError as error:
            lines.append(str(error))
            continue
        now = how_again(found, again)
        if said != now:
            lines.append(f"replayed: {said} in the certificate, {now} now")
        told_all = replace(coarse, steps=again.steps, shared=again.shared)
        if not again.departure and told_all.as_json() != coarse.as_json():
            lines.append(f"{broken}: its steps are not those that its schedule takes")
        if broken in kept["fine"]:
            fine = fine or Refinement(trial.make(design), judges)
            looked = fine.look(coarse)
            if kept["fine"][broken] != looked:
                lines.append(f"fine: {kept['fine'][broken]} in the certificate, {looked} now")
    more = sorted(kept["fine"].keys() - set(told))
    if more:
        lines.append(f"fine: of {more}, which do not fail")
    return lines
