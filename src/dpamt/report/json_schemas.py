"""JSON schemas of documents, made from the types that the documents are made from.

``python -m dpamt.report.json_schemas docs/schemas`` writes them: of every command's ``--json`` but
that of `dpamt list`.  Here are run, verify, expect and decode.
"""

import json
import sys
from pathlib import Path
from typing import Final

from dpamt.errors import InputError
from dpamt.files import replaced
from dpamt.plan.expect.ran import RanPoint
from dpamt.report import decode_text, expect_data
from dpamt.report.host_schemas import boot_schema, conform_schema, plan_schema, trace_schema
from dpamt.report.schema_of import DRAFT, Schema, document_of, list_of, object_of, schema_of
from dpamt.run.facts import JSON_FORMAT, RunFacts
from dpamt.verify.asked import Asked
from dpamt.verify.evidence import certificate
from dpamt.verify.verdict import Verdict

_TITLE: Final = "dpamt "


def schemas() -> dict[str, Schema]:
    """File name to schema."""
    return {
        "run.schema.json": run_schema(),
        "verify.schema.json": verify_schema(),
        "expect.schema.json": expect_schema(),
        "decode.schema.json": decode_schema(),
        "plan.schema.json": plan_schema(),
        "trace.schema.json": trace_schema(),
        "boot.schema.json": boot_schema(),
        "conform.schema.json": conform_schema(),
    }


def run_schema() -> Schema:
    """Of `dpamt run --json`."""
    found = schema_of(RunFacts)
    more: dict[str, Schema] = {"format": {"const": JSON_FORMAT}, "clean": {"type": "boolean"}}
    return document_of("dpamt run --json", {**more, **found["properties"]})


def verify_schema() -> Schema:
    """Of `dpamt verify --json` and ``--save``."""
    text, texts = schema_of(str), schema_of(tuple[str, ...])
    trial = schema_of(Verdict)["properties"] | {
        "trial": text,
        "meaning": text,
        "asked": schema_of(Asked),
        "replayed": texts,
        "fine": schema_of(dict[str, str]),
        "seconds": {"type": "number"},
    }
    design = {
        "design": text,
        "suite": {"enum": [certificate.WHOLE, certificate.PART]},
        "left_out": texts,
        "lock_order": texts,
        "trials": {"type": "array", "items": object_of(trial), "minItems": 1},
    }
    head = {
        "format": {"const": certificate.FORMAT},
        "dpamt": text,
        "python": text,
        "code": text,
        "clean": {"type": "boolean"},
        "designs": {"type": "array", "items": object_of(design), "minItems": 1},
    }
    return document_of("dpamt verify --json, --save", head)


def expect_schema() -> Schema:
    """Of `dpamt expect --json`."""
    number, text, some = schema_of(int), schema_of(str), schema_of(int | None)
    td = {"memory": number, "vcpus": number, "share_2m": {"type": "number"}}
    bounds = object_of({"least": number, "fresh": some, "most": number})
    pages = object_of({"sept_pages": number, "guest_4k": number, "guest_2m": number})
    point = {
        "name": text,
        "alive": schema_of(tuple[int, ...]),
        "pairs": bounds,
        "kb": bounds,
        "control_pages": number,
        "least": pages,
        "most": pages,
    }
    checked = {
        "repetition": number,
        "checkpoint": text,
        "kb": some,
        "ok": schema_of(bool | None),
        "problem": text,
    }
    ran = schema_of(RanPoint)
    tds = ran["properties"]["tds"]["properties"]
    ran["properties"]["tds"] = object_of({key: tds[key] for key in tds if key != "guest_bytes"})
    properties: dict[str, Schema] = {
        "format": {"const": expect_data.FORMAT},
        "dpamt": text,
        "case": text,
        "title": text,
        "repeat": number,
        "tds": list_of({"anyOf": [object_of(td), {"type": "null"}]}),
        "design": text,
        "module": text,
        "layout": text,
        "in_use": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "host": schema_of(str | None),
        "regions": some,
        "checkpoints": list_of(object_of(point)),
        "ran": {"anyOf": [list_of(ran), {"type": "null"}]},
        "checked": list_of(object_of(checked)),
        "ok": {"type": "boolean"},
    }
    return document_of("dpamt expect --json", properties)


def decode_schema() -> Schema:
    """Of `dpamt decode --json`: of values, or of a log."""
    text, number = schema_of(str), schema_of(int)
    meaning = object_of({"as": text, "text": text, "facts": {"type": "object"}})
    found = {"value": {"type": "string", "pattern": "^0x[0-9a-f]+$"}, "meanings": list_of(meaning)}
    line = {"line": number, "text": text, "numbers": list_of(object_of({"name": text, **found}))}
    shown = list_of(object_of({"line": number, "text": text}))
    why = dict.fromkeys(("key", "cause", "next_step", "source"), text) | {"shown_by": shown}
    form: dict[str, Schema] = {"format": {"const": decode_text.JSON_FORMAT}}
    values = object_of(form | {"values": list_of(object_of({"asked": text, **found}))})
    log = object_of(
        form
        | {"why": {"anyOf": [object_of(why), {"type": "null"}]}, "guest": {"type": "boolean"}}
        | {"lines": list_of(object_of(line))}
    )
    return {"$schema": DRAFT, "title": "dpamt decode --json", "oneOf": [values, log]}


def main(arguments: list[str]) -> None:
    """Write them all.  Raises InputError for a file of such a name that is no schema of dpamt's."""
    files = {Path(arguments[0]) / name: schema for name, schema in schemas().items()}
    for file in files:
        if file.exists() and f'"title": "{_TITLE}' not in file.read_text(encoding="utf-8"):
            raise InputError(f"{file}: was not made here; expected a folder of JSON schemas")
    for file, schema in files.items():
        with replaced(str(file)) as opened:
            opened.write(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
