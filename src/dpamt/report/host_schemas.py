"""JSON schemas of what is said of a host, a kernel and a recording: plan, trace, boot, conform."""

from typing import Final

from dpamt.boot.page_state import Kept
from dpamt.own_files import STAMP
from dpamt.plan.ageing.answer import AgedOutlook
from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.ageing.tornado import Tornado
from dpamt.plan.answer import Answer
from dpamt.plan.break_even import BreakEven
from dpamt.plan.fleet.results import Fleet
from dpamt.plan.host_size import HostSize
from dpamt.plan.mix_size import MixSize
from dpamt.plan.ran import Ran
from dpamt.platform.tdx_log import HostLog
from dpamt.report import boot_text, conform_text, plan_json, trace_json
from dpamt.report.plan_advice import Advice
from dpamt.report.schema_of import (
    DRAFT,
    Schema,
    document_of,
    list_of,
    object_of,
    or_null,
    schema_of,
)
from dpamt.trace.judge.findings import TraceFinding
from dpamt.verify.evidence.counterexample import Counterexample

_HEX: Final[Schema] = {"type": "string", "pattern": "^0x[0-9a-f]+$"}
_TEXT, _NUMBER, _REAL = schema_of(str), schema_of(int), schema_of(float)
_YES_NO, _TEXTS = schema_of(bool), schema_of(list[str])


def plan_schema() -> Schema:
    """Of `dpamt plan --json`: of hosts, or of a fleet."""
    said = {"kind": _TEXT, "sentence": _TEXT, "todo": _TEXT, "exit_code": _NUMBER}
    log_only = object_of(
        {
            "host": object_of({"source": _TEXT, "log": schema_of(HostLog)}),
            "answer": object_of({**said, "kind": {"enum": ["failed-in-its-log", "not-shown"]}}),
        }
    )
    outlooks = dict.fromkeys(("today", "tomorrow"), schema_of(AgedOutlook))
    kind = schema_of(Answer)["properties"]["kind"]
    ages = {
        "answer": object_of({**said, "kind": kind, "limit": _TEXT, **outlooks}),
        **dict.fromkeys(("today", "tomorrow"), schema_of(Ageing)),
        "tornado": schema_of(Tornado | None),
    }
    sizes = ("level_1g", "level_2m", "level_4k_or_bitmap", "pairs", "pair_bytes", "pages")
    in_use = {
        "source": _TEXT,
        **dict.fromkeys((*sizes, "pairs_if_packed", "all"), _NUMBER),
        "differences": _TEXTS,
    }
    host = object_of(
        {
            "host": schema_of(HostSize),
            **dict.fromkeys(("mix", "today", "tomorrow"), schema_of(MixSize | None)),
            "break_even": schema_of(BreakEven),
            "answer": schema_of(Answer),
            "ran": schema_of(Ran | None),
            "advice": schema_of(Advice),
        }
    )
    host["properties"] |= {"ageing": object_of(ages), "in_use_now": object_of(in_use)}
    form: dict[str, Schema] = {"format": {"const": plan_json.JSON_FORMAT}}
    hosts = object_of(form | {"hosts": {**list_of({"anyOf": [host, log_only]}), "minItems": 1}})
    fleet = object_of(form | {"fleet": _fleet(said)})
    return {"$schema": DRAFT, "title": "dpamt plan --json", "oneOf": [hosts, fleet]}


def _fleet(said: dict[str, Schema]) -> Schema:
    over = or_null(object_of(dict.fromkeys(("mean", "low", "high"), _REAL)))
    fleet = schema_of(Fleet)["properties"]
    fleet |= dict.fromkeys(("mean_saved_over_seeds", "newly_fitting_tds_over_seeds"), over)
    return object_of(
        {
            **said,
            "share_2m": _REAL,
            "share_assumed": _YES_NO,
            "seeds": _NUMBER,
            "driven_by": _TEXT,
            "notes": _TEXTS,
            **dict.fromkeys(("today", "tomorrow"), object_of(fleet)),
        }
    )


