"""A judged recording as one JSON document (docs/trace.md)."""

from dataclasses import asdict
from typing import Any, Final

from dpamt.abi.leaves import (
    LEAF_NAMES,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_TRACK,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
)
from dpamt.abi.status import STATUS_NAMES
from dpamt.own_files import STAMP
from dpamt.report.trace_text import duration_name, headline, notes
from dpamt.trace.judge.result import Judgement
from dpamt.trace.judge.times import Histogram
from dpamt.trace.recording.model import Examples

FORMAT: Final = 1
"""Raised when a key changes its meaning or goes away."""
_PERCENTS: Final = (50, 90, 99, 99.9)
_COSTS: Final = {
    "add": (TDH_PHYMEM_PAMT_ADD,),
    "remove": (TDH_PHYMEM_PAMT_REMOVE,),
    "zap": (TDH_MEM_RANGE_BLOCK, TDH_MEM_TRACK, TDH_MEM_PAGE_REMOVE, TDH_PHYMEM_PAGE_WBINVD),
}
"""By name in the lock-cost model: the SEAMCALLs that it is the time of."""


def trace_json(judged: Judgement) -> dict[str, Any]:
    """The document."""
    health = judged.health
    return {
        "format": FORMAT,
        **STAMP,
        "name": judged.name,
        "recording": judged.form,
        "clean": judged.clean,
        "headline": headline(judged),
        "notes": notes(judged),
        "from_boot": judged.from_boot,
        "dynamic_pamt": judged.dynamic,
        "pages_followed": not judged.blind,
        "seconds": judged.seconds,
        "health": {
            "lines": health.lines,
            "bytes": health.bytes,
            "events": health.events,
            "other_events": health.other_events,
            "seamcalls": health.calls,
            "gets_and_puts": health.ops,
            "damaged": _examples(health.damaged),
            "lost": _examples(health.lost) | {"events": health.lost_events},
            "clock_jumps": _examples(health.jumps),
            "gaps": _examples(health.gaps),
            "late": health.late,
            "unanswered": health.unanswered,
            "orphans": health.orphans,
        },
        "findings": {
            "counts": judged.findings.counts,
            "first": [asdict(finding) for finding in judged.findings.first],
        },
        "undecided": judged.undecided,
        "pairs": {
            "added": judged.adds,
            "removed": judged.removes,
            "at_end": judged.pairs_now,
            "most": judged.pairs_most,
        },
        "pages_in_use_at_end": None if judged.blind else judged.pages_now,
        "tds_at_end": judged.tds_now,
        "series": [list(point) for point in judged.series],
        "seamcalls": [
            {
                "leaf": LEAF_NAMES.get(leaf, f"leaf {leaf}"),
                "status": None if status == -1 else STATUS_NAMES.get(status, f"{status:#018x}"),
                "count": number,
            }
            for (leaf, status), number in sorted(judged.statuses.items())
        ],
        "contention": [
            {"leaf": leaf, "operand": operand, "holder": holder, "count": number}
            for (leaf, operand, holder), number in judged.contention.most_common()
        ],
        "durations_ns": {
            **{
                duration_name(leaf): _histogram(histogram)
                for leaf, histogram in sorted(judged.by_leaf.items())
            },
            **{name: _histogram(histogram) for name, histogram in sorted(judged.ops.items())},
        },
        "slow": {"count": judged.slow_calls, "worst": judged.slow},
        "verify_costs_us": verify_costs(judged),
    }


def verify_costs(judged: Judgement) -> dict[str, float]:
    """Microseconds for the lock-cost model of `dpamt verify` (its ``Costs``): what can be read.

    ``zap`` is that of its SEAMCALLs alone, without KVM's own code between them.
    """
    found = {}
    for name, leaves in _COSTS.items():
        histograms = [judged.by_leaf[leaf] for leaf in leaves if leaf in judged.by_leaf]
        if len(histograms) == len(leaves):
            found[name] = sum(one.sum / one.count for one in histograms) / 1000
    return found


def _examples(examples: Examples) -> dict[str, Any]:
    return {"count": examples.count, "first": examples.first}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "mean": histogram.sum / histogram.count,
        **{f"p{percent:g}": histogram.percentile(percent) for percent in _PERCENTS},
        "most": histogram.largest,
    }
