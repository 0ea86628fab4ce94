"""Patterns that select layers and tensors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from fnmatch import translate
from functools import lru_cache
from typing import Any

from modelcut.model.model import Layer, Model, Tensor

MOST_PATTERNS = 1000
"""Of a step: each may have to be held against each of ten thousand layers."""


@lru_cache(maxsize=4 * MOST_PATTERNS)
def _parsed(pattern: str) -> tuple[str, Callable[[str], Any]]:
    """What a pattern looks at, and what tells whether a name fits.

    As `fnmatch.fnmatchcase`, which keeps 256 patterns only and compiles the others each time.
    """
    prefix, _, glob = pattern.partition(":")
    glob = glob.removesuffix("?") if optional(pattern) else glob
    if prefix not in ("path", "class", "role") or not glob:
        prefix, glob = "", pattern
    plain = not any(sign in glob for sign in "*?[")
    return prefix, glob.__eq__ if plain else re.compile(translate(glob)).match


def matches(pattern: str, layer: Layer, tensor: Tensor | None = None) -> bool:
    """Whether a pattern names this layer (or this tensor of it).

    Patterns: `class:GLOB` on the class name, `role:GLOB` on a tensor's role or kind, `path:GLOB`
    on the layer's whole name, else a glob on the whole name or the last part of it. With "?" at
    its end, one with a prefix may match nothing.
    """
    prefix, fits = _parsed(pattern)
    if prefix == "path":
        return bool(fits(layer.name))
    if prefix == "class":
        return bool(fits(layer.class_name))
    if prefix == "role":
        tensors = layer.tensors if tensor is None else (tensor,)
        return any(fits(t.role) or fits(t.kind) for t in tensors)
    return bool(fits(layer.name) or (layer.path and fits(layer.path[-1])))


def matches_any(pattern: str, model: Model) -> bool:
    """Whether a pattern names any layer of the model."""
    return any(matches(pattern, layer) for layer in model.layers)


def suggest(pattern: str, model: Model) -> str:
    """What to do about a pattern that matches nothing: the nearest name, if there is one."""
    prefix, _, glob = pattern.partition(":")
    names: Iterator[str]
    if prefix == "class" and glob:
        names, head = (layer.class_name for layer in model.layers), "class:"
    elif prefix == "role" and glob:
        names, head = (t.role for t in model.tensors), "role:"
    else:
        head = "path:" if prefix == "path" and glob else ""
        names, glob = (layer.name for layer in model.layers), pattern.removeprefix(head)
    near = difflib.get_close_matches(glob, sorted(set(names)), 1)
    return f"did you mean {head + near[0]!r}?" if near else "`modelcut inspect` lists the layers"


def optional(pattern: str) -> bool:
    """Whether a pattern may match no layer: `class:Conv2D?`, in recipes for any network."""
    return pattern.startswith(("class:", "role:", "path:")) and pattern.endswith("?")
