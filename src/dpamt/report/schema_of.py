"""The JSON schema of a type: what documents are made from, and where they differ from it.

Meanings are the docstrings of the fields.  Source of the keywords: JSON Schema, draft 2020-12.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from dpamt.plan.ageing.simulate import Ageing
from dpamt.plan.answer import Answer
from dpamt.plan.host_size import TdmrSize
from dpamt.plan.mix_size import MixSize
from dpamt.platform.tdx_causes import Cause
from dpamt.platform.tdx_log import HostLog
from dpamt.run.facts import PamtFacts, TdFacts
from dpamt.verify.evidence import counterexample
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
MORE: Final[dict[type, dict[str, Schema]]] = {
    PamtFacts: {"boot": {"type": "integer"}, "total": {"type": "integer"}},
    TdFacts: {"guest_bytes": {"type": "integer"}},
    TdmrSize: {"static": {"type": "integer"}, "dynamic": {"type": "integer"}},
    MixSize: {
        "fits": {"type": "boolean"},
        "short_of": {"type": "array", "items": {"type": "string"}},
        "more_tds": {"type": "integer"},
        "limit": {"type": "string"},
    },
    Answer: {
        "sentence": {"type": "string"},
        "todo": {"type": "string"},
        "exit_code": {"type": "integer"},
    },
    Ageing: {
        "regions_at_end": {
            "type": "object",
            "properties": {kind: {"type": "integer"} for kind in ("free", "pair", "huge", "other")},
            "required": ["free", "pair", "huge", "other"],
            "additionalProperties": False,
        }
    },
    Counterexample: {
        "format": {"const": counterexample.FORMAT},
        "schedule": {"type": "array", "items": {"type": "integer"}},
        "switches": {"type": "integer"},
    },
}
"""What a document has beside the fields of a type."""
LESS: Final[dict[type, frozenset[str]]] = {
    Verdict: frozenset({"lock_order"}),
    HostLog: frozenset({"guest"}),
    Cause: frozenset({"pattern", "rank", "fatal"}),
    Ageing: frozenset({"regions"}),
}
"""Fields of a type that no document has."""


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
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is Literal:
        return {"enum": list(arguments)}
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
        if field.name not in LESS.get(kind, ())
    }
    return object_of(properties | MORE.get(kind, {}))


def object_of(properties: dict[str, Schema]) -> Schema:
    """An object that has these keys, and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(items: Schema) -> Schema:
    """An array of any length."""
    return {"type": "array", "items": items}


def document_of(title: str, properties: dict[str, Schema]) -> Schema:
    """The schema of a whole document."""
    return {"$schema": DRAFT, "title": title, **object_of(properties)}


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
