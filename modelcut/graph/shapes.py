"""Shapes through a whole architecture, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelcut.graph.keras import channel_operations, classes, functions, layer_shapes
from modelcut.graph.keras.calls import (
    CallGraph,
    Entry,
    Ref,
    config_of,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.graph.keras.classes import Shape
from modelcut.graph.keras.saved_order import specs
from modelcut.graph.node import Node, Path, node_of

Shapes = dict[Path, "Shape | None"]


def infer(root: Entry) -> tuple[Shapes, Shapes]:
    """Shapes without the batch axis of what goes into each layer first, and of what comes out.

    Of a layer that is called several times, those of its first call. Where the class is unknown,
    the shape that a Keras 3 file says of it counts.

    Raises:
        InputError: the layers do not hang together.
    """
    walk = _Walk()
    walk.model(root, (), None)
    return walk.inputs, walk.outputs


def of_call(node: Node, sources: Sequence[Shape | None], call: Any = None) -> list[Shape | None]:
    """Shapes of what comes out of one call of a layer, wrapped ones too.

    Args:
        node: node of the layer.
        sources: shapes of what goes in.
        call: the call as the file has it; None in a Sequential.
    """
    if node.is_operation or node.class_name in functions.TENSORFLOW:
        # A class of the same name as a layer, such as Add, has other rules.
        return channel_operations.shapes(node, sources, call)
    if functions.is_of_convnext(node):
        return list(sources[:1]) or [None]
    return [_Walk().leaf(node, list(sources))]


def of_layer(node: Node, sources: Sequence[Shape | None]) -> Shape | None:
    """Shape of the (first) output of one call of a layer, wrapped ones too."""
    return _Walk().leaf(node, list(sources))


class _Walk:
    def __init__(self) -> None:
        self.inputs: Shapes = {}
        self.outputs: Shapes = {}

    def model(
        self, model: Entry, path: Path, given: Sequence[Shape | None] | None
    ) -> list[Shape | None]:
        """Fills in a model's layers; returns the shapes of its outputs."""
        if is_functional(model):
            return self._functional(model, path, given)
        shape = given[0] if given else built(model)
        for index, entry in enumerate(layer_list(model) or []):
            if entry.get("class_name") == "InputLayer":
                shape = shape if shape is not None else declared(config_of(entry))
                self.outputs[(*path, name_of(entry))] = shape
                continue
            if shape is None and index == 0:
                shape = built(entry)
            shape = self._layer(entry, (*path, name_of(entry)), [shape])[0]
        return [shape]

    def _functional(
        self, model: Entry, path: Path, given: Sequence[Shape | None] | None
    ) -> list[Shape | None]:
        graph = CallGraph(model, "shapes")
        fed = dict(zip((ref.name for ref in graph.inputs), given or (), strict=False))
        said = {
            ref[:3]: without_batch(ref.shape)
            for found in graph.calls.values()
            for call in found
            for ref in call
        }
        made: dict[str, list[Shape | None]] = {}

        def shape_of(ref: Ref) -> Shape | None:
            outputs = made.get(ref.name, [])
            known = outputs[ref.tensor] if ref.tensor < len(outputs) else None
            return known if known is not None else said.get(ref[:3])

        for name in graph.order():
            entry = graph.entries[name]
            if entry.get("class_name") == "InputLayer":
                shape = fed.get(name)
                shape = shape if shape is not None else declared(config_of(entry))
                made[name] = [shape]
                self.outputs[(*path, name)] = shape
                continue
            sources = [shape_of(ref) for ref in graph.calls[name][0]]
            made[name] = self._layer(entry, (*path, name), sources, call_at(entry))
            if made[name][0] is None:
                made[name] = [said.get((name, 0, 0))]
                self.outputs[(*path, name)] = made[name][0]
        return [shape_of(ref) for ref in graph.outputs]

    def _layer(
        self, entry: Entry, path: Path, sources: list[Shape | None], call: Any = None
    ) -> list[Shape | None]:
        self.inputs[path] = sources[0] if sources else None
        if layer_list(entry) is not None:
            result = self.model(entry, path, sources) or [None]
        else:
            node = node_of(entry, path)
            held = node.class_name in classes.WRAPPERS  # whose layers are filled in, too
            result = [self.leaf(node, sources)] if held else of_call(node, sources, call)
        self.outputs[path] = result[0]
        return result

    def leaf(self, node: Node, sources: list[Shape | None]) -> Shape | None:
        """Shape of what comes out of a layer; fills in those that it wraps."""
        wrapped = node.wrapped
        first = sources[0] if sources else None
        if not wrapped or node.class_name not in classes.WRAPPERS:
            return _own_shape(node, sources)
        inner = wrapped[0][1]
        if node.class_name == "TimeDistributed":
            if not first:
                return None
            shape = self._layer(inner.entry, inner.path, [first[1:]])[0]
            return None if shape is None else (first[0], *shape)
        if node.class_name == "RNN":
            return _recurrent(node, inner, first)
        shape = self._layer(inner.entry, inner.path, sources)[0]
        if node.class_name == "Bidirectional":
            mode = node.config.get("merge_mode", "concat")
            if mode is None or not shape:
                return None
            if mode == "concat":
                return (*shape[:-1], None if shape[-1] is None else 2 * shape[-1])
        return shape


