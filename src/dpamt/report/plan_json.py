"""Plans as one JSON document: docs/plan.md."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from dpamt.plan.plan import HostPlan
from dpamt.report.plan_advice import advice

JSON_FORMAT: Final = 1
"""Raised when a key of the document changes its meaning or goes away."""


def plan_json(plans: Sequence[HostPlan], aged: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The document: one entry for each host, in their order; ``aged`` has what came of age."""
    hosts = [_host(plan) for plan in plans]
    for host, ageing in zip(hosts, aged, strict=False):
        host["ageing"] = ageing
    return {"format": JSON_FORMAT, "hosts": hosts}


def _host(plan: HostPlan) -> dict[str, Any]:
    document = asdict(plan)
    host = document["host"]
    for mode in ("static", "dynamic"):
        facts = getattr(plan.host, mode)
        host[mode] |= {"boot": facts.boot, "total": facts.total}
    for part, tdmr in zip(host["tdmrs"], plan.host.tdmrs, strict=True):
        part |= {"static": tdmr.static, "dynamic": tdmr.dynamic}
    if plan.mix is not None:
        document["mix"]["fits"] = plan.mix.fits
    document["advice"] = asdict(advice(plan))
    return document
