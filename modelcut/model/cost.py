"""What can be said of the network as a graph, without running it."""

from __future__ import annotations

import math
from dataclasses import replace

from modelcut.errors import InputError, ModelcutError
from modelcut.graph import shapes
from modelcut.graph.architecture import Node, specs
from modelcut.graph.keras import classes, quantized
from modelcut.model.encoding import Fixed
from modelcut.model.model import Layer, Model

MAX_VALUES = 1 << 30
"""Values of one sample's output of one layer; 4 GiB of float32."""


def check_sizes(model: Model) -> None:
    """Refuses a network whose layers declare outputs that no machine holds.

    Weights need no such look: the reader has held what is declared against what is stored.

    Raises:
        InputError: names the layer and the size.
    """
    if model.architecture is None:
        return
    for path, shape in model.architecture.shapes().items():
        values = math.prod(n for n in shape if n is not None) if shape else 0
        if values > MAX_VALUES:
            raise InputError(
                f"{model.origin.path}: layer {'/'.join(path)} declares {values:.3g} output values"
            )


def macs(model: Model) -> dict[str, int | None]:
    """Multiply-accumulates of one inference of one sample, by layer.

    Returns:
        Layer name -> count, for layers with weights; None where it cannot be told without running
        the network (an unknown class, an input of unknown size).
    """
    given = {}
    if model.architecture is not None:
        try:
            given = model.architecture.input_shapes()
        except ModelcutError:
            given = {}
    counts: dict[str, int | None] = {}
    for layer in model.layers:
        if not layer.tensors:
            continue
        node, weights = layer.node, [tensor.shape for tensor in layer.tensors]
        known = node is not None and classes.is_known(layer.class_name)
        if node and known and _is_changed(layer, node):
            counts[layer.name] = _macs_of_fixed(layer, node, given.get(layer.path))
            continue
        counts[layer.name] = (
            shapes.macs(node, weights, given.get(layer.path)) if node and known else None
        )
    return counts


def _is_changed(layer: Layer, node: Node) -> bool:
    parts = [node, *(inner for _, inner in node.wrapped)]
    return any(isinstance(tensor.encoding, Fixed) for tensor in layer.tensors) or any(
        quantized.is_changed(part.class_name, part.config) for part in parts
    )


def _macs_of_fixed(layer: Layer, node: Node, given: classes.Shape | None) -> int | None:
    """Of a layer that Keras has quantized, or given LoRA factors: of the kernels as they were."""
    plain = replace(node, config=quantized.plain_config(node.config))
    inner = node.wrapped[0][1] if len(node.wrapped) == 1 else node
    weights = []
    for spec in specs(plain):
        tensor = layer.by_role.get(spec.role)
        shape = tensor.shape if tensor is not None else (1,)  # a bias that is not there
        if tensor is not None and isinstance(tensor.encoding, Fixed):
            held = tensor.encoding.held
            kernel = quantized.plain_shape(inner.class_name, inner.config, shape, held)
            if kernel is None or None in kernel:
                return None
            shape = tuple(n for n in kernel if n is not None)
        weights.append(shape)
    return shapes.macs(plain, weights, given)
