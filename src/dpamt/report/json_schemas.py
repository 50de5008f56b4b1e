"""JSON schemas of documents, made from the types that the documents are made from.

``python -m dpamt.report.json_schemas docs/schemas`` writes them: of `dpamt run --json`, and of
`dpamt verify --json` and ``--save``.  Meanings are the docstrings of the fields.
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
    return {"run.schema.json": run_schema(), "verify.schema.json": verify_schema()}


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
        (Path(arguments[0]) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