def trace_schema() -> Schema:
    """Of `dpamt trace --json`."""
    examples = {"count": _NUMBER, "first": _TEXTS}
    numbers = ("lines", "bytes", "events", "other_events", "seamcalls", "gets_and_puts")
    health = {
        **dict.fromkeys(numbers, _NUMBER),
        "damaged": object_of(examples),
        "lost": object_of({**examples, "events": _NUMBER}),
        **dict.fromkeys(("clock_jumps", "gaps"), object_of(examples)),
        **dict.fromkeys(("late", "unanswered", "orphans"), _NUMBER),
    }
    call = {"leaf": _TEXT, "status": schema_of(str | None), "count": _NUMBER}
    waits = {"leaf": _TEXT, "operand": _TEXT, "holder": _TEXT, "count": _NUMBER}
    times = {"count": _NUMBER, "mean": _REAL}
    times |= dict.fromkeys(("p50", "p90", "p99", "p99.9", "most"), _NUMBER)
    point = {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3}
    costs = {"add": _REAL, "remove": _REAL, "zap": _REAL}
    return document_of(
        "dpamt trace --json",
        {
            "format": {"const": trace_json.FORMAT},
            **dict.fromkeys((*STAMP, "name", "recording", "headline"), _TEXT),
            "clean": _YES_NO,
            "notes": _TEXTS,
            "from_boot": _YES_NO,
            "dynamic_pamt": schema_of(bool | None),
            "pages_followed": _YES_NO,
            "seconds": _REAL,
            "health": object_of(health),
            "findings": object_of(
                {"counts": schema_of(dict[str, int]), "first": list_of(schema_of(TraceFinding))}
            ),
            "undecided": _NUMBER,
            "pairs": object_of(dict.fromkeys(("added", "removed", "at_end", "most"), _NUMBER)),
            "pages_in_use_at_end": schema_of(int | None),
            "tds_at_end": _NUMBER,
            "series": list_of(point),
            "seamcalls": list_of(object_of(call)),
            "contention": list_of(object_of(waits)),
            "durations_ns": {"type": "object", "additionalProperties": object_of(times)},
            "slow": object_of({"count": _NUMBER, "worst": _TEXTS}),
            "verify_costs_us": {**object_of(costs), "required": []},
        },
    )


def boot_schema() -> Schema:
    """Of `dpamt boot --json`."""
    bytes_ = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
    change = {"address": _HEX, "where": _TEXT, "why": _TEXT, "old": bytes_, "new": bytes_}
    call = {"leaf": _TEXT, "status": _HEX, "status_name": _TEXT, "count": _NUMBER}
    audit = {
        **dict.fromkeys(("counters", "not_found"), schema_of(str | None)),
        "quiet_points": _NUMBER,
        "contradictions": _NUMBER,
    }
    step = {
        "cpu": _NUMBER,
        "at": _NUMBER,
        "what": _TEXT,
        **dict.fromkeys(("result", "expected"), schema_of(int | str | None)),
        **dict.fromkeys(("address", "word_address"), or_null(_HEX)),
        **dict.fromkeys(("site", "word"), or_null(_TEXT)),
        **dict.fromkeys(("before", "after", "expected_after"), schema_of(int | None)),
    }
    replay = {
        **dict.fromkeys(("design", "broken", "text"), _TEXT),
        "same": _YES_NO,
        "departure": _TEXT,
        "steps": list_of(object_of(step)),
    }
    return document_of(
        "dpamt boot --json",
        {
            "format": {"const": boot_text.JSON_FORMAT},
            "clean": _YES_NO,
            "vmlinux": _TEXT,
            "transport": {"enum": ["mailbox", "gdb"]},
            **dict.fromkeys(("cpus", "memory_bytes", "nodes"), _NUMBER),
            "initialized_seconds": schema_of(float | None),
            "seconds": _REAL,
            "ended": _TEXT,
            "changes": list_of(object_of(change)),
            "seamcalls": list_of(object_of(call)),
            "pamt_kib": schema_of(int | None),
            "differences_from_host": or_null(_TEXTS),
            "dynamic_pamt": schema_of(bool | None),
            "refcount_audit": object_of(audit),
            **dict.fromkeys(("pairs", "tds"), schema_of(int | None)),
            "injected": list_of(object_of({"rule": _TEXT, "seen": _NUMBER, "hits": _NUMBER})),
            "held": list_of(object_of({"rule": _TEXT, "times": _NUMBER})),
            "replay": or_null(object_of(replay)),
            "pamt_pages_kept": list_of(object_of(dict.fromkeys(Kept._fields, _NUMBER))),
            "findings": _TEXTS,
            "stacks": _TEXTS,
            "complaints": list_of(object_of({"kind": _TEXT, "text": _TEXT, "stack": _TEXTS})),
            "console": _TEXTS,
            "kvm": or_null(_kvm(list_of(object_of(call)), bytes_)),
        },
    )


