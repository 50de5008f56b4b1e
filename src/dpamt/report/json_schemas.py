"""JSON schemas of documents, made from the types that the documents are made from.

``python -m dpamt.report.json_schemas docs/schemas`` writes them: of `dpamt run --json`, of
`dpamt verify --json` and ``--save``, of `dpamt expect --json` and of `dpamt decode --json`.
Meanings are the docstrings of the fields.
Source of the keywords: JSON Schema, draft 2020-12.
"""

import ast
import dataclasses
import inspect
import json
import sys
import textwrap
import types
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from dpamt.files import replaced
from dpamt.plan.expect.ran import RanPoint
from dpamt.report import decode_text, expect_data
from dpamt.run.facts import JSON_FORMAT, PamtFacts, RunFacts, TdFacts
from dpamt.verify.asked import Asked
from dpamt.verify.evidence import certificate, counterexample
from dpamt.verify.evidence.counterexample import Counterexample
from dpamt.verify.verdict import Verdict

Schema = dict[str, Any]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Final[dict[Any, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    Any: {},
}
_MORE: Final[dict[type, dict[str, Schema]]] = {
    PamtFacts: {"boot": {"type": "integer"}, "total": {"type": "integer"}},
    TdFacts: {"guest_bytes": {"type": "integer"}},
    Counterexample: {
        "format": {"const": counterexample.FORMAT},
        "schedule": {"type": "array", "items": {"type": "integer"}},
        "switches": {"type": "integer"},
    },
}
"""What a document has beside the fields of a type."""
_LESS: Final[dict[type, frozenset[str]]] = {Verdict: frozenset({"lock_order"})}
"""Fields of a type that no document has."""


def schemas() -> dict[str, Schema]:
    """File name to schema."""
    return {
        "run.schema.json": run_schema(),
        "verify.schema.json": verify_schema(),
        "expect.schema.json": expect_schema(),
        "decode.schema.json": decode_schema(),
    }


def run_schema() -> Schema:
    """Of `dpamt run --json`."""
    found = schema_of(RunFacts)
    more: dict[str, Schema] = {"format": {"const": JSON_FORMAT}, "clean": {"type": "boolean"}}
    return _document("dpamt run --json", {**more, **found["properties"]})


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
        "trials": {"type": "array", "items": _object(trial), "minItems": 1},
    }
    head = {
        "format": {"const": certificate.FORMAT},
        "dpamt": text,
        "python": text,
        "code": text,
        "clean": {"type": "boolean"},
        "designs": {"type": "array", "items": _object(design), "minItems": 1},
    }
    return _document("dpamt verify --json, --save", head)


def expect_schema() -> Schema:
    """Of `dpamt expect --json`."""
    number, text, some = schema_of(int), schema_of(str), schema_of(int | None)
    td = {"memory": number, "vcpus": number, "share_2m": {"type": "number"}}
    bounds = _object({"least": number, "fresh": some, "most": number})
    pages = _object({"sept_pages": number, "guest_4k": number, "guest_2m": number})
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
    ran["properties"]["tds"] = _object({key: tds[key] for key in tds if key != "guest_bytes"})
    properties: dict[str, Schema] = {
        "format": {"const": expect_data.FORMAT},
        "dpamt": text,
        "case": text,
        "title": text,
        "repeat": number,
        "tds": _list({"anyOf": [_object(td), {"type": "null"}]}),
        "design": text,
        "module": text,
        "layout": text,
        "in_use": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "host": schema_of(str | None),
        "regions": some,
        "checkpoints": _list(_object(point)),
        "ran": {"anyOf": [_list(ran), {"type": "null"}]},
        "checked": _list(_object(checked)),
        "ok": {"type": "boolean"},
    }
    return _document("dpamt expect --json", properties)


def decode_schema() -> Schema:
    """Of `dpamt decode --json`: of values, or of a log."""
    text, number = schema_of(str), schema_of(int)
    meaning = _object({"as": text, "text": text, "facts": {"type": "object"}})
    found = {"value": {"type": "string", "pattern": "^0x[0-9a-f]+$"}, "meanings": _list(meaning)}
    line = {"line": number, "text": text, "numbers": _list(_object({"name": text, **found}))}
    shown = _list(_object({"line": number, "text": text}))
    why = dict.fromkeys(("key", "cause", "next_step", "source"), text) | {"shown_by": shown}
    form: dict[str, Schema] = {"format": {"const": decode_text.JSON_FORMAT}}
    values = _object(form | {"values": _list(_object({"asked": text, **found}))})
    log = _object(
        form
        | {"why": {"anyOf": [_object(why), {"type": "null"}]}, "guest": {"type": "boolean"}}
        | {"lines": _list(_object(line))}
    )
    return {"$schema": DRAFT, "title": "dpamt decode --json", "oneOf": [values, log]}


def schema_of(kind: Any) -> Schema:
    """The schema of a type: a dataclass, a tuple, a dictionary, a union, a plain type.

    Raises TypeError for a type that no document has had so far.
    """
    if kind in _PLAIN:
        return dict(_PLAIN[kind])
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": schema_of(arguments[0])}
        size = len(arguments)
        items = [schema_of(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": size, "maxItems": size}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin is types.UnionType:
        return {"anyOf": [schema_of(argument) for argument in arguments]}
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind}: no schema for it")
    assert isinstance(kind, type)
    hints, meanings = get_type_hints(kind), _meanings(kind)
    properties = {
        field.name: schema_of(hints[field.name])
        | ({"description": meanings[field.name]} if field.name in meanings else {})
        for field in dataclasses.fields(kind)
        if field.name not in _LESS.get(kind, ())
    }
    return _object(properties | _MORE.get(kind, {}))


def _object(properties: dict[str, Schema]) -> Schema:
    """An object that has these keys, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _document(title: str, properties: dict[str, Schema]) -> Schema:
    return {"$schema": DRAFT, "title": title, **_object(properties)}


def _meanings(kind: type) -> dict[str, str]:
    """Field to its docstring, the text that stands below it."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(found, ast.ClassDef)
    meanings = {}
    for field, below in zip(found.body, found.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match below:
                case ast.Expr(ast.Constant(str(text))):
                    meanings[field.target.id] = " ".join(text.replace("``", "`").split())
    return meanings


def main(arguments: list[str]) -> None:
    """Write them all."""
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=2) + "\n"
        with replaced(str(Path(arguments[0]) / name)) as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
