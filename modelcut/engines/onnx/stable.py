"""The same `.onnx` every time: tf2onnx numbers what it makes in the order of sets of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NUMBERED = re.compile(r"__\d+")
_WEIGHTS = 64
"""Bytes: a constant of so many floats is a layer's own, and keeps its name."""


def rewrite(path: str) -> None:
    """Numbers names anew in the order of their first use, and sorts what has no order of its own.

    Args:
        path: the file, as tf2onnx has written it.
    """
    import onnx

    model: Any = onnx.load(path)
    graphs = list(_graphs(model.graph))
    names: dict[str, str] = {}
    order: dict[str, int] = {}

    def named(name: str, base: str) -> str:
        if name not in names:
            names[name] = f"{base}__{len(names)}"
        return names[name]

    for graph in graphs:
        own = [*(each.name for each in (*graph.input, *graph.output))]
        own += [
            each.name
            for each in graph.initializer
            if each.data_type == onnx.TensorProto.FLOAT
            and len(each.raw_data) >= _WEIGHTS
            and not _NUMBERED.search(each.name)
        ]
        names |= {name: name for name in ("", *own)}
    for graph in graphs:
        for node in graph.node:
            for name in node.input:
                order.setdefault(name, len(order))
                named(name, "const")
            for name in node.output:
                order.setdefault(name, len(order))
                named(name, node.op_type)
    for graph in graphs:
        for number, node in enumerate(graph.node):
            node.name = f"{node.op_type}_{number}"
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
        kept = sorted(graph.initializer, key=lambda each: (order.get(each.name, -1), each.name))
        known = sorted(graph.value_info, key=lambda each: (order.get(each.name, -1), each.name))
        for field, values in (("initializer", kept), ("value_info", known)):
            copies = [type(each).FromString(each.SerializeToString()) for each in values]
            graph.ClearField(field)
            getattr(graph, field).extend(copies)
        for each in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            each.name = named(each.name, "const")
        for each in (*graph.value_info, *graph.input, *graph.output):
            for axis in each.type.tensor_type.shape.dim:
                if axis.dim_param:
                    axis.dim_param = named(axis.dim_param, "axis")
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph, and those of its loops and branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)