def _kvm(calls: Schema, bytes_: Schema) -> Schema:
    """What a boot with --kvm adds."""
    change = {"offset": _NUMBER, "where": _TEXT, "why": _TEXT, "old": bytes_, "new": bytes_}
    pages = ("pairs", "tds", "guest_pages", "sept_pages", "control_pages", "freed_pages")
    row = {
        **dict.fromkeys(("phase", "what"), _TEXT),
        **dict.fromkeys(("model", "kernel"), _NUMBER),
        "because": or_null(_TEXT),
    }
    life = {
        **dict.fromkeys(("life", "call_of_leaf", "tries", "tds_left"), _NUMBER),
        **dict.fromkeys(("inject", "leaf", "called_by"), _TEXT),
        "made": _YES_NO,
        "status": or_null(_HEX),
        "reactions": _TEXTS,
        **dict.fromkeys(("source_does", "source_function", "contradiction"), or_null(_TEXT)),
        "pages_left": list_of(object_of({"address": _HEX, "kind": _TEXT})),
        **dict.fromkeys(("pairs_left", "pages_freed"), list_of(_HEX)),
        "counts_left": list_of(object_of({"region": _HEX, "count": _NUMBER})),
    }
    failed_left = ("tds_left", "pages_left", "pairs_left", "pages_freed")
    failed = {
        **dict.fromkeys(("life", "allocation", *failed_left), _NUMBER),
        **dict.fromkeys(("kind", "function", "call"), _TEXT),
        "reactions": _TEXTS,
    }
    allocations = {
        **dict.fromkeys(("every", "counted"), _NUMBER),
        "all_done": _YES_NO,
        "lives": list_of(object_of(failed)),
    }
    function = {"name": _TEXT, "lines": _NUMBER, "missed": list_of(_NUMBER)}
    coverage = {
        "source": _TEXT,
        **dict.fromkeys(("lines", "ran"), _NUMBER),
        "functions": list_of(object_of(function)),
    }
    phase = {"name": _TEXT, "seamcalls": calls, **dict.fromkeys(pages, _NUMBER)}
    return object_of(
        {
            "module_changes": list_of(object_of(change)),
            "phases": list_of(object_of(phase)),
            "exits": list_of(object_of({"td": _NUMBER, "exit": _TEXT, "count": _NUMBER})),
            **dict.fromkeys(("vmm_troubles", "guests"), _TEXTS),
            "sweep": or_null(list_of(object_of(life))),
            "allocations": or_null(object_of(allocations)),
            "checks": or_null(list_of(object_of({"name": _TEXT, "wrong": _TEXTS}))),
            "coverage": or_null(object_of(coverage)),
            "not_compared": or_null(_TEXT),
            "counts_compared": or_null(_NUMBER),
            "different": or_null(list_of(object_of(row))),
        }
    )


def conform_schema() -> Schema:
    """Of `dpamt conform --json`."""
    registers = {"type": "object", "additionalProperties": _HEX}
    answer = object_of({"status": or_null(_HEX), "text": _TEXT, "registers": registers})
    call = {
        **dict.fromkeys(("index", "repetition"), _NUMBER),
        "call": _TEXT,
        **dict.fromkeys(("recorded", "model"), answer),
        "why": _TEXT,
        "story": _TEXTS,
    }
    difference = {
        **dict.fromkeys(("id", "title"), _TEXT),
        "setup": schema_of(str | None),
        "call": or_null(object_of(call)),
        "final": _TEXTS,
    }
    left = {
        "nodes": list_of(object_of(dict.fromkeys(("hpa", "count", "hpa0", "hpa1"), _HEX))),
        **dict.fromkeys(("leaves_2m", "bitmap"), list_of(_HEX)),
    }
    outcome = {"a": answer, "b": answer, "left": or_null(object_of(left))}
    beyond = outcome | {
        "switches": _NUMBER,
        "bench_switches": schema_of(int | None),
        "schedule": schema_of(Counterexample),
    }
    race = {
        **dict.fromkeys(("id", "title"), _TEXT),
        "agrees": _YES_NO,
        **dict.fromkeys(("recorded", "reached", "states"), _NUMBER),
        "missed": list_of(object_of(outcome)),
        "beyond": list_of(object_of(beyond)),
    }
    file = {
        "file": _TEXT,
        **dict.fromkeys(("replayed", "agree"), _NUMBER),
        "differences": list_of(object_of(difference)),
        "races": list_of(object_of(race)),
    }
    return document_of(
        "dpamt conform --json",
        {
            "format": {"const": conform_text.JSON_FORMAT},
            "release": _TEXT,
            "clean": _YES_NO,
            "files": {**list_of(object_of(file)), "minItems": 1},
        },
    )
