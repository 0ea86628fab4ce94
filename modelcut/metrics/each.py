"""Fields that hold one value, or a mapping with one for each output of a network by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import PlainSerializer, WithJsonSchema, WrapValidator

ONE_OR_EACH = WrapValidator(lambda value, check: _checked(value, check))
"""Has pydantic check the value, or each one of a mapping."""
AS_GIVEN = PlainSerializer(lambda value: value)


def schema(of_one: Mapping[str, Any]) -> WithJsonSchema:
    """JSON Schema of such a field."""
    each = {"type": "object", "additionalProperties": dict(of_one)}
    return WithJsonSchema({"anyOf": [dict(of_one), each]})


def _checked(value: Any, check: Callable[[Any], Any]) -> Any:
    if not isinstance(value, Mapping):
        return check(value)
    return {str(name): check(one) for name, one in value.items()}
