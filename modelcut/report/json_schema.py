"""The JSON Schema of the report, made from its dataclasses and their docstrings.

A version of the schema only grows: other keys may be there, and those that are required stay.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union

from modelcut.report import schema
from modelcut.report.schema import SCHEMA, Report

_INTERVAL = {
    "type": ["array", "null"],
    "items": {"type": ["number", "null"]},
    "minItems": 2,
    "maxItems": 2,
}
_NUMBER = {"type": ["number", "null"]}
_SCORES = (
    *("accuracy", "precision_macro", "recall_macro", "f1_macro", "log_loss"),
    *("top_5_accuracy", "label_accuracy", "mae", "rmse", "r2"),
)
_METRICS = {
    "type": "object",
    "description": "metrics of the first output; of all by name in `outputs` where there are more",
    "properties": {
        **dict.fromkeys(_SCORES, _NUMBER),
        "rows": {"type": "integer"},
        "intervals": {"type": "object", "additionalProperties": _INTERVAL},
        "per_class": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "class": {"type": "string"},
                    "precision": _NUMBER,
                    "recall": _NUMBER,
                    "f1": _NUMBER,
                    "support": {"type": "integer"},
                    "recall_interval": _INTERVAL,
                    "f1_interval": _INTERVAL,
                },
                "required": ["class", "precision", "recall", "f1", "support"],
            },
        },
        "confusion": {"type": ["array", "null"], "items": {"type": "array"}},
    },
}
_MEASURED = {
    "type": "object",
    "properties": {
        "engine": {"type": "string"},
        "task": {"type": ["string", "null"]},
        "metrics": _METRICS,
        "outputs": {"type": "array", "items": {"type": "object"}},
        "rows": {"type": "integer"},
        "rows_per_second": _NUMBER,
        "latency": {
            "type": ["object", "null"],
            "properties": {
                "batch": {"type": "integer"},
                "runs": {"type": "integer"},
                "blocks": {"type": "integer"},
                "median_ms": _NUMBER,
                "p90_ms": _NUMBER,
                "interval_ms": _INTERVAL,
            },
        },
        "host": {"type": "object"},
        "cleaning": {"type": "object"},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["engine", "metrics", "rows"],
}
_KNOWN: dict[tuple[str, str], dict[str, Any]] = {
    ("Evaluation", "before"): _MEASURED,
    ("Evaluation", "after"): _MEASURED,
    ("Evaluation", "change"): {
        "type": "object",
        "properties": {
            "accuracy_drop": _NUMBER,
            "intervals": {"type": "object", "additionalProperties": _INTERVAL},
            "mcnemar": {
                "type": "object",
                "properties": {
                    "only_before_right": {"type": "integer"},
                    "only_after_right": {"type": "integer"},
                    "p_value": {"type": "number"},
                },
            },
        },
    },
    ("Evaluation", "agreement"): {
        "type": "object",
        "properties": {"top1": _NUMBER, "max_difference": _NUMBER},
    },
    ("Evaluation", "latency"): {
        "type": "object",
        "properties": {
            "ratio": _NUMBER,
            "interval": _INTERVAL,
            "confidence": {"type": "number"},
            "blocks": {"type": "integer"},
            "engines": {"type": "array", "items": {"type": "string"}},
            "same_engine": {"type": "boolean"},
            "measurable": {"type": "boolean"},
        },
    },
    ("Report", "gates"): {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "limit": {"type": "number"},
            "value": _NUMBER,
            "held": {"type": "boolean"},
            "output": {"type": "string"},
            "interval": _INTERVAL,
            "checked": {"type": "boolean"},
            "reason": {"type": "string"},
        },
        "required": ["name", "limit", "value", "held"],
    },
}
"""What is known of the mappings, which have no class of their own."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `modelcut-report/1`."""
    definitions: dict[str, Any] = {}
    whole = _object(Report, definitions)
    whole["properties"]["schema"] = {"const": SCHEMA, **whole["properties"]["schema"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        "title": SCHEMA,
        **whole,
        "$defs": definitions,
    }


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    texts, hints = attributes(kind), typing.get_type_hints(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for each in fields(kind):
        if each.metadata.get("flat"):
            continue  # under names of their own, which are not known here
        if hints[each.name] is schema.Totals:  # its keys stand among those of its owner
            inner = _object(schema.Totals, definitions)
            properties |= inner["properties"]
            required += inner["required"]
            continue
        key = str(each.metadata.get("key", each.name))
        known = _KNOWN.get((kind.__name__, each.name))
        properties[key] = _type(hints[each.name], definitions, known)
        if sys.flags.optimize < 2:  # with -OO there are no docstrings
            properties[key]["description"] = texts[each.name]
        needed = each.default is MISSING and each.default_factory is MISSING
        if needed and not each.metadata.get("present"):
            required.append(key)
    first = inspect.getdoc(kind) or ""
    return {
        "description": " ".join(first.partition("\n\n")[0].split()),
        "type": "object",
        "properties": properties,
        "required": required,
    }


def _type(kind: Any, definitions: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (part for part in parts if part is not type(None))
        return {"anyOf": [_type(inner, definitions, known), {"type": "null"}]}
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # known from here on, where it holds itself
            definitions[kind.__name__] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is tuple:
        return {"type": "array", "items": _type(parts[0], definitions, known)}
    if origin is not None and issubclass(origin, Mapping):
        return dict(known or {"type": "object"})
    if kind is float:
        return {"type": ["number", "null"]}
    return (
        {"type": {str: "string", int: "integer", bool: "boolean"}[kind]} if kind in _PLAIN else {}
    )


_PLAIN = (str, int, bool)


def attributes(kind: type) -> dict[str, str]:
    """The section `Attributes:` of a docstring, by name; of several names on a line, each."""
    section = inspect.getdoc(kind) or ""
    section = section.partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ {4}(\w+(?:, \w+)*): (.+(?:\n {5,}.+)*)", section, re.M)
    return {
        name: re.sub(r"\bNone\b", "null", " ".join(text.split())).rstrip(".")
        for names, text in found
        for name in names.split(", ")
    }
