"""Plans as one JSON document: docs/plan.md."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from dpamt.plan.plan import HostPlan
from dpamt.platform.dmesg import NoMemoryInLog
from dpamt.platform.tdx_log import Failure, HostLog
from dpamt.report.plan_advice import advice
from dpamt.report.plan_answer import headline, log_sentence

JSON_FORMAT: Final = 2
"""Raised when a key of the document changes its meaning or goes away."""


def plan_json(
    plans: Sequence[HostPlan | NoMemoryInLog], aged: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The document: one entry for each host, in their order; ``aged`` has what came of age."""
    hosts = [_log_only(plan) if isinstance(plan, NoMemoryInLog) else _host(plan) for plan in plans]
    whole = (host for host, plan in zip(hosts, plans, strict=True) if isinstance(plan, HostPlan))
    for host, ageing in zip(whole, aged, strict=bool(aged)):
        host["ageing"] = ageing
    return {"format": JSON_FORMAT, "hosts": hosts}


def _log_only(told: NoMemoryInLog) -> dict[str, Any]:
    """A log that says why TDX did not come up, and nothing of memory."""
    why = told.log.why or told.log.doubt
    assert why is not None
    return {
        "host": {"source": told.source, "log": _log(told.log)},
        "answer": {
            "kind": "failed-in-its-log" if told.log.why else "not-shown",
            "sentence": f"{log_sentence(told.log)}: {why.cause.why}",
            "todo": why.cause.next_step,
            "exit_code": 1,
        },
    }


def _log(log: HostLog) -> dict[str, Any]:
    document = asdict(log)
    for one, failure in zip(document["failures"], log.failures, strict=True):
        one["cause"] = _cause(failure)
    document.pop("guest")
    return document


def _cause(failure: Failure) -> dict[str, Any]:
    cause = failure.cause
    return {
        "key": cause.key,
        "why": cause.why,
        "next_step": cause.next_step,
        "source": cause.source,
        "for_ever": cause.for_ever,
    }


def _host(plan: HostPlan) -> dict[str, Any]:
    document = asdict(plan)
    host = document["host"]
    for mode in ("static", "dynamic"):
        facts = getattr(plan.host, mode)
        host[mode] |= {"boot": facts.boot, "total": facts.total}
    for part, tdmr in zip(host["tdmrs"], plan.host.tdmrs, strict=True):
        part |= {"static": tdmr.static, "dynamic": tdmr.dynamic}
    if plan.host.log is not None:
        host["log"] = _log(plan.host.log)
    for name in ("mix", "today", "tomorrow"):
        mix = getattr(plan, name)
        if mix is not None:
            document[name] |= {"fits": mix.fits, "short_of": mix.short_of}
            document[name] |= {"more_tds": mix.more_tds, "limit": mix.limit}
    told = headline(plan)
    answer = document["answer"]
    failure = answer.pop("failure")
    if plan.answer.failure is not None:
        failure["cause"] = _cause(plan.answer.failure)
    answer |= {"sentence": told.sentence, "todo": told.todo, "failure": failure}
    answer["exit_code"] = plan.answer.exit_code
    document["advice"] = asdict(advice(plan))
    return document
