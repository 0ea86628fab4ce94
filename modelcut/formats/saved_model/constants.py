"""Constants of a graph whose values are not as many as their shape says.

TensorFlow refuses some of these when it loads the graph, in words that name no file, and fills
others up, however large (tensorflow/core/framework/tensor.cc, `Tensor::FromProto`): a value that
stands for all of 2^40 is an allocation of terabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from modelcut.errors import InputError
from modelcut.formats.saved_model.bundle import DTYPES
from modelcut.formats.saved_model.meta_graph import GraphNode, MetaGraph
from modelcut.safety import printable

_MOST_BYTES = 1 << 30
_MOST_RATIO = 500
_TENSOR, _DTYPE, _SHAPE, _CONTENT = 8, 1, 2, 4


def check(graph: MetaGraph, where: str) -> None:
    """Refuses a graph with a constant whose shape lies.

    Raises:
        InputError: the constant, what it declares and what it holds.
        ProtoError: one is no message.
    """
    for place, nodes in _groups(graph):
        for node in nodes:
            if node.op == "Const" and (reason := _lie(node)):
                inside = f" in function {printable(place, 60)!r}" if place else ""
                raise InputError(
                    f"{where}: damaged: the constant {printable(node.name, 60)!r}{inside} {reason}",
                    "copy it again from where it came",
                )


def _groups(graph: MetaGraph) -> Iterator[tuple[str, list[GraphNode]]]:
    yield "", graph.nodes
    for name, function in graph.functions.items():
        yield name, function.nodes


def _lie(node: GraphNode) -> str:
    """What is wrong with a constant; "" for nothing."""
    tensor = node.attribute("value").message(_TENSOR)
    shape = tensor.message(_SHAPE)
    sizes = [dim.signed(1) for dim in shape.messages(2)]
    shown = "×".join(map(str, sizes[:8])) + ("…" if len(sizes) > 8 else "")
    if shape.integer(3) or any(size < 0 for size in sizes):
        return f"declares no shape ({shown})"
    dtype = DTYPES.get(tensor.integer(_DTYPE))
    count, content = prod(sizes), tensor.blob(_CONTENT)
    declared = count * (1 if dtype is None else dtype.itemsize)
    stored = sum(len(part) if isinstance(part, memoryview) else 8 for part in _values(node))
    if declared > _MOST_BYTES and declared > _MOST_RATIO * stored:
        return f"declares {shown} values, {declared:.3g} bytes, and holds {stored}"
    if dtype is not None and len(content) and len(content) != declared:
        return f"declares {shown} of {dtype}, {declared} bytes, and holds {len(content)}"
    return ""


def _values(node: GraphNode) -> Iterator[int | memoryview]:
    """The fields of a constant's tensor, which hold its values."""
    tensor = node.attribute("value").message(_TENSOR)
    for number in tensor.numbers():
        yield from tensor.raw(number)
