"""Numbers that must be given as numbers: `sparsity: "0.5"` and `sparsity: true` are slips."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, model_validator


class Strict(BaseModel):
    """A pydantic model whose fields of numbers take neither text nor booleans."""

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, data: Any) -> Any:
        for name, info in cls.model_fields.items() if isinstance(data, Mapping) else ():
            value = data.get(name)
            if not isinstance(value, (str, bool)):
                continue
            if any(isinstance(each, BeforeValidator) for each in info.metadata):
                continue
            if "BeforeValidator" in repr(info.annotation):
                continue  # text that it makes a number of
            kinds = set(_kinds(info.annotation))
            if kinds & {int, float} and kinds <= {int, float, type(None), dict, Mapping}:
                shown = str(value).lower() if isinstance(value, bool) else f'"{value[:40]}"'
                raise ValueError(f"{name}: {shown} is no number")
        return data


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of; of a mapping and a list the outer one."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds(parts[0])
    elif origin in (Union, types.UnionType):
        for part in parts:
            yield from _kinds(part)
    elif origin is Literal:
        yield from map(type, parts)
    else:
        yield origin or annotation
