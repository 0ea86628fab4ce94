"""What can be said of the network as a graph, without running it."""

from __future__ import annotations

import math

from modelcut.errors import InputError, ModelcutError
from modelcut.graph import shapes
from modelcut.graph.keras import classes
from modelcut.model.model import Model

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
        if shape and 0 in shape:
            raise InputError(
                f"{model.origin.path}: layer {'/'.join(path)} has an output of size 0",
                "a network with such a layer computes nothing",
            )
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
        counts[layer.name] = (
            shapes.macs(node, weights, given.get(layer.path)) if node and known else None
        )
    return counts
