"""Patterns that select layers and tensors."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fnmatch import fnmatchcase

from modelcut.model.model import Layer, Model, Tensor


def matches(pattern: str, layer: Layer, tensor: Tensor | None = None) -> bool:
    """Whether a pattern names this layer (or this tensor of it).

    Patterns: `class:GLOB` on the class name, `role:GLOB` on a tensor's role or kind, `path:GLOB`
    on the layer's whole name, else a glob on the whole name or the last part of it. With "?" at
    its end, one with a prefix may match nothing.
    """
    prefix, _, glob = pattern.partition(":")
    glob = glob.removesuffix("?") if optional(pattern) else glob
    if prefix == "path" and glob:
        return fnmatchcase(layer.name, glob)
    if prefix == "class" and glob:
        return fnmatchcase(layer.class_name, glob)
    if prefix == "role" and glob:
        tensors = layer.tensors if tensor is None else (tensor,)
        return any(fnmatchcase(t.role, glob) or fnmatchcase(t.kind, glob) for t in tensors)
    return fnmatchcase(layer.name, pattern) or (
        bool(layer.path) and fnmatchcase(layer.path[-1], pattern)
    )


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
