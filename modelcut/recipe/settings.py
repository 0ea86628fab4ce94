"""Single values of a recipe, replaced from outside: `steps.0.sparsity=0.8`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelcut.errors import RecipeError
from modelcut.recipe.yaml_text import MAX_DEPTH, Document, loads
from modelcut.safety import printable


def with_settings(document: Document, settings: Sequence[str]) -> Document:
    """The recipe with some values replaced or added.

    Args:
        document: the recipe as it was read.
        settings: PATH=VALUE each: keys and indices from 0, joined by dots; the value is YAML.

    Raises:
        RecipeError: a setting has no value, or its path leads nowhere.
    """
    data = copy.deepcopy(document.data)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not (path and equals):
            raise RecipeError(f"--set {setting}: no value", "write --set steps.0.sparsity=0.8")
        if path.count(".") >= MAX_DEPTH:
            what = printable(path, 40)
            raise RecipeError(f"--set {what}: nested deeper than {MAX_DEPTH} levels")
        value = loads(text, f"--set {path}").data if text else None
        _put(data, path.split("."), value, f"--set {path}")
    return replace(document, data=data)


def _put(data: Any, keys: list[str], value: Any, what: str) -> None:
    for index, key in enumerate(keys):
        last = index == len(keys) - 1
        place: Any = key
        if isinstance(data, list):
            place = _index(data, key, what, ".".join(keys[:index]))
        elif not isinstance(data, dict):
            raise RecipeError(f"{what}: {'.'.join(keys[:index])} is a single value")
        if last:
            data[place] = value
            return
        if isinstance(data, dict) and place not in data:
            data[place] = {}
        if isinstance(data, list) and isinstance(data[place], str):
            data[place] = {data[place]: {}}  # the short form of a step
        data = data[place]


def _index(items: list[Any], key: str, what: str, where: str) -> int:
    """An index of a list.

    Raises:
        RecipeError: it is none, or there is no such item.
    """
    if not (key.isascii() and key.isdigit()):
        raise RecipeError(f"{what}: {where} is a list", f"write {where}.0 for its first item")
    if int(key) >= len(items):
        raise RecipeError(f"{what}: {where} has {len(items)} items, counted from 0")
    return int(key)