def _own_shape(node: Node, sources: Sequence[Shape | None]) -> Shape | None:
    if node.is_operation:
        return None
    try:
        return layer_shapes.output_shape(node.class_name, node.config, sources)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None  # a configuration of the wrong types: whoever runs it will say so


def call_at(entry: Entry, index: int = 0) -> Any:
    """A call of a layer as the file has it; None where there is none."""
    nodes = entry.get("inbound_nodes")
    return nodes[index] if isinstance(nodes, list) and index < len(nodes) else None


def _recurrent(node: Node, cell: Node, given: Shape | None) -> Shape | None:
    last = [inner for _, inner in cell.wrapped][-1:] or [cell]
    if not last[0].class_name.endswith("Cell") or "Conv" in last[0].class_name:
        return None
    units = (classes.units(last[0].config),)
    if node.config.get("return_sequences"):
        return (given[0], *units) if given else None
    return units


def declared(config: Any) -> Shape | None:
    """The input shape that a layer's configuration says, without the batch axis."""
    if not isinstance(config, dict):
        return None
    for key in ("batch_shape", "batch_input_shape"):
        if key in config:
            return without_batch(config[key])
    if isinstance(config.get("input_shape"), list):  # Keras 1
        return without_batch([None, *config["input_shape"]])
    width = config.get("input_dim")
    if classes.integer(width):
        length = config.get("input_length")
        return (length, width) if isinstance(length, int) else (width,)
    return None


def built(entry: Entry) -> Shape | None:
    """The input shape that a model or layer without an InputLayer says, without the batch axis."""
    return declared(_building(entry))


def _building(entry: Entry) -> dict[str, Any]:
    config = dict(config_of(entry))
    found = config.get("build_input_shape")
    if "batch_shape" in config or "batch_input_shape" in config:
        return config
    if isinstance(found, list):
        return {"batch_shape": found}
    if entry.get("class_name") == "Embedding":
        config.pop("input_dim", None)
    build = entry.get("build_config")
    if isinstance(build, dict) and isinstance(build.get("input_shape"), list):
        return {"batch_shape": build["input_shape"]}
    return config


def without_batch(shape: Any) -> Shape | None:
    """A shape of a file without its batch axis; None where it is none."""
    if not isinstance(shape, list) or not shape:
        return None
    if not all(n is None or (isinstance(n, int) and not isinstance(n, bool)) for n in shape):
        return None
    return tuple(n if n is None or n >= 0 else None for n in shape[1:])


def multiplies(node: Node) -> bool:
    """Whether a layer or operation multiplies its inputs with each other, without weights."""
    if node.class_name == "Matmul":  # of Keras 3, whose .h5 does not say that it is an operation
        return True
    # keras.ops.dot is another thing than the layer Dot
    return node.class_name in layer_shapes.PRODUCTS and not node.is_operation


def macs(
    node: Node,
    weights: Sequence[Sequence[int]],
    given: Shape | None,
    others: Sequence[Shape | None] = (),
) -> int | None:
    """Multiply-accumulates of one sample in one call of a layer, wrapped ones too.

    Args:
        node: node of the layer in the architecture.
        weights: the shapes of its weights, in the order of `specs`.
        given: shape of what goes into it first, without the batch axis, or None where unknown.
        others: of its other inputs: of an attention the value and, if another, the key.

    Returns:
        The count, of products with weights and of those inside of an attention or a Dot; None where
        it is unknown.
    """
    name, parts = node.class_name, [inner for _, inner in node.wrapped]
    if name not in classes.WRAPPERS or not parts:
        output = None if given is None else _own_shape(node, [given])
        return layer_shapes.macs(name, node.config, weights, output, given, others)
    if any(inner.is_model for inner in parts):
        return None
    steps: int | None = 1
    if name in ("TimeDistributed", "RNN"):
        steps, given = (given[0], given[1:]) if given else (None, None)
    total = 0
    for inner in parts:
        own = [spec for spec in specs(inner) if spec.kind != "state"]
        count = macs(inner, weights[: len(own)], given)
        weights = weights[len(own) :]
        if count is None or steps is None:
            return None
        total += count * steps
    return total
