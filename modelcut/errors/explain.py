"""pydantic's errors in the words of someone who writes a recipe."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel


def explain(
    problem: Mapping[str, Any], known: Iterable[str], cls: type[BaseModel]
) -> tuple[str, str]:
    """One pydantic error in words.

    Args:
        problem: an entry of `ValidationError.errors()`.
        known: keys that are valid at the top level.
        cls: that was to be made. Its `absent`, if it has one, maps keys that it lacks on purpose to
            what to do instead.

    Returns:
        What is wrong with which field, and a hint or "".
    """
    loc = problem["loc"]
    name = ".".join(str(part) for part in loc)
    if problem["type"] == "extra_forbidden":
        absent: Mapping[str, str] = getattr(cls, "absent", {})
        if len(loc) == 1 and loc[0] in absent:
            return f"there is no {name!r} in this method", absent[name]
        options = known if len(loc) == 1 else _fields_at(loc[:-1], cls)
        hint = near(str(loc[-1]), options)
        if not hint and list(options):
            hint = f"known: {', '.join(sorted(options))}"
        return f"unknown key {name!r}", hint
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if message[:2] != message[:2].upper() else message
    given = problem.get("input")
    if not loc or isinstance(given, dict):
        return (f"{name}: {message}" if name else message), ""
    shown = json.dumps(given, default=str, ensure_ascii=False)
    return f"{name}: {message}, not {shown[:60]}", ""


def _fields_at(path: Iterable[str | int], cls: Any) -> list[str]:
    """Field names of the part of a model at `path` (data, gates), if it is one."""
    for part in path:
        info = getattr(cls, "model_fields", {}).get(str(part))
        annotation = getattr(info, "annotation", None)
        choices = (annotation, *getattr(annotation, "__args__", ()))
        cls = next((c for c in choices if hasattr(c, "model_fields")), None)
    return list(getattr(cls, "model_fields", {}))


def near(name: str, options: Iterable[str]) -> str:
    """Suggests the option that is most like a name; "" where none is."""
    found = difflib.get_close_matches(str(name), [str(option) for option in options], 1, 0.5)
    return f"did you mean {found[0]!r}?" if found else ""
