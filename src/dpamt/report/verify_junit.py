"""Verdicts as a JUnit report, which CI systems show: a suite a trial, a case a property.

A property that fails is a failure with its counterexample; one whose search was not finished is an
error, as the exit code is 1 then too.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree as Xml

from dpamt.report.verify_text import told_lines
from dpamt.verify.evidence.certificate import SAME, Tried, lock_order_of
from dpamt.verify.explore.search import FAILS, HOLDS
from dpamt.verify.properties.named import LOCK_ORDER

NAME: Final = "dpamt verify"
_NOT_IN_XML: Final = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_report(results: Mapping[str, Sequence[Tried]]) -> str:
    """The report's text, of the trials by name of a design."""
    root = Xml.Element("testsuites", name=NAME)
    for design, tried in results.items():
        for one in tried:
            _suite(root, design, one)
        _together(root, design, lock_order_of(tried))
    for what in ("tests", "failures", "errors"):
        root.set(what, str(sum(int(suite.get(what, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    Xml.indent(root)
    text = Xml.tostring(root, "unicode", short_empty_elements=False)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _suite(root: Xml.Element, design: str, one: Tried) -> None:
    said = one.verdict
    suite = Xml.SubElement(root, "testsuite", name=_clean(f"{design}: {one.trial.name}"))
    again = dict(zip((found.broken for found in said.counterexamples), one.replayed, strict=True))
    found_of = {found.broken: found for found in said.counterexamples}
    for name, verdict in said.properties.items():
        case = _case(suite, f"{design}.{one.trial.name}", name)
        if verdict == FAILS:
            found = found_of[name]
            text = found.text.replace(f"{name}: ", "")
            if again[name] != SAME:
                text += f"; not confirmed when run again on threads: {again[name]}"
            failure = Xml.SubElement(case, "failure", type=_clean(name), message=_clean(text))
            failure.text = _clean(
                "\n".join(
                    f"CPU{step.cpu}: {line}"
                    for step in found.steps
                    for line in told_lines(step, False)
                )
            )
        elif verdict != HOLDS:
            message = _clean(f"{verdict}: {said.stopped}")
            Xml.SubElement(case, "error", type=_clean(verdict), message=message)
    _count(suite, said.seconds)


def _together(root: Xml.Element, design: str, texts: Sequence[str]) -> None:
    """What the trials break together, and none of them alone."""
    if not texts:
        return
    suite = Xml.SubElement(root, "testsuite", name=_clean(f"{design}: the trials together"))
    for text in texts:
        case = _case(suite, f"{design}.the trials together", LOCK_ORDER)
        Xml.SubElement(case, "failure", type=LOCK_ORDER, message=_clean(text))
    _count(suite, 0.0)


def _case(suite: Xml.Element, group: str, name: str) -> Xml.Element:
    return Xml.SubElement(suite, "testcase", classname=_clean(group), name=_clean(name))


def _count(suite: Xml.Element, seconds: float) -> None:
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("time", f"{seconds:.3f}")


def _clean(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return _NOT_IN_XML.sub("?", text)
