"""What can be said of the network as a graph, without running it."""

from __future__ import annotations

import math
from dataclasses import replace

from modelcut.errors import InputError, ModelcutError
from modelcut.graph import call_counts, shapes
from modelcut.graph.architecture import Node, specs
from modelcut.graph.keras import classes, quantized
from modelcut.graph.node import Path
from modelcut.model.encoding import Fixed
from modelcut.model.model import Layer, Model

MAX_VALUES = 1 << 30
"""Values of one sample's output of one layer; 4 GiB of float32."""


def check_sizes(model: Model) -> None:
    """Refuses a network whose layers declare outputs that no machine holds.

    Weights need no such look: the reader has checked what is declared against what is stored.

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

    A layer that is called several times, itself or with its submodel, counts each time; one that
    no output needs does not.

    Returns:
        Layer name -> count, for layers with weights, attentions, Dot and matmul; None where it
        cannot be told without running the network (an unknown class, an input of unknown size).
    """
    called: dict[Path, list[tuple[call_counts.Sources, int]]] | None = None
    if model.architecture is not None:
        try:
            found = call_counts.calls(model.architecture.root)
        except (ModelcutError, call_counts.TooManyError):
            found = None
        if found is not None:
            called = {}
            for (path, sources), times in found.items():
                called.setdefault(path, []).append((sources, times))
    counts: dict[str, int | None] = {}
    for layer in model.layers:
        node = layer.node
        if not layer.tensors and (node is None or not shapes.multiplies(node)):
            continue
        counts[layer.name] = None
        known = not layer.tensors or classes.is_known(layer.class_name)
        if node is None or not known or called is None:
            continue
        held = layer if _is_changed(layer, node) else None
        weights, total = [tensor.shape for tensor in layer.tensors], 0
        for sources, times in called.get(layer.path, ()):
            first, others = (*sources, None)[0], sources[1:]
            if held:
                count = _macs_of_fixed(held, node, first, others)
            else:
                count = shapes.macs(node, weights, first, others)
            if count is None:
                break
            total += count * times
        else:
            counts[layer.name] = total
    return counts


def _is_changed(layer: Layer, node: Node) -> bool:
    parts = [node, *(inner for _, inner in node.wrapped)]
    return any(isinstance(tensor.encoding, Fixed) for tensor in layer.tensors) or any(
        quantized.is_changed(part.class_name, part.config) for part in parts
    )


def _macs_of_fixed(
    layer: Layer, node: Node, given: classes.Shape | None, others: call_counts.Sources
) -> int | None:
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
    return shapes.macs(plain, weights, given, others)
